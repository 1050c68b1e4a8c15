"""Checks that the files of a bundle are those that its manifest lists, and that they refer to no others.

Anyone can make a bundle, with hashes that fit. So everything that it refers to must lie inside it, or else opening a
bundle could read other files of the machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spectr_runtime.errors import BundleError
from spectr_runtime.files import file_sha256

if TYPE_CHECKING:
    import onnx

DISTRUST = "Do not use this bundle."
AGAIN = "Copy the bundle again, or build it again."


def check_files(folder: Path, files: Mapping[str, str], manifest: str) -> None:
    """Check that every listed file exists, lies inside the folder and has the listed hash.

    Args:
        folder: The bundle.
        files: SHA-256 of each file, by its path in the folder with forward slashes.
        manifest: Name of the file that lists them, for messages.

    Raises:
        BundleError: A file fails; the message names the first one.
    """
    for name, expected in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{manifest} names {name!r}, which lies outside the bundle.", hint=DISTRUST)
        if not path.is_file():
            raise BundleError(f"{name} is missing from the bundle {folder}.", hint=AGAIN)
        if file_sha256(path) != expected:
            raise BundleError(
                f"{name} in the bundle {folder} is not the file that was built: its SHA-256 differs from {manifest}.",
                hint=AGAIN,
            )


def check_strangers(folder: Path, files: Mapping[str, str], parts: Sequence[str], derived: str) -> None:
    """Check that the folders of models and tokenizer hold only listed files, because libraries read them as a whole.

    Args:
        folder: The bundle.
        files: The listed files, by path.
        parts: Names of the folders.
        derived: Name of the folder inside them whose files have records of their own.

    Raises:
        BundleError: A file is not listed; the message names it.
    """
    for part in parts:
        for path in sorted((folder / part).rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_dir() or name in files or name.startswith(f"{part}/{derived}/"):
                continue
            raise BundleError(
                f"{name} is in the bundle {folder}, but the manifest does not list it.",
                hint="Remove it, or copy the bundle again.",
            )


def check_graphs(folder: Path, files: Mapping[str, str]) -> None:
    """Check that the weights of every graph are bytes of a listed file beside the graph.

    Args:
        folder: The bundle, whose files were checked.
        files: The listed files, by path.

    Raises:
        BundleError: A file is not a graph, or refers to bytes outside the files of the bundle.
    """
    for name in files:
        if name.endswith(".onnx"):
            _check_graph(folder, name, files)


def _check_graph(folder: Path, name: str, files: Mapping[str, str]) -> None:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load(folder / name, load_external_data=False).graph
    except DecodeError as error:
        raise BundleError(f"{name} in the bundle {folder} is not an ONNX graph.", hint=AGAIN) from error
    sizes: dict[str, int] = {}
    for tensor in _tensors(graph):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if not entries:
            continue
        target = f"{name.rpartition('/')[0]}/{entries.get('location')}"
        if target not in files:
            raise BundleError(
                f"{name} takes {tensor.name} from {entries.get('location')!r}, which is not a file of the bundle.",
                hint=DISTRUST,
            )
        size = sizes.setdefault(target, (folder / target).stat().st_size)
        start, length = _whole(entries.get("offset", "0")), _whole(entries.get("length", "0"))
        if start is None or length is None or start + length > size:
            raise BundleError(
                f"{name} takes {tensor.name} from offset {entries.get('offset')} of {target}, "
                f"{entries.get('length')} bytes; the file has {size}.",
                hint=DISTRUST,
            )


def _whole(text: str) -> int | None:
    """Return a whole number that is written in plain digits, of fewer than twenty; None for any other text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the initializers and constants of a graph and of the graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
