"""The command `spectr-export`: build, compile, inspect and check bundles."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spectr_export.process import settle
from spectr_runtime.backends import BACKENDS, FLAVOURS

# torch and transformers take seconds to import, so each command imports its modules when it runs.
if TYPE_CHECKING:
    from spectr_runtime.backends import Backend, Flavour


def _example(*commands: str) -> str:
    """Return the end of a help page; the backspace character keeps click from reflowing the lines."""
    return "\b\nExample:\n" + "\n".join(f"  {command}" for command in commands)


BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog=_example(
        "spectr-export build Qwen/Qwen2.5-7B --draft Qwen/Qwen2.5-0.5B -o qwen.bundle",
        "spectr-export build Qwen/Qwen2.5-7B -o plain.bundle",
        "spectr-export inspect qwen.bundle",
    ),
)
@click.version_option(package_name="spectr")
def main() -> None:
    """Turn a causal language model, and usually a small one that drafts for it, into a bundle for spectr-batch."""


@main.command(
    epilog=_example("spectr-export build examples/demo_pair/target --draft examples/demo_pair/draft -o demo.bundle")
)
@click.argument("target")
@click.option(
    "--draft",
    help="The small model that drafts, or a head of EAGLE-3 on TARGET, given as TARGET is; int8, int4, int4-asymmetric "
    "or fp8 for a copy of TARGET in that precision.  [default: none; what texts hold already is drafted]",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The folder of the new bundle.")
@click.option("--capacity", type=int, help="Longest text in tokens, prompt and completion together.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    help="Type of the weights, the cache and the arithmetic: float32 for CPUs, bfloat16 or float16 for GPUs.",
)
@click.option(
    "--quantise",
    type=click.Choice(["int8", "int4", "int4-asymmetric", "fp8"]),
    help="Store the matrices of the models' layers in int8, rounding what they are multiplied with to 8 bits row by "
    "row; in int4 and compute in --dtype; int4-asymmetric has a minimum for each block too, and loses less. Or store "
    "them in fp8 (E4M3) and multiply in fp8 too, with TensorRT on GPUs of compute capability 8.9 or later.  "
    "[default: as the checkpoint has them]",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="UTF-8 file; on its first 512 tokens are measured what a precision loses, how often drafts are accepted and, "
    "for fp8, the scales of the inputs; the next 2048 are read to round to int4, and 512 of these for the scales of "
    "int8.  [default: sources of Python's modules]",
)
@click.option(
    "--config",
    metavar="KEY=VALUE",
    multiple=True,
    help="Replace a field of both models' config.json, or of one's with target.KEY or draft.KEY; may be repeated. "
    "KEY may lead into an object with dots. VALUE is JSON, or text if it is not.",
)
@click.option("--overwrite", is_flag=True, help="Replace the bundle at this path.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check the models, estimate the bundle's size and the memory and time of the build, and write nothing.",
)
def build(output: Path, overwrite: bool, dry_run: bool, dtype: str, quantise: str | None, **options: Any) -> None:
    """Build a bundle from TARGET and its draft, if any: each a folder, a GGUF file or a hub id.

    Hub ids are owner/name or owner/name/FILE.gguf, with or without @revision. A quantised checkpoint stays in its own
    blocks unless --quantise is given. Weights are read from safetensors and GGUF only; those of a head, from
    pytorch_model.bin too, of which nothing but tensors is read.

    Graphs are compared with the original models before the bundle appears. The build fails if they differ by more than
    rounding, or if the target's precision loses more than 0.02 (half precision), 0.05 (int8, fp8) or 0.3 (int4) nats
    per token. What a draft loses is told, and how often the target accepts its tokens.
    """
    settle()
    with _reporting_errors():
        from spectr_export.build import build as build_bundle
        from spectr_export.preparation import BuildOptions
        from spectr_export.storing.precision import Precision

        _quieten_transformers()
        wanted = BuildOptions(precision=Precision(dtype, quantise or "none"), **options)
        if dry_run:
            from spectr_export.rehearsal import rehearse

            click.echo(rehearse(wanted, _say))
            return
        built = build_bundle(wanted, output, overwrite=overwrite, say=_say)
        parity = max(max(stages.values()) for stages in built.manifest.parity.values())
        click.echo(
            f"{output}: {built.size / 1e6:.1f} MB, capacity {built.manifest.limits.capacity}, "
            f"logits within {parity:.1e} of transformers, {built.seconds:.0f} s"
        )


@main.command(
    "compile",
    epilog=_example(
        "spectr-export compile demo.bundle",
        "spectr-export compile demo.bundle --capacity 256 --capacity 512",
        "spectr-export compile demo.bundle --backend tensorrt-rtx --compute-capability 8.9 --compute-capability 12.0",
    ),
)
@BUNDLE
@click.option(
    "--backend",
    default="tensorrt",
    type=click.Choice(FLAVOURS),
    help="What will run the engines.",
)
@click.option(
    "--compute-capability",
    "compute_capabilities",
    metavar="X.Y",
    multiple=True,
    help="With TensorRT-RTX, the GPUs to compile for, which this machine need not have; may be repeated.  [default: "
    "this machine's GPU]",
)
@click.option(
    "--capacity",
    "capacities",
    metavar="N",
    multiple=True,
    type=click.IntRange(min=1),
    help="Compile an engine for texts of up to N tokens too, which takes less memory for each row; may be repeated. "
    "Each engine is a file with all weights.  [default: one for the bundle's capacity alone]",
)
@click.option("--batch-size", metavar="B", default=32, type=click.IntRange(min=1), help="Most rows decoded together.")
@click.option(
    "--tree-tokens",
    metavar="N",
    default=64,
    type=click.IntRange(min=1, max=256),
    help="Most tokens of a draft tree, including its root: K drafts of length L need K x L + 1.",
)
@click.option("--memory", metavar="GIB", type=click.FloatRange(min=0, min_open=True), help="Most workspace of a layer.")
@click.option("--weight-streaming", is_flag=True, help="Let weights that do not fit on the GPU be read from the host.")
@click.option(
    "--timing-cache",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With TensorRT, keep the kernel timings in this file, so that the next build is faster.",
)
def compile_engines(
    bundle: Path,
    backend: Flavour,
    compute_capabilities: tuple[str, ...],
    capacities: tuple[int, ...],
    batch_size: int,
    tree_tokens: int,
    memory: float | None,
    weight_streaming: bool,
    timing_cache: Path | None,
) -> None:
    """Compile the graphs of BUNDLE to TensorRT engines.

    An engine belongs to one release of TensorRT and to one GPU (with TensorRT-RTX, to the GPUs of some compute
    capabilities). It is written into the bundle, whose hash does not change: runs that began before can go on.
    """
    with _reporting_errors():
        from spectr_export.compiled.compile import compile_bundle
        from spectr_export.compiled.tensorrt import BuildLimits
        from spectr_runtime.bundle import Bundle

        workspace = None if memory is None else int(memory * 2**30)
        written = compile_bundle(
            Bundle.open(bundle),
            backend,
            compute_capabilities=compute_capabilities,
            capacities=capacities,
            rows=batch_size,
            tree_tokens=tree_tokens,
            limits=BuildLimits(workspace, weight_streaming, timing_cache),
            say=_say,
        )
        for path in written:
            click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


@main.command(epilog=_example("spectr-export inspect demo.bundle --json | jq .limits"))
@BUNDLE
@click.option("--json", "as_json", is_flag=True, help="Print the manifest in JSON.")
def inspect(bundle: Path, as_json: bool) -> None:
    """Show the models, limits and engines of BUNDLE."""
    with _reporting_errors():
        from spectr_export.inspection import describe
        from spectr_runtime.bundle import Bundle

        opened = Bundle.look_at(bundle)
        click.echo(json.dumps(opened.manifest.to_json(), indent=2) if as_json else describe(opened))


@main.command(epilog=_example("spectr-export calibrate demo.bundle --batch-size 16"))
@BUNDLE
@click.option("--batch-size", metavar="B", default=8, type=click.IntRange(min=1), help="Rows decoded together.")
@click.option("--backend", default="onnxruntime", type=click.Choice(BACKENDS), help="The engines that run the models.")
@click.option("--device", metavar="NAME", default="cpu", help="The device that runs them, as torch names it.")
def calibrate(bundle: Path, batch_size: int, backend: Backend, device: str) -> None:
    """Measure what a round costs on this machine, for `spectr-batch run --plan auto`.

    The figures are kept in BUNDLE for this machine and backend; the bundle's hash does not change. Runs learn them by
    themselves and keep them in the user's cache, so this is for machines whose cache does not last.
    """
    with _reporting_errors():
        from spectr_export.calibrate import calibrate as calibrate_bundle
        from spectr_export.calibrate import render
        from spectr_runtime.bundle import Bundle

        _quieten_transformers()
        costs, path = calibrate_bundle(Bundle.open(bundle), backend=backend, device=device, rows=batch_size)
        click.echo(render(costs))
        _say(f"kept in {path}")


@main.command(epilog=_example("spectr-export check demo.bundle"))
@BUNDLE
def check(bundle: Path) -> None:
    """Check the hash of every file of BUNDLE, and compare its graphs with transformers again."""
    settle()
    with _reporting_errors():
        from spectr_export.build import check as check_bundle
        from spectr_runtime.bundle import Bundle
        from spectr_runtime.bundle.engines import check_engines

        _quieten_transformers()
        opened = Bundle.open(bundle)
        _say(f"{len(opened.manifest.files)} files are as they were built")
        if engines := check_engines(opened):
            _say(f"{engines} engines are as they were compiled")
        check_bundle(opened, _say)
        click.echo(f"{bundle}: sound")


def _say(line: str) -> None:
    click.echo(line, err=True)


@contextlib.contextmanager
def _reporting_errors() -> Iterator[None]:
    """Show an error that a user can cause as a message and a hint, and exit with its code."""
    from spectr_runtime.errors import SpectrError

    try:
        yield
    except SpectrError as error:
        click.echo("\n".join(filter(None, (f"Error: {error.message}", error.hint))), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


def _quieten_transformers() -> None:
    """Silence transformers' warnings and progress bars: spectr itself reports what a user needs to know of a model."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
