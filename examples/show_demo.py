"""Put the summaries of runs side by side, show two completions, and draw the speeds; the end of ``make demo``.

python examples/show_demo.py build/demo/run build/demo/auto build/demo/plain --prompts examples/prompts.jsonl
"""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

SHOWN = 2
WORTH_SHOWING = 100  # characters
SAME_TEXT = ("auto", "race")  # the first words of plans that write the text of plain decoding
WIDTH, LEFT, RIGHT, BAR, ROOM = 700, 120, 225, 26, 40  # of the picture, in pixels
COLOURS = ("#64748b", "#1b9e8a", "#2f6fde")


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


def agreement(summaries: Sequence[Mapping[str, Any]], texts: Sequence[Mapping[str, str]]) -> str:
    """What every run's texts have in common with the last run's, row by row."""
    said = []
    for summary, written in zip(summaries[:-1], texts[:-1], strict=True):
        plan, last = summary["plan"], summaries[-1]["plan"]
        if plan.startswith(SAME_TEXT):
            same = sum(written.get(name) == text for name, text in texts[-1].items())
            said.append(f"{plan} wrote the same text as {last} in {same} of {len(texts[-1])} rows")
        else:
            said.append(f"{plan} keeps the law of {last}, not its text: its rows are other draws")
    return "\n".join(said)


def picture(summaries: Sequence[Mapping[str, Any]], note: str) -> str:
    """An SVG with a bar for each run's tokens per second, the last run on top and the others beside it as ratios."""
    base = summaries[-1]["tokens_per_second"]
    scale = (WIDTH - LEFT - RIGHT) / max(summary["tokens_per_second"] for summary in summaries)
    parts = []
    for place, summary in enumerate(reversed(summaries)):
        speed, top = summary["tokens_per_second"], 44 + place * ROOM
        told = f"{speed:.0f} tokens/s" + (f" · {speed / base:.2f} times" if place else "")
        parts.append(
            f'<text x="{LEFT - 10}" y="{top + 18}" text-anchor="end">{html.escape(summary["plan"])}</text>'
            f'<rect x="{LEFT}" y="{top}" width="{speed * scale:.1f}" height="{BAR}" rx="3" '
            f'fill="{COLOURS[place % len(COLOURS)]}"/>'
            f'<text x="{LEFT + speed * scale + 10:.1f}" y="{top + 18}" font-weight="600">{told}</text>'
        )
    height = 44 + len(summaries) * ROOM + 26
    label = html.escape("Tokens per second of the demo")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{label}" font-family="system-ui, sans-serif" font-size="14" fill="#1e293b">'
        f'<title>{label}</title><rect width="{WIDTH}" height="{height}" rx="8" fill="#f8fafc"/>'
        f'<text x="16" y="27" font-size="15" font-weight="600">{label}</text>{"".join(parts)}'
        f'<text x="16" y="{height - 12}" font-size="12" fill="#475569">{html.escape(note)}</text></svg>\n'
    )


def completions(texts: Mapping[str, str], prompts: Path) -> str:
    """The ends of the first prompts that got more than a line, and what was written behind them."""
    asked = {}
    for line in prompts.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        asked[record.get("id") or record["custom_id"]] = record.get("prompt") or record["body"]["prompt"]
    worth_showing = [name for name, text in texts.items() if len(text) >= WORTH_SHOWING] or list(texts)
    pieces = []
    for name in worth_showing[:SHOWN]:
        end_of_prompt = _quoted("\n".join(asked[name].splitlines()[-4:]), "| ")
        pieces.append(f"--- {name}\n{end_of_prompt}\n{_quoted(texts[name].strip(chr(10)), '> ')}")
    return "\n\n".join(pieces)


def read_texts(run: Path) -> dict[str, str]:
    """What a run wrote, by the id of the record."""
    rows = [json.loads(line) for line in (run / "output.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row.get("custom_id") or row["id"]: _text(row) for row in rows}


def _quoted(text: str, mark: str) -> str:
    return textwrap.indent(text, mark, lambda line: True)


def _text(row: Mapping[str, Any]) -> str:
    return str(row["text"] if "text" in row else row["response"]["body"]["choices"][0]["text"])


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--prompts", type=click.Path(path_type=Path, exists=True), required=True, help="The prompts of all runs.")
@click.option("--picture", "drawn", type=click.Path(path_type=Path), help="SVG file to draw the speeds into.")
@click.option("--note", default="", help="A line that stands below the table and in the picture.")
def main(runs: tuple[Path, ...], prompts: Path, drawn: Path | None, note: str) -> None:
    """Show completions of the first of RUNS and compare all with the last."""
    summaries = [json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in runs]
    texts = [read_texts(run) for run in runs]
    click.echo(f"\n{completions(texts[0], prompts)}\n\n{comparison(summaries)}\n\n{agreement(summaries, texts)}")
    if note:
        click.echo(note)
    if drawn is not None:
        drawn.write_text(picture(summaries, note), encoding="utf-8")
        click.echo(f"picture: {drawn}")
    click.echo(f"completions: {runs[0] / 'output.jsonl'}")


if __name__ == "__main__":
    main()
