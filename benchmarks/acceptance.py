"""How much each rule accepts, against the number of drafts, and the most that any rule can.

    OMP_NUM_THREADS=1 python benchmarks/acceptance.py

Exact acceptance of one token on made-up laws and on those of the demo pair. Only the races of the demo pair are
sampled, whose integral takes time V^2, and the acceptance of `rrsw` is bounded where the sum over its rejected tokens
has too many terms: the result file has both bounds, and their middle as its acceptance. Tokens per round of paths of
four drafts are sampled, a pair of laws holding for all of them. The optimum's closed form is set against the linear
program of optimal transport where that is small enough. The figure needs matplotlib: `pip install '.[bench]'`.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from machine import machine
from scipy.optimize import linprog
from selection import drawn, noise_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from spectr_select import RULES, DraftTree, select
from spectr_select.exact.acceptance import ACCEPTANCE, acceptance, acceptance_bounds

# B laws of a family, S draws of a race, T tokens of a prompt, P positions taken of it, V vocabulary.
EXAMPLES = Path(__file__).parent.parent / "examples"
DRAFTS = tuple(range(1, 17))
FEWER_DRAFTS = (1, 2, 3, 4, 6, 8, 16)  # of the integrals and bounds, which take longer
SHOWN_DRAFTS = (1, 2, 4, 8, 16)
INTEGRALS = ("race", "gls", "optimal-swor")
LAWS_AT_ONCE = 32  # what an integral over all tokens keeps in the cache
PATH_DRAFTS, LENGTH = (1, 2, 4, 8), 4
ROUNDS = 2304  # sampled for every rule and number of paths: sixteen for each position of the demo pair
CONTEXT = 16  # tokens of a prompt before the first position taken
STYLES = {
    "optimal-swor": ("optimum, drafts without replacement", {"color": "black", "linestyle": (0, (4, 2))}),
    "optimal": ("optimum, independent drafts", {"color": "black", "linewidth": 2.2}),
    "race": ("race", {"color": "#0072b2", "marker": "o", "zorder": 10}),
    "otm": ("otm", {"color": "#4b0082", "marker": "*"}),
    "greedy": ("greedy", {"color": "#e69f00", "marker": "D", "markersize": 6}),
    "kseq": ("kseq", {"color": "#d55e00", "marker": "s"}),
    "rrs": ("rrs", {"color": "#009e73", "marker": "^"}),
    "rrsw": ("rrsw", {"color": "#56b4e9", "marker": "<"}),
    "gls": ("gls", {"color": "#cc79a7", "marker": "v"}),
    "single": ("single (one draft)", {"color": "#888888", "linestyle": ":"}),
}
BLOCK_STYLES = {
    **{rule: style for rule, style in STYLES.items() if rule in RULES},
    "gbv": ("gbv", {"color": "#999999", "marker": "P"}),
    "traversal": ("traversal", {"color": "#8b4513", "marker": "X"}),
    "otm-block": ("otm-block", {"color": "#f0c000", "marker": "h"}),
    "block": ("block (one path)", {"color": "#888888", "linestyle": "--"}),
}


@dataclass(frozen=True, slots=True)
class Laws:
    """Pairs of laws over which a panel's curves are the mean, float64 [B, V].

    Attributes:
        race_draws: Races drawn for each pair of laws, or 0 to integrate.
    """

    title: str
    target_BV: torch.Tensor
    draft_BV: torch.Tensor
    race_draws: int = 0

    def __post_init__(self) -> None:
        if self.target_BV.shape != self.draft_BV.shape or self.race_draws < 0:
            raise ValueError(
                f"{self.title}: laws {tuple(self.target_BV.shape)} and {tuple(self.draft_BV.shape)}, {self.race_draws} "
                "races; need laws of one shape [B, V] and 0 races or more."
            )


def bernoulli(target: Fraction, draft: Fraction) -> Laws:
    """Two tokens, the second with these probabilities."""
    laws_2V = torch.tensor([[float(1 - one), float(one)] for one in (target, draft)], dtype=torch.float64)
    title = f"t = ({1 - target}, {target}), d = ({1 - draft}, {draft})"
    return Laws(title, laws_2V[:1], laws_2V[1:])


def zipf() -> list[Laws]:
    """A Zipf law of 200 tokens and two disturbed copies of it as drafts, the first also flattened."""
    noise, logit_V = np.random.default_rng(7), -1.1 * np.log(np.arange(1, 201))
    near_V = (logit_V + 0.5 * noise.standard_normal(200)) / 1.2
    far_V = logit_V + noise.standard_normal(200)
    target_BV, near_BV, far_BV = (torch.from_numpy(one)[None].softmax(1) for one in (logit_V, near_V, far_V))
    return [
        Laws("Zipf, V = 200, noise 0.5, flattened", target_BV, near_BV),
        Laws("Zipf, V = 200, noise 1", target_BV, far_BV),
    ]


def dirichlet(count: int, vocabulary: int = 50) -> Laws:
    """Unrelated laws, uniform on the simplex."""
    target_BV, draft_BV = torch.from_numpy(np.random.default_rng(11).dirichlet(np.ones(vocabulary), (2, count)))
    return Laws(f"Dirichlet, V = {vocabulary}, {count} pairs", target_BV, draft_BV)


def demo(pair: Path, prompts: Path, positions: int, race_draws: int) -> Laws:
    """Laws of the demo pair at temperature 1 after random tokens of its held-out prompts, as many of each prompt."""
    records = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    texts = [record.get("prompt") or record["body"]["prompt"] for record in records]
    tokenizer = AutoTokenizer.from_pretrained(pair / "target")
    models = [AutoModelForCausalLM.from_pretrained(pair / name, dtype=torch.float32) for name in ("target", "draft")]
    chance, rows = np.random.default_rng(13), []
    for text in texts:
        tokens_1T = tokenizer(text, return_tensors="pt").input_ids
        taken_P = chance.choice(np.arange(CONTEXT, tokens_1T.shape[1]), positions, replace=False)
        with torch.inference_mode():
            rows.append([model(tokens_1T).logits[0, taken_P].double().softmax(1) for model in models])
    target_BV, draft_BV = (torch.cat(laws) for laws in zip(*rows, strict=True))
    return Laws(f"Demo pair, V = {target_BV.shape[1]}, {len(target_BV)} positions", target_BV, draft_BV, race_draws)


def curve(rule: str, laws: Laws, most: int = DRAFTS[-1]) -> dict[int, torch.Tensor]:
    """The rule's acceptance on every pair of laws, by number of drafts."""
    if rule == "race" and laws.race_draws:
        return {k: alpha_B for k, alpha_B in sampled_race(laws).items() if k <= most}
    most = min(most, {"single": 1, "greedy": laws.target_BV.shape[1]}.get(rule, most))
    drafts = [k for k in (FEWER_DRAFTS if rule in INTEGRALS else DRAFTS) if k <= most]
    parts = list(zip(laws.target_BV.split(LAWS_AT_ONCE), laws.draft_BV.split(LAWS_AT_ONCE), strict=True))
    return {k: torch.cat([acceptance(rule, target_BV, draft_BV, k) for target_BV, draft_BV in parts]) for k in drafts}


def between(laws: Laws, most: int = DRAFTS[-1]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """The bounds on what rrsw accepts on every pair of laws, by number of drafts."""
    return {k: acceptance_bounds("rrsw", laws.target_BV, laws.draft_BV, k) for k in FEWER_DRAFTS if k <= most}


def sampled_race(laws: Laws) -> dict[int, torch.Tensor]:
    """Share of races whose emitted token is among the first k of the draft; every k sees the same races."""
    generator, ranks = torch.Generator().manual_seed(17), []
    for target_V, draft_V in zip(laws.target_BV.float(), laws.draft_BV.float(), strict=True):
        arrival_SV = torch.empty((laws.race_draws, len(target_V))).exponential_(generator=generator)
        won_S1 = (arrival_SV / target_V).argmin(1, keepdim=True)
        drafted_SV = arrival_SV / draft_V
        ranks.append((drafted_SV < drafted_SV.gather(1, won_S1)).sum(1))
    rank_BS = torch.stack(ranks)
    return {k: (rank_BS < k).double().mean(1) for k in DRAFTS}


def tokens_per_round(rule: str, laws: Laws, paths: int, rounds: int) -> tuple[float, float]:
    """Mean tokens of a round of so many paths, and its standard error; a pair of laws holds for the whole round."""
    tree, counts = DraftTree.paths(paths, LENGTH), []
    pairs = len(laws.target_BV)
    for turn, first in enumerate(range(0, rounds, LAWS_AT_ONCE)):
        row_B = torch.arange(first, first + LAWS_AT_ONCE) % pairs
        target_BNV = laws.target_BV[row_B].float()[:, None].expand(-1, tree.size, -1)
        draft_BPV = laws.draft_BV[row_B].float()[:, None].expand(-1, tree.inner, -1)
        noise = noise_of(LAWS_AT_ONCE, turn)
        tokens_BN = drawn(rule, tree, draft_BPV, noise)
        counts.append(1 + select(rule, tree, tokens_BN, target_BNV, draft_BPV, noise).count_B.double())
    count_S = torch.cat(counts)
    return float(count_S.mean()), float(count_S.std()) / len(count_S) ** 0.5


def block_curves(laws: Laws, rounds: int) -> dict[str, Any]:
    """Tokens per round of every rule, by number of paths."""
    curves: dict[str, Any] = {}
    for name, rule in RULES.items():
        distinct = rule.drawing != "iid"
        most = 1 if rule.trees == "chain" else laws.target_BV.shape[1] if distinct else PATH_DRAFTS[-1]
        drafts = [k for k in PATH_DRAFTS if k <= most]
        found = [tokens_per_round(name, laws, k, rounds) for k in drafts]
        curves[name] = {
            "k": drafts,
            "tokens": [round(mean, 4) for mean, _ in found],
            "standard_error": [round(error, 4) for _, error in found],
        }
    return curves


def transport_gap() -> dict[str, Any]:
    """The largest difference between the closed form of the optimum and the linear program over all draft tuples."""
    laws, gaps = dirichlet(20, vocabulary=5), {}
    for k in (2, 3):
        closed_B = acceptance("optimal", laws.target_BV, laws.draft_BV, k)
        programs = [transport(*pair, k) for pair in zip(laws.target_BV, laws.draft_BV, strict=True)]
        gaps[k] = max(abs(closed - program) for closed, program in zip(closed_B.tolist(), programs, strict=True))
    return {"pairs": 20, "vocabulary": 5, "largest_difference": {k: float(f"{gap:.1e}") for k, gap in gaps.items()}}


def transport(target_V: torch.Tensor, draft_V: torch.Tensor, k: int) -> float:
    """The optimum as a linear program (SpecTr, arXiv 2310.15141, section 4)."""
    vocabulary = len(target_V)
    tuples = list(itertools.product(range(vocabulary), repeat=k))
    chances = [math.prod(float(draft_V[token]) for token in drafts) for drafts in tuples]
    gain = [-float(token in drafts) for drafts in tuples for token in range(vocabulary)]
    sums = np.concatenate([
        np.kron(np.eye(len(tuples)), np.ones(vocabulary)),
        np.kron(np.ones(len(tuples)), np.eye(vocabulary)),
    ])  # fmt: skip
    return -float(linprog(gain, A_eq=sums, b_eq=[*chances, *target_V.tolist()], method="highs").fun)


def lowest_of_two_tokens(k: int) -> float:
    """c_k: the lowest kseq / optimal over laws of two tokens for which the optimum is just 1.

    Those are d = (1 - b, b) and t = ((1 - b)^k, 1 - (1 - b)^k), for the optimum is ``min(1, 2 - a - (1 - b)^k)``.
    """
    draft_B = torch.linspace(0, 1, 20_001, dtype=torch.float64)[1:-1]
    missed_B = (1 - draft_B) ** k
    target_BV, draft_BV = torch.stack([missed_B, 1 - missed_B], 1), torch.stack([1 - draft_B, draft_B], 1)
    return float(acceptance("kseq", target_BV, draft_BV, k).min())


def measure(laws: Laws, rounds: int, most: int) -> tuple[dict[str, Any], dict[int, float]]:
    """The panel's curves for the result file, and the lowest kseq / optimal of its laws by number of drafts."""
    bounds_by_k = between(laws, most)
    by_rule = {rule: curve(rule, laws, most) for rule in ACCEPTANCE if rule != "rrsw"}
    by_rule["rrsw"] = {k: (lower_B + upper_B) / 2 for k, (lower_B, upper_B) in bounds_by_k.items()}
    curves: dict[str, Any] = {
        rule: {"k": list(by_k), "alpha": [round(float(one_B.mean()), 6) for one_B in by_k.values()]}
        for rule, by_k in by_rule.items()
    }
    for name, place in (("lower", 0), ("upper", 1)):
        curves["rrsw"][name] = [round(float(both[place].mean()), 6) for both in bounds_by_k.values()]
    if laws.race_draws:
        share_B = by_rule["race"][1]
        error = float((share_B * (1 - share_B) / laws.race_draws).sum().sqrt()) / len(share_B)
        curves["race"] |= {"draws_per_pair": laws.race_draws, "standard_error_at_1": round(error, 6)}
    lowest = {k: float((by_rule["kseq"][k] / by_rule["optimal"][k]).min()) for k in by_rule["kseq"]}
    shape = {"title": laws.title, "pairs": len(laws.target_BV), "vocabulary": laws.target_BV.shape[1]}
    return shape | {"curves": curves, "tokens_per_round": block_curves(laws, rounds)}, lowest


def bounds(lowest: dict[str, dict[int, float]]) -> list[dict[str, Any]]:
    """For each k the lowest kseq / optimal met, where it was met, c_k, and the guarantee of the SpecTr paper."""
    lines: list[dict[str, Any]] = []
    for k in next(iter(lowest.values())):
        where = min(lowest, key=lambda title: lowest[title][k])
        met, bound, paper = lowest[where][k], lowest_of_two_tokens(k), 1 - (1 - 1 / k) ** k
        if met < bound - 1e-9:
            raise click.ClickException(f"kseq / optimal is {met} at k = {k} on {where!r}, below c_k = {bound}")
        figures = {"lowest": round(met, 6), "c_k": round(bound, 6), "paper": round(paper, 6)}
        lines.append({"k": k, "where": where} | figures)
    return lines


def draw(result: dict[str, Any], path: Path) -> None:
    """One panel for each family of laws, as PNG and SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 10, "axes.titlesize": 10, "svg.fonttype": "path", "svg.hashsalt": "spectr"}):
        figure = Figure(figsize=(10, 13), layout="constrained")
        upper, lower = figure.subfigures(2, 1)
        for part, name, styles, label in (
            (upper, "curves", STYLES, "acceptance probability"),
            (lower, "tokens_per_round", BLOCK_STYLES, f"tokens per round, L = {LENGTH}"),
        ):
            panels = part.subplots(2, 3, sharex=True).T.flatten()
            for panel, laws in zip(panels, result["laws"], strict=True):
                draw_panel(panel, laws["title"], laws[name], styles)
            for panel in panels[1::2]:
                panel.set_xlabel("drafts k" if part is upper else "paths k")
            for panel in panels[:2]:
                panel.set_ylabel(label)
            part.legend(*panels[2].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(path.with_suffix(".png"), dpi=160, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def draw_panel(panel: Any, title: str, curves: dict[str, Any], styles: dict[str, tuple[str, dict[str, Any]]]) -> None:
    """The curves of one family, the better over the worse."""
    for depth, (rule, (label, style)) in enumerate(styles.items()):
        drafts, height = curves[rule]["k"], curves[rule].get("alpha") or curves[rule]["tokens"]
        if rule in RULES and RULES[rule].trees == "chain":
            panel.axhline(height[0], label=label, zorder=1, **style)
            continue
        marked = [place for place, k in enumerate(drafts) if k in SHOWN_DRAFTS]
        kept = {"linewidth": 1.3, "markersize": 4, "markevery": marked, "zorder": 9 - depth}
        panel.plot(drafts, height, label=label, **(kept | style))
        if "lower" in curves[rule]:
            shade = {"color": style["color"], "alpha": 0.3, "linewidth": 0}
            panel.fill_between(drafts, curves[rule]["lower"], curves[rule]["upper"], **shade)
    panel.set_xscale("log", base=2)
    panel.set_xticks(SHOWN_DRAFTS, labels=[str(k) for k in SHOWN_DRAFTS])
    panel.locator_params(axis="y", nbins=6, steps=[1, 2, 5, 10])
    panel.yaxis.set_major_formatter("{x:.2f}")
    panel.set_title(title)
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--pair",
    type=click.Path(path_type=Path, exists=True),
    default=EXAMPLES / "demo_pair",
    help="Folder with a target and a draft.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, exists=True),
    default=EXAMPLES / "prompts.jsonl",
    help="Texts that the pair reads.",
)
@click.option("--positions", type=click.IntRange(1), default=2, show_default=True, help="Positions taken of a prompt.")
@click.option("--rounds", type=click.IntRange(2), default=ROUNDS, show_default=True, help="Sampled for every rule.")
@click.option("--drafts", type=click.IntRange(2), default=DRAFTS[-1], show_default=True, help="Most, of one token.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path(__file__).parent / "results" / "acceptance.json",
    help="Result file; the figure is put beside it as .png and .svg.",
)
def main(pair: Path, prompts: Path, positions: int, rounds: int, drafts: int, output: Path) -> None:
    """Compute how often each rule accepts, write the result file and draw the figure."""
    torch.set_num_threads(1)
    families = [
        bernoulli(Fraction(3, 4), Fraction(1, 4)),
        bernoulli(Fraction(5, 9), Fraction(1, 3)),
        *zipf(),
        dirichlet(32),
    ]
    families.append(demo(pair, prompts, positions, race_draws=256))
    measured, lowest = [], {}
    for laws in families:
        panel, lowest[laws.title] = measure(laws, rounds, drafts)
        measured.append(panel)
        click.echo(f"{laws.title}\n{table(panel)}\n")
    gap = transport_gap()
    result = machine() | {"transport": gap, "kseq_over_optimal": bounds(lowest), "laws": measured}
    click.echo(
        "SpecTr asks for a closed form of the optimum for k > 1. It is 1 + min over H of t(H) - d(H)^k, where the best "
        f"H is a prefix of the tokens sorted by t / d: over {gap['pairs']} pairs of laws of {gap['vocabulary']} tokens "
        f"it differs from the linear program by at most {max(gap['largest_difference'].values())}."
    )
    line = "k={k:<3} lowest kseq/optimal {lowest:.6f}  c_k {c_k:.6f}  guaranteed {paper:.6f}  ({where})"
    click.echo("\n".join(line.format(**one) for one in result["kseq_over_optimal"]))
    output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw(result, output)


def table(panel: dict[str, Any]) -> str:
    """A line for each rule with its acceptance by number of drafts, then one with its tokens per round."""
    lines = []
    for kind, height in (("curves", "alpha"), ("tokens_per_round", "tokens")):
        lines.append(f"  {height} at k = {', '.join(map(str, SHOWN_DRAFTS))}")
        for rule, found in panel[kind].items():
            at = dict(zip(found["k"], found[height], strict=True))
            shown = (f"{at[k]:>9.5f}" if k in at else " " * 9 for k in SHOWN_DRAFTS)
            lines.append(f"  {rule:<13}" + "".join(shown))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
