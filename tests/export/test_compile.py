"""``spectr-export compile`` with TensorRT-RTX, which needs no GPU to build; nothing here runs an engine."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorrt_rtx
import torch
from click.testing import CliRunner, Result
from rtx import VERSION

from spectr_export.cli import main
from spectr_export.compiled.compile import choose_key, choose_sizes
from spectr_export.compiled.tensorrt import BuildLimits, capabilities
from spectr_runtime import Bundle, Decoder, EngineError, UsageError
from spectr_runtime.bundle import Limits
from spectr_runtime.bundle.compiled import EngineKey
from spectr_runtime.bundle.engines import find_engine, list_engines


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def bundle(bundle_path: Path, tmp_path: Path) -> Path:
    output = tmp_path / "copy.bundle"
    shutil.copytree(bundle_path, output)
    return output


def compile_(bundle: Path, *options: object) -> Result:
    return run("compile", bundle, "--backend", "tensorrt-rtx", *options)


def test_compile_puts_engines_into_the_bundle_and_leaves_its_hash(bundle: Path) -> None:
    before = Bundle.open(bundle).sha256
    options = ("--compute-capability", "8.9", "--compute-capability", "8.0", "--tree-tokens", 17, "--capacity", 40)
    result = compile_(bundle, *options)
    assert result.exit_code == 0, result.output
    names = [f"tensorrt-rtx-{VERSION}-sm80-sm89-{slots}-slots" for slots in (192, 64)]
    lines = result.stdout.splitlines()
    assert [line.rsplit(": ", 1)[0] for line in lines] == [
        str(bundle / role / "engines" / f"{name}.engine") for role in ("draft", "target") for name in names
    ]
    opened = Bundle.open(bundle)
    assert opened.sha256 == before
    for name, slots, needed in zip(names, (192, 64), (65, 64), strict=True):
        path, compiled = find_engine(
            opened, "target", EngineKey("tensorrt-rtx", VERSION, ("8.0",)), rows=1, slots=needed
        )
        assert (path.name, compiled.capacity, compiled.rows) == (f"{name}.engine", slots, 32)
        assert (compiled.attention, compiled.weight_streaming) == ("decomposed", False)
        assert compiled.profiles[0].spans["L"].most == slots
        assert "logits" in (path.parent / f"{name}.layers.txt").read_text()
        said = f"target: tensorrt-rtx {VERSION} on compute capability 8.0, 8.9, up to 32 rows of {slots} slots"
        assert said in result.stderr
    assert {file.name for file in (bundle / "target" / "engines").iterdir()} == {
        f"{name}.{ending}" for name in names for ending in ("engine", "json", "layers.txt")
    }


def test_compiling_again_replaces_the_engines_of_all_sizes(bundle: Path) -> None:
    """Also those of before, whose names do not say a size; not those of other machines."""
    folder = bundle / "target" / "engines"
    assert compile_(bundle, "--compute-capability", "8.9", "--capacity", 40, "--batch-size", 2).exit_code == 0
    for file in folder.glob("*-192-slots.*"):
        file.rename(folder / file.name.replace("-192-slots", ""))
    other = folder / f"tensorrt-rtx-{VERSION}-sm89-sm120-192-slots.engine"
    other.write_bytes(b"of another machine")
    assert [one.rows for one in list_engines(Bundle.open(bundle), "target").values()] == [2, 2]
    assert compile_(bundle, "--compute-capability", "8.9", "--batch-size", 3).exit_code == 0
    ((path, compiled),) = list_engines(Bundle.open(bundle), "target").items()
    assert (compiled.rows, compiled.capacity) == (3, 192)
    assert {*folder.iterdir()} == {path, path.with_suffix(".json"), path.with_suffix(".layers.txt"), other}


def test_sizes_are_those_that_are_asked_for_and_the_bundles_own() -> None:
    """They fall, and those that come to the same number of slots are one."""
    sizes = choose_sizes(Limits(1000, 256), (200, 100, 1000, 990, 127), 64)
    assert [(size.capacity, size.tokens_per_call) for size in sizes] == [(1000, 256), (200, 256), (127, 256)]
    assert choose_sizes(Limits(1000, 256), (), 64) == [Limits(1000, 256)]


@pytest.mark.parametrize("capacity", [0, 129])
def test_a_capacity_that_the_bundle_does_not_have_is_refused(capacity: int) -> None:
    with pytest.raises(UsageError, match=rf"--capacity is {capacity}; it must be from 1 to 128, which the bundle"):
        choose_sizes(Limits(128, 32), (64, capacity), 64)


def test_the_command_refuses_a_capacity_before_it_compiles(bundle: Path) -> None:
    result = compile_(bundle, "--compute-capability", "8.9", "--capacity", 129)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: --capacity is 129; it must be from 1 to 128")
    assert not (bundle / "target" / "engines").exists()


def test_inspect_lists_engines_and_check_finds_a_swapped_one(bundle: Path) -> None:
    assert compile_(bundle, "--compute-capability", "12.0", "--capacity", 40, "--batch-size", 2).exit_code == 0
    engine = f"tensorrt-rtx {VERSION} on compute capability 12.0, up to 2 rows of"
    assert [line for line in run("inspect", bundle).stdout.splitlines() if "12.0" in line] == [
        f"engines     target: {engine} 128 slots",
        f"            target: {engine} 192 slots",
        f"            draft: {engine} 128 slots",
        f"            draft: {engine} 192 slots",
    ]
    assert "4 engines are as they were compiled" in run("check", bundle).stderr
    draft, target = (next((bundle / role / "engines").glob("*-192-slots.engine")) for role in ("draft", "target"))
    shutil.copy(draft, target)
    result = run("check", bundle)
    assert (result.exit_code, result.stdout) == (42, "")
    assert "is not the engine that was compiled" in result.stderr


def test_a_decoder_on_another_gpu_names_the_command_that_makes_its_engine(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compile_(bundle, "--compute-capability", "12.0", "--batch-size", 2).exit_code == 0
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    with pytest.raises(EngineError) as caught:
        Decoder(Bundle.open(bundle), plan="auto", backend="tensorrt-rtx", device="cuda", batch_size=2)
    assert caught.value.message.endswith(
        f" has no engine for tensorrt-rtx {VERSION} on compute capability 8.9, which this machine needs; "
        f"it has tensorrt-rtx {VERSION} on compute capability 12.0."
    )
    assert caught.value.hint == f"Run `spectr-export compile {bundle} --backend tensorrt-rtx` on this machine."


def test_without_a_gpu_compile_asks_for_a_capability(bundle: Path) -> None:
    result = compile_(bundle)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: There is no GPU to compile for: ")
    assert result.stderr.splitlines()[-1].endswith("--backend tensorrt-rtx --compute-capability 8.9.")


def test_a_capability_that_is_not_known_is_refused_with_those_that_are(bundle: Path) -> None:
    result = compile_(bundle, "--compute-capability", "8.9", "--compute-capability", "5.2")
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: TensorRT-RTX {VERSION} does not compile for compute capability 5.2; "
        f"it must be one of {', '.join(capabilities(tensorrt_rtx))}.\n"
    )


def test_options_of_the_other_flavour_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--timing-cache is for TensorRT"):
        choose_key("tensorrt-rtx", ["8.9"], BuildLimits(timing_cache=Path("timings")))
    monkeypatch.setattr("spectr_export.compiled.compile.load_tensorrt", lambda flavour: SimpleNamespace())
    with pytest.raises(UsageError, match="--compute-capability is for TensorRT-RTX"):
        choose_key("tensorrt", ["8.9"], BuildLimits())
