"""Time and memory of selection against one copy of the laws that it selects from.

    OMP_NUM_THREADS=1 python benchmarks/selection.py

Every rule selects from the same laws, interleaved with a copy of them into memory at hand: target [B, N, V] and draft
[B, P, V] in float32. Reported are medians over the repeats, of times and of the ratio to the copy in the same repeat;
a slow rule has fewer repeats, at the largest sizes one. `overhead` is the same selection over 64 tokens, which is what
it costs to issue its operations. Memory is the most that a selection holds at a time beside the laws.

What is measured is kept beside the result file as `.part.json` after every size: a run that was cut off goes on from
there when it is started again. The figure needs matplotlib: `pip install '.[bench]'`.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import torch
from figures.styles import COLOURS
from machine import machine
from quoting.selection import SHOWN, table, verdict

from spectr_select import RULES, DraftTree, Noise, draw, select
from spectr_select.portion import portions

# B rows, N tree nodes, P nodes with a draft law, V vocabulary.
VOCABULARIES = (4096, 32_768, 131_072, 262_144)
ROWS = (1, 8, 64)
DRAFTS = (1, 2, 4, 8)
LENGTHS = (4, 8)
MOST_BYTES = 12 * 2**30
COPY_BYTES = 2**30
PAIRS = 16
TINY = 64
SEVERAL = tuple(rule for rule in COLOURS if rule in RULES and RULES[rule].trees != "chain")


@dataclass(frozen=True, slots=True)
class Cell:
    """One size of a round."""

    vocabulary: int
    rows: int
    drafts: int
    length: int

    @property
    def tree(self) -> DraftTree:
        """As many paths of that length."""
        return DraftTree.paths(self.drafts, self.length)

    @property
    def bytes(self) -> int:
        """What the laws take, in float32."""
        return 4 * self.rows * self.vocabulary * (self.tree.size + self.tree.inner)

    @property
    def most_bytes(self) -> int:
        """What the laws, the copy's memory and the noise that a race keeps take."""
        return self.bytes + min(self.bytes, COPY_BYTES) + 8 * self.rows * self.vocabulary * (self.length + 1)

    @property
    def parts(self) -> int:
        """In how many portions the rows are selected."""
        return len(portions(self.rows, self.vocabulary, torch.device("cpu")))

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that take the tree; with one path, those of many drafts are the rules of one or cost the same."""
        return ("single", "block") if self.drafts == 1 else SEVERAL


def laws(cell: Cell, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Target and draft laws: a few pairs of a peaked law and a disturbed copy, dealt out to rows and nodes."""
    generator = torch.Generator().manual_seed(0)
    logit_PV = 3 * torch.randn((PAIRS, cell.vocabulary), generator=generator)
    noise_PV = torch.randn(logit_PV.shape, generator=generator)
    places = torch.arange(cell.rows)[:, None] * 7 + torch.arange(cell.tree.size)
    target_BNV, draft_BPV = (
        law_PV.to(device).softmax(1)[(places[:, :nodes] % PAIRS).to(device)]
        for law_PV, nodes in ((logit_PV, cell.tree.size), (logit_PV + noise_PV, cell.tree.inner))
    )
    return target_BNV, draft_BPV


def drawn(rule: str, tree: DraftTree, draft_BPV: torch.Tensor, noise: Noise) -> torch.Tensor:
    """Tokens of a whole tree; the draft's laws do not depend on them."""
    tokens_BN = torch.zeros((len(draft_BPV), tree.size), dtype=torch.int64, device=draft_BPV.device)
    for depth, level in enumerate(tree.levels[1:], start=1):
        above = tree.levels[depth - 1]
        laws_BMV = draft_BPV[:, above.start : above.stop]
        tokens_BN[:, level.start : level.stop] = draw(rule, tree, depth, laws_BMV, noise)
    return tokens_BN


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds that it took, and what came out."""
    started = time.perf_counter()
    out = work()
    return 1e3 * (time.perf_counter() - started), out


def noise_of(rows: int, turn: int, device: str = "cpu") -> Noise:
    """Noise of a round of its own."""
    return Noise(torch.arange(rows, device=device), torch.full((rows,), 100 * turn, device=device))


def copier(laws: tuple[torch.Tensor, ...]) -> Callable[[], None]:
    """A copy of the laws into memory at hand, which is touched once; of the largest into one gigabyte, part by part."""
    rows = max(1, COPY_BYTES // sum(law_BNV[0].nbytes for law_BNV in laws))
    buffers = [torch.empty_like(law_BNV[:rows]) for law_BNV in laws]

    def copy() -> None:
        for law_BNV, buffer in zip(laws, buffers, strict=True):
            for part in law_BNV.split(rows):
                buffer[: len(part)].copy_(part)

    copy()
    return copy


def measure(cell: Cell, rules: tuple[str, ...], seconds: float, repeats: int) -> list[dict[str, Any]]:
    """A line for every rule: interleaved repeats until each rule has used its seconds, one at least."""
    tree, (target_BNV, draft_BPV) = cell.tree, laws(cell)
    copy = copier((target_BNV, draft_BPV))
    times: dict[str, list[tuple[float, float, float]]] = {rule: [] for rule in rules}
    for turn in range(repeats + 1):
        copy_ms, _ = timed(copy)
        for rule in rules:
            used = [draw_ms + select_ms for _, draw_ms, select_ms in times[rule]]
            if used and sum(used) + used[-1] > 1e3 * seconds:
                continue
            noise = noise_of(cell.rows, turn + 1)
            draw_ms, tokens_BN = timed(lambda rule=rule, noise=noise: drawn(rule, tree, draft_BPV, noise))
            select_ms, _ = timed(
                lambda rule=rule, noise=noise, tokens_BN=tokens_BN: select(
                    rule, tree, tokens_BN, target_BNV, draft_BPV, noise
                )
            )
            times[rule].append((copy_ms, draw_ms, select_ms))
    # Portions come one after the other, so two of them need what all do.
    some = -(-2 * cell.rows // cell.parts)
    # The first repeat fills caches; where there is time for no other it is so long that this does not matter.
    return [
        line(rule, cell, times[rule][1:] or times[rule])
        | {"peak_mib": round(peak(rule, tree, target_BNV[:some], draft_BPV[:some]) / 2**20, 2)}
        for rule in rules
    ]


def line(rule: str, cell: Cell, times: list[tuple[float, float, float]]) -> dict[str, Any]:
    """Medians of a rule in a cell, with the range of its ratio to the copy."""
    copied, drawn_in, selected = zip(*times, strict=True)
    ratios = sorted(select_ms / copy_ms for copy_ms, _, select_ms in times)
    return {
        "rule": rule, "V": cell.vocabulary, "B": cell.rows, "K": cell.drafts, "L": cell.length,
        "copy_ms": round(statistics.median(copied), 4),
        "select_ms": round(statistics.median(selected), 4),
        "draw_ms": round(statistics.median(drawn_in), 4),
        "overhead_ms": round(cell.parts * overhead(rule, -(-cell.rows // cell.parts), cell.drafts, cell.length), 4),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
        "repeats": len(ratios),
        "laws_mib": round(cell.bytes / 2**20, 2),
    }  # fmt: skip


@cache
def overhead(rule: str, rows: int, drafts: int, length: int) -> float:
    """Milliseconds of the same selection over a tiny vocabulary; the median of five."""
    cell = Cell(TINY, rows, drafts, length)
    target_BNV, draft_BPV = laws(cell)
    found = []
    for turn in range(6):
        noise = noise_of(rows, turn)
        tokens_BN = drawn(rule, cell.tree, draft_BPV, noise)
        work = (rule, cell.tree, tokens_BN, target_BNV, draft_BPV, noise)
        found.append(timed(lambda work=work: select(*work))[0])
    return statistics.median(found[1:])


def peak(rule: str, tree: DraftTree, target_BNV: torch.Tensor, draft_BPV: torch.Tensor) -> int:
    """Most bytes that one selection holds at a time, from the profiler's record of every allocation."""
    noise = noise_of(len(target_BNV), 0)
    tokens_BN = drawn(rule, tree, draft_BPV, noise)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        select(rule, tree, tokens_BN, target_BNV, draft_BPV, noise)
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(itertools.accumulate((change for _, change in changes), initial=0))


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Time against V of every rule, and kseq's ratio to the copy."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    at = [one for one in lines if [one["B"], one["K"], one["L"]] == list(SHOWN.values())]
    if not at:  # a run of other sizes alone
        return

    with rc_context({"font.size": 10, "axes.titlesize": 10, "svg.fonttype": "path", "svg.hashsalt": "spectr"}):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for rule in SEVERAL:
            mine = [one for one in at if one["rule"] == rule]
            if mine:
                left.plot(
                    [one["V"] for one in mine],
                    [one["select_ms"] for one in mine],
                    "o-",
                    color=COLOURS[rule],
                    label=rule,
                )
        copies = [one for one in at if one["rule"] == "kseq"]
        left.plot([one["V"] for one in copies], [one["copy_ms"] for one in copies], "k--", label="copy of the laws")
        left.set(title="Time of a selection, B = 8, K = 4, L = 4", ylabel="ms", yscale="log")
        for (place, rows), (drafts, dash) in itertools.product(enumerate(ROWS), ((2, "-"), (8, "--"))):
            mine = [one for one in lines if [one["rule"], one["B"], one["K"], one["L"]] == ["kseq", rows, drafts, 4]]
            label = f"B = {rows}, K = {drafts}"
            if mine:
                sizes, ratios = [one["V"] for one in mine], [one["ratio"] for one in mine]
                right.plot(sizes, ratios, "os^"[place] + dash, color=f"C{place}", label=label)
        right.axhline(3, color="#888888", linestyle=":")
        right.set(title="kseq: time over that of the copy, L = 4", yscale="log")
        for panel in (left, right):
            panel.set_xscale("log", base=2)
            panel.set_xlabel("vocabulary V")
            panel.grid(color="#dddddd", linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
        left.set_ylim(bottom=0.02)  # room for the legend under the lines
        left.legend(loc="lower right", ncols=2, frameon=False, fontsize=8, handlelength=3)
        right.legend(frameon=False, fontsize=8, handlelength=3)
        figure.savefig(path.with_suffix(".png"), dpi=160, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--vocabulary", "vocabularies", multiple=True, type=int, default=VOCABULARIES, show_default=True)
@click.option("--rows", "rows", multiple=True, type=int, default=ROWS, show_default=True)
@click.option("--drafts", "drafts", multiple=True, type=int, default=DRAFTS, show_default=True)
@click.option("--length", "lengths", multiple=True, type=int, default=LENGTHS, show_default=True)
@click.option("--rule", "rules", multiple=True, type=click.Choice(list(RULES)), default=tuple(RULES), help="Rules.")
@click.option("--seconds", default=1.0, show_default=True, help="Time for the repeats of a rule at a size.")
@click.option("--repeats", default=15, show_default=True, help="Most repeats of a rule at a size.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path(__file__).parent / "results" / "selection.json",
    help="Result file; table and figure are put beside it as .md, .png and .svg.",
)
def main(
    vocabularies: tuple[int, ...],
    rows: tuple[int, ...],
    drafts: tuple[int, ...],
    lengths: tuple[int, ...],
    rules: tuple[str, ...],
    seconds: float,
    repeats: int,
    output: Path,
) -> None:
    """Measure, print the tables, write the result file and draw the figure."""
    torch.set_num_threads(1)
    part = output.with_suffix(".part.json")
    lines: list[dict[str, Any]] = json.loads(part.read_text(encoding="utf-8")) if part.exists() else []
    done = {Cell(one["V"], one["B"], one["K"], one["L"]) for one in lines}
    skipped = []
    for cell in (Cell(*sizes) for sizes in itertools.product(vocabularies, rows, drafts, lengths)):
        if cell.most_bytes > MOST_BYTES:
            skipped.append({"V": cell.vocabulary, "B": cell.rows, "K": cell.drafts, "L": cell.length})
            continue
        if cell in done:
            continue
        chosen = tuple(rule for rule in cell.rules if rule in rules)
        lines += measure(cell, chosen, seconds, repeats)
        click.echo(f"{cell}: " + " ".join(f"{one['rule']} {one['ratio']}" for one in lines[-len(chosen) :]), err=True)
        part.write_text(json.dumps(lines), encoding="utf-8")
    text = [*table(lines), "", *verdict(lines), ""]
    text += [f"Not measured, beyond {MOST_BYTES >> 30} GiB: " + "; ".join(map(str, skipped))] if skipped else []
    click.echo("\n".join(text))
    result = machine() | {"dtype": "float32", "threads": 1, "skipped": skipped, "lines": lines}
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    output.with_suffix(".md").write_text("\n".join(text) + "\n", encoding="utf-8")
    plot(lines, output)
    part.unlink()


if __name__ == "__main__":
    main()
