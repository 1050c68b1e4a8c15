"""Part f: one page of a result file, measured or predicted: a drawing and tables of Markdown beside it.

The drawing needs matplotlib: ``pip install '.[bench]'``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_day.day import Day
from gpu_day.goals import goals
from gpu_day.record import Record

Cells = Sequence[Mapping[str, Any]]
WORDS = {True: "yes", False: "no", None: "not measured"}
COLUMNS = (
    *("size", "rows", "plan", "tokens/s", "over plain", "tokens a pass", "ms a round", "bandwidth", "idle"),
    "texts of plain",
)
COLOURS = {"plain": "#444444", "auto": "#d55e00", "single": "#e69f00", "race": "#0072b2", "kseq": "#009e73"}


def measure(day: Day, record: Record) -> None:
    """Write ``.md`` and ``.svg`` beside the result file."""
    result, path = record.read(), record.path
    path.with_suffix(".md").write_text("\n".join(page(result, path.stem)) + "\n", encoding="utf-8")
    draw(result, path.with_suffix(".svg"))
    print(f"{path.with_suffix('.md')} and {path.with_suffix('.svg')}")


def page(result: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield the lines of the page."""
    predicted = "predicted" in result
    yield f"# {'Foretold for' if predicted else 'Measured on'} {_device(result)}, {result['date']}\n"
    yield f"![Speed beside plain decoding, and selection]({name}.svg)\n"
    yield from _model(result["predicted"]) if predicted else _statuses(result["parts"])
    yield "| goal | wanted | found | reached |"
    yield "|---|---|---|---|"
    for goal in goals(result):
        yield f"| {goal.what} | {goal.wanted} | {_number(goal.found)} | {WORDS[goal.reached]} |"
    for table in (_decoding, _texts, _selection, _engines):
        yield from table(result["parts"])


def _model(model: Mapping[str, float]) -> Iterator[str]:
    """Yield what the figures were foretold by."""
    kernel, issue, host, row = (f"{1e6 * model[name]:g}" for name in ("kernel", "issue", "host", "host_row"))
    yield "Rounds are replayed: a pass of the target reads its bytes or multiplies, whichever takes longer, and each"
    yield f"other operator takes {kernel} microseconds; if issued one by one, at least {issue}. The host takes"
    yield f"{host} microseconds between rounds and {row} for each row, as if nothing of it were hidden. Operators are"
    yield "counted and acceptance is measured, on a CPU.\n"


def _device(result: Mapping[str, Any]) -> str:
    if "predicted" in result:
        model = result["predicted"]
        return f"a GPU of {model['bandwidth'] / 1e12:.2f} TB/s and {model['arithmetic'] / 1e12:.0f} TFLOP/s"
    gpu = result.get("gpu")
    return f"{gpu['name']}, {gpu['memory']}, driver {gpu['driver']}, CUDA {gpu['cuda']}" if gpu else result["processor"]


def _number(found: float | None) -> str:
    return "" if found is None else f"{found:.3g}"


def _statuses(parts: Mapping[str, Any]) -> Iterator[str]:
    """Yield how the parts ended, and what the tests said."""
    for part, facts in parts.items():
        said = [facts[name] for name in ("status", "closing", "left_out") if facts.get(name)]
        said += facts.get("failures", [])
        if said:
            yield f"- part {part}: {'; '.join(said)}"
    yield ""


def _decoding(parts: Mapping[str, Any]) -> Iterator[str]:
    cells = list(parts.get("b", {}).get("cells", {}).values())
    if not cells:
        return
    yield "\n## Decoding\n"
    yield "Tokens per second of a full batch, beside those of plain decoding in the same repeat.\n"
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    for cell in cells:
        start = f"| {cell['size']} | {cell['rows']} | {cell['plan']} |"
        if "error" in cell:
            yield f"{start} {cell['error']} | | | | | | |"
            continue
        speeds = _spread(cell["tokens_per_second"]), _spread(cell.get("to_plain"))
        shares = [_number(cell.get(name)) for name in ("bandwidth_share", "idle")]
        texts = "" if cell.get("texts_of_plain") is None else str(cell["texts_of_plain"])
        rest = [*speeds, f"{cell['tokens_per_pass']:.2f}", f"{1e3 * cell['round_seconds']:.3g}", *shares, texts]
        yield f"{start} {' | '.join(rest)} |"


def _spread(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    if "least" not in found:
        return f"{found['median']:.4g}"
    return f"{found['median']:.4g} ({found['least']:.4g} to {found['most']:.4g})"


def _texts(parts: Mapping[str, Any]) -> Iterator[str]:
    part = parts.get("c", {})
    if "cells" not in part:
        return
    yield "\n## Texts\n"
    yield f"Of {part['rows']} rows of {part['tokens']} tokens, {part['size']}: texts that are not plain decoding's."
    yield "Seconds are those of all rows; one shape costs what plain decoding takes more.\n"
    yield "| type, shapes | way | other texts | seconds |"
    yield "|---|---|---|---|"
    for name, ways in part["cells"].items():
        for way, figures in ways.items():
            yield f"| {name} | {way} | {figures['differ']} of {figures['of']} | {figures['seconds']:.3g} |"


def _selection(parts: Mapping[str, Any]) -> Iterator[str]:
    part = parts.get("d", {})
    if "cells" not in part:
        return
    yield "\n## Selection\n"
    yield "Microseconds of a selection, and the share of the bandwidth at which it would read its laws once.\n"
    yield "| V | rows | rule | MiB of laws | eager | share | captured | share |"
    yield "|---|---|---|---|---|---|---|---|"
    for cell in part["cells"].values():
        ways = " | ".join(_way(cell.get(way)) for way in ("eager", "captured"))
        yield f"| {cell['V']} | {cell['rows']} | {cell['rule']} | {cell['bytes'] / 2**20:.1f} | {ways} |"


def _way(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return " | "
    return f"{found['error']} | " if "error" in found else f"{1e6 * found['seconds']:.3g} | {found['share']:.2f}"


def _engines(parts: Mapping[str, Any]) -> Iterator[str]:
    cells = parts.get("e", {}).get("cells", {})
    if not cells:
        return
    yield "\n## Other engines\n"
    for step, figures in cells.items():
        speed = figures.get("tokens_per_second")
        told = f"{figures.get('seconds', 0)} s" + ("" if speed is None else f", {speed} tokens/s")
        yield f"- {step}: {figures['error'].splitlines()[-1] if 'error' in figures else told}"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw speed over plain decoding by plan and rows for every size, and selection beside the bandwidth."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    decoded = [one for one in result["parts"].get("b", {}).get("cells", {}).values() if "to_plain" in one]
    sizes = list(dict.fromkeys(cell["size"] for cell in decoded))
    selected = list(result["parts"].get("d", {}).get("cells", {}).values())
    with rc_context({"font.size": 9, "axes.titlesize": 10, "svg.fonttype": "path", "svg.hashsalt": "spectr"}):
        figure = Figure(figsize=(5.5 * (len(sizes) + 1), 4), layout="constrained")
        *speeds, selection = figure.subplots(1, len(sizes) + 1, squeeze=False)[0]
        for panel, size in zip(speeds, sizes, strict=True):
            _draw_speeds(panel, size, [cell for cell in decoded if cell["size"] == size])
        _draw_selection(selection, selected)
        figure.suptitle(f"{'Foretold for' if 'predicted' in result else 'Measured on'} {_device(result)}")
        figure.savefig(path, metadata={"Date": None})


def _draw_speeds(panel: Any, size: str, cells: Cells) -> None:
    for plan in dict.fromkeys(cell["plan"] for cell in cells):
        mine = sorted((cell["rows"], cell["to_plain"]["median"]) for cell in cells if cell["plan"] == plan)
        rule, *sizes = plan.split(":")
        panel.plot(
            *zip(*mine, strict=True),
            ".-",
            color=COLOURS[rule],
            label=plan,
            alpha=1 if sizes[1:] in ([], ["4"]) else 0.4,
        )
    panel.set_xscale("log", base=2)
    highest = max(cell["to_plain"]["median"] for cell in cells)
    panel.set(title=f"{size}: speed over plain decoding", xlabel="rows", ylim=(0, 1.4 * highest))
    panel.legend(frameon=False, fontsize=6, ncols=5, loc="upper center")
    panel.grid(color="#dddddd", linewidth=0.6)


def _draw_selection(panel: Any, cells: Cells) -> None:
    shown = [cell for cell in cells if "seconds" in (cell.get("captured") or cell["eager"]) and cell["rule"] == "kseq"]
    names = [f"V={cell['V']}, {cell['rows']} rows" for cell in shown]
    for place, way in enumerate(("eager", "captured")):
        mine = [1e6 * cell.get(way, {}).get("seconds", 0) for cell in shown]
        panel.barh([row + 0.4 * place for row in range(len(shown))], mine, 0.38, label=way)
    panel.set_yticks([row + 0.2 for row in range(len(shown))], names)
    panel.set(title="K-SEQ's selection, K = L = 4", xlabel="microseconds")
    panel.legend(frameon=False, fontsize=7)
