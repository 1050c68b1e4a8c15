"""Put the summaries of runs side by side and show two completions; the end of ``make demo``.

python examples/show_demo.py build/demo/run build/demo/auto build/demo/plain --prompts examples/prompts.jsonl
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

SHOWN = 2
WORTH_SHOWING = 100  # characters


def comparison(summaries: Sequence[Mapping[str, Any]]) -> str:
    """A table of the summaries, speeds beside that of the last."""
    last = summaries[-1]["tokens_per_second"]
    columns = [
        [
            summary["plan"],
            f"{summary['rows']}",
            f"{summary['completion_tokens']}",
            f"{summary['tokens_per_second']:.0f} ({summary['tokens_per_second'] / last:.2f}x)",
            f"{summary['rounds']}",
            f"{summary['block_efficiency']:.2f}",
            " ".join(f"{share:.2f}" for share in summary["acceptance_by_depth"][:4]) or "-",
        ]
        for summary in summaries
    ]
    names = ("", "rows", "tokens written", "tokens/s", "rounds of rows", "block efficiency", "acceptance by depth")
    return "\n".join(
        f"{name:<22}" + "".join(f"{cell:<24}" for cell in cells).rstrip()
        for name, *cells in zip(names, *columns, strict=True)
    )


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
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--prompts", type=click.Path(path_type=Path, exists=True), required=True, help="The prompts of all runs.")
def main(runs: tuple[Path, ...], prompts: Path) -> None:
    """Show completions of the first of RUNS and compare all with the last."""
    click.echo(f"\n{completions(runs[0], prompts)}\n")
    click.echo(comparison([json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in runs]))
    click.echo(f"\ncompletions: {runs[0] / 'output.jsonl'}")


if __name__ == "__main__":
    main()
