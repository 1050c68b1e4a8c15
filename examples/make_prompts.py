"""Write ``prompts.jsonl``: the beginnings of functions that the demo pair was not trained on.

    python examples/make_prompts.py --output examples/prompts.jsonl

The functions come from the standard library modules that ``train_demo_pair.py`` holds out. Records alternate between
the two shapes that ``spectr-batch`` reads: plain objects and lines of the OpenAI Batch API.
"""

from __future__ import annotations

import ast
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import click
from train_demo_pair import corpus_files

COUNT = 72
LINES_BEFORE = 12  # lines of the file shown above a function
MAX_CHARACTERS = 1200
MAX_TOKENS = 64
STOP = ["\nclass ", "\ndef "]


def beginnings(path: Path) -> Iterator[tuple[str, str]]:
    """Name and beginning of every documented function of a module: what stands above it, its head and its docstring."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef) or ast.get_docstring(node) is None or len(node.body) < 2:
            continue
        docstring_end = node.body[0].end_lineno or node.lineno
        start = max(0, node.lineno - 1 - LINES_BEFORE)
        text = "".join(lines[start:docstring_end]).rstrip("\n")
        if len(text) <= MAX_CHARACTERS:
            yield f"{path.stem}.{node.name}", text


def choose(paths: list[Path]) -> list[tuple[str, str]]:
    """The first functions of every module in turn, until there are enough; names are unique."""
    columns = [list(dict(beginnings(path)).items()) for path in paths]
    chosen = [column[place] for place in range(max(map(len, columns))) for column in columns if place < len(column)]
    if len(chosen) < COUNT:
        raise click.ClickException(f"found {len(chosen)} functions, need {COUNT}")
    return chosen[:COUNT]


def record(place: int, name: str, prompt: str) -> dict[str, object]:
    """One line of the file: even places plain, odd places as the OpenAI Batch API has them."""
    sampling = {"prompt": prompt, "max_tokens": MAX_TOKENS, "stop": STOP}
    if place % 2 == 0:
        return {"id": name, **sampling, "module": name.split(".")[0]}
    body = {"model": "demo", **sampling}
    return {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": body}


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="JSONL file to write.")
def main(output: Path) -> None:
    """Write the demo prompts."""
    _, held_out = corpus_files(Path(sysconfig.get_path("stdlib")))
    rows = [record(place, *one) for place, one in enumerate(choose(held_out))]
    output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    click.echo(f"{len(rows)} prompts in {output}", err=True)


if __name__ == "__main__":
    main()
