"""What builds take and give: ``streaming.py``, ``building.py`` and ``real.py``."""

from __future__ import annotations

from typing import Any

from quoting.words import measured, numeral, table

CASES = {
    "demo": "the demo pair",
    "checkpoint": "SmolLM2-135M-Instruct with its int8 copy",
    "llama-125m": "llama, 12 layers, 125 million",
    "deep": "llama, 40 layers, 134 million",
    "wide": "llama, 4 layers, 246 million",
    "billion": "llama, 5 layers, 1,017 million",
}
REAL = {"smollm2-135m-instruct": "SmolLM2-135M-Instruct, Q4_1", "gemma-3-270m": "Gemma 3 270M, Q4_K_M"}


def streaming(result: dict[str, Any]) -> str:
    """The most that builds of large checkpoints allocate."""
    builds = result["builds"]
    rows = [
        (
            f"{build['architecture']}, {build['layers']} layers, {build['parameters'] / 1e9:.1f} billion parameters",
            ", ".join(build["options"]).replace("--dtype=", "").replace("--quantise=", "") or "float32",
            *(f"{build[key] / 1e9:.1f} GB" for key in ("peak_anonymous_bytes", "limit_bytes", "bundle_bytes")),
            f"{build['seconds'] / 60:.0f} min",
        )
        for build in builds
    ]
    return (
        "The most that a build allocates, from random checkpoints in bfloat16 with shards of 2 GB, "
        f"{measured(result)}, where the system's load was {result['load']}, so that times are what such a build takes "
        "at most. The script holds builds to a limit of 1.3 shards and 2 GB.\n\n"
        + table(("checkpoint", "stored in", "allocated", "limit", "bundle", "time"), rows)
    )


def building(result: dict[str, Any]) -> str:
    """Seconds of whole builds, those of an earlier revision beside them where there are any, and what was foretold."""
    builds = result["builds"]
    trees = [tree for tree in ("before", "now") if any(tree in build for build in builds)]
    rows = []
    for build in builds:
        seconds = [f"{build[tree]['wall_seconds']:.0f}" if tree in build else "" for tree in trees]
        work = [f"{build[tree]['processor_seconds']:.0f}" if tree in build else "" for tree in trees]
        writing = f"{build['seconds_to_write_the_bytes']:.1f}"
        rows.append((CASES[build["case"]], *seconds, *work, f"{build['now']['foretold_seconds']:.0f}", writing))
    named = {"before": " before", "now": " now" if len(trees) > 1 else ""}
    heads = [f"{what}{named[tree]}" for what in ("seconds", "processor seconds") for tree in trees]
    where = f"at revision {result['before']} and at the present one, in turns," if len(trees) > 1 else "measured"
    times = [build["now"]["wall_seconds"] / build["seconds_to_write_the_bytes"] for build in builds]
    return (
        f'Whole builds, {where} {measured(result)}. "Foretold" is the estimate of the dry run, "writing" how long the '
        "disk takes to write as many bytes as the bundle has.\n\n"
        + table(("build", *heads, "foretold", "writing"), rows)
        + f"\n\nA build takes at least {min(times):.0f} times as long as writing its bytes."
    )


def real(result: dict[str, Any]) -> str:
    """Published files: how long they take to build, how near they come to transformers, and how fast they are."""
    rows = []
    for name, model in result["models"].items():
        for backend, found in model["backends"].items():
            short = [one["short_by"] for one in found["different"]]
            rows.append(
                (
                    *(REAL.get(name, name), backend, f"{model['build']['seconds']:.0f} s"),
                    f"{max(model['parity'].values()):.1e}",
                    f"{found['equal']} of {found['texts']}",
                    f"at most {max(short):.2f}" if short else "-",
                    f"{found['tokens_per_second']:.0f}",
                )
            )
    heads = (
        "model",
        "backend",
        "build",
        "logits within",
        "texts equal",
        "tokens that differ fall short by",
        "tokens/s",
    )
    return (
        f"`make real` builds {numeral(len(result['models']))} published GGUF files and decodes 64 prompts with each at "
        f"temperature 0, {result['tokens']} tokens at most, {measured(result, 'transformers', 'onnxruntime', 'torch')}:"
        " questions, extraction, rewriting, code, other scripts, prose; those of a chat as messages where the model "
        "has a template. A text is equal if every token is the best one of transformers in float32 on the dequantised "
        f"file.\n\n{table(heads, rows)}"
    )


QUOTES = {
    "streaming": ("streaming.json", streaming),
    "building": ("building.json", building),
    "real": ("real.json", real),
}
