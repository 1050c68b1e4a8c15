"""Put the summaries of two runs side by side and show two completions; the end of ``make demo``.

python examples/show_demo.py build/demo/run build/demo/plain --prompts examples/prompts.jsonl
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

SHOWN = 2
WORTH_SHOWING = 100  # characters


def comparison(speculative: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    """A table of both summaries."""
    by_depth = " ".join(f"{share:.2f}" for share in speculative["acceptance_by_depth"])
    ratio = speculative["tokens_per_second"] / plain["tokens_per_second"]
    rows = [
        ("", speculative["plan"], plain["plan"]),
        ("rows", *(f"{one['rows']}" for one in (speculative, plain))),
        ("tokens written", *(f"{one['completion_tokens']}" for one in (speculative, plain))),
        ("tokens/s", f"{speculative['tokens_per_second']:.0f} ({ratio:.2f}x)", f"{plain['tokens_per_second']:.0f}"),
        ("target passes", *(f"{one['rounds']}" for one in (speculative, plain))),
        ("block efficiency", *(f"{one['block_efficiency']:.2f}" for one in (speculative, plain))),
        ("acceptance by depth", by_depth, "-"),
    ]
    return "\n".join(f"{name:<22}{left:<24}{right}" for name, left, right in rows)


def completions(run: Path, prompts: Path) -> str:
    """The ends of the first prompts that got more than a line, and what was written behind them."""
    asked = {}
    for line in prompts.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        asked[record.get("id") or record["custom_id"]] = record.get("prompt") or record["body"]["prompt"]
    written = [json.loads(line) for line in (run / "output.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = {row.get("custom_id") or row["id"]: _text(row) for row in written}
    worth_showing = [name for name, text in texts.items() if len(text) >= WORTH_SHOWING] or list(texts)
    pieces = []
    for name in worth_showing[:SHOWN]:
        end_of_prompt = _quoted("\n".join(asked[name].splitlines()[-4:]), "| ")
        pieces.append(f"--- {name}\n{end_of_prompt}\n{_quoted(texts[name].strip(chr(10)), '> ')}")
    return "\n\n".join(pieces)


def _quoted(text: str, mark: str) -> str:
    return textwrap.indent(text, mark, lambda line: True)


def _text(row: Mapping[str, Any]) -> str:
    return str(row["text"] if "text" in row else row["response"]["body"]["choices"][0]["text"])


@click.command()
@click.argument("speculative", type=click.Path(path_type=Path, exists=True))
@click.argument("plain", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--prompts", type=click.Path(path_type=Path, exists=True), required=True, help="The prompts of both runs."
)
def main(speculative: Path, plain: Path, prompts: Path) -> None:
    """Compare a speculative run with a plain one."""
    summaries = [json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in (speculative, plain)]
    click.echo(f"\n{completions(speculative, prompts)}\n")
    click.echo(comparison(*summaries))
    click.echo(f"\ncompletions: {speculative / 'output.jsonl'}")


if __name__ == "__main__":
    main()
