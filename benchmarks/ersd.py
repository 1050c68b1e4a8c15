"""What ERSD claims of exponential races (arXiv 2504.15475), measured on the demo pair.

    OMP_NUM_THREADS=1 python benchmarks/ersd.py
    OMP_NUM_THREADS=1 python benchmarks/ersd.py --small --output build/ersd.json    # half a minute

Races stand beside rules that test ratios, at equal numbers of drafted tokens: as a chain, as siblings only, as paths,
and as the tree that each rule's own rank law expects most of (Tunstall). Next to that are the tokens that the law
foretells, and the paper's upper bound of them. Then comes what the paper leaves open, trees that depend on the context.
Rank laws and trees are fitted to one half of the texts, and all tokens are counted behind contexts of the other half.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from machine import machine
from papers.raced import (
    Growing,
    LawsByEntropy,
    Setting,
    Texts,
    followed,
    grown,
    law_of_paths,
    law_of_ranks,
    tree_of_ranks,
    written,
)
from papers.simulated import SimulatedPair, mean_and_error, tokens_per_round

from spectr_select import DraftTree, best_tree, expected_tokens, tokens_bound

# B rows, I contexts, L tokens of a text, Q bins, S rounds.
RESULT = Path(__file__).parent / "results" / "ersd.json"
WIDE = DraftTree.branching((8, 8))  # whose rounds show how often siblings of each rank are accepted
BINS = 4
CHAIN_RULES = ("race", "single", "block")  # on a chain, the other rules are one of the last two
SIBLING_RULES = ("race", "rrs", "rrsw", "kseq", "otm")
PATH_RULES = ("race", "rrs", "rrsw", "kseq", "traversal", "gbv")
TREE_RULES = ("race", "rrs", "rrsw", "kseq", "traversal")
# Whose tree a rule is measured on besides: how often kseq accepts a first sibling depends on how many there are, so
# that rounds of a wide tree do not show its rank law in another. The two draw alike.
ALSO = {"rrs": ("kseq",)}


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured: contexts of each half, settings, drafted tokens, and how often each context is used."""

    contexts: int = 180
    settings: tuple[Setting, ...] = (Setting(1.0), Setting(0.6), Setting(1.5), Setting(1.0, 0.5))
    drafts: tuple[int, ...] = (4, 8, 16, 32)
    turns: int = 3
    text_turns: int = 3
    length: int = 48


SMALL = Sizes(contexts=12, settings=(Setting(1.0, 0.5),), drafts=(4, 8), turns=1, text_turns=1, length=16)


def by_context(count_S: torch.Tensor, contexts: int) -> torch.Tensor:
    """Return the means of each context's rounds, which are not independent; float64 [I]."""
    return count_S.view(-1, contexts).mean(0)


def shapes(drafts: int, laws: dict[str, list[float]]) -> list[tuple[str, DraftTree, tuple[str, ...]]]:
    """Return every shape of so many drafts, by name, and the rules that are measured on it; trees by their law."""
    return [
        ("chain", DraftTree.chain(drafts), CHAIN_RULES),
        ("siblings", DraftTree.paths(drafts, 1), SIBLING_RULES),
        ("paths", DraftTree.paths(min(4, drafts // 2), drafts // min(4, drafts // 2)), PATH_RULES),
        *((f"tree of {rule}", best_tree(laws[rule], drafts), (rule, *ALSO.get(rule, ()))) for rule in TREE_RULES),
    ]


def compare(pair: SimulatedPair, laws: dict[str, list[float]], setting: Setting, sizes: Sizes) -> list[dict[str, Any]]:
    """Tokens per round of every rule and shape, and what they differ from the race's on the same contexts."""
    lines: list[dict[str, Any]] = []
    for drafts in sizes.drafts:
        race_I = torch.zeros(0)
        for shape, tree, rules in shapes(drafts, laws):
            found = tokens_per_round(pair, tree, rules, setting.temperature, setting.blend, sizes.turns)
            for rule, count_S in found.items():
                count_I = by_context(count_S, len(pair.context_IC))
                race_I = count_I if rule == "race" else race_I  # it comes first; all trees stand beside its own
                line = {"drafts": drafts, "shape": shape, "rule": rule, "depth": tree.depth}
                line |= {"tokens": mean_and_error(count_I), "to_race": mean_and_error(count_I - race_I)}
                if rule in laws:
                    line["expected"] = round(expected_tokens(laws[rule], tree), 4)
                lines.append(line)
    return lines


def rank_laws(pair: SimulatedPair, texts: Texts, setting: Setting) -> dict[str, list[float]]:
    """The rank law of every rule that takes trees: of a race along texts, of others over nodes that rounds reach."""
    laws = {"race": law_of_ranks(texts.rank_SL)}
    for rule in TREE_RULES[1:]:
        rounds = pair.rounds(WIDE, rule, setting.temperature, setting.blend)
        accepted = [drawn.select(rule).accepted_BD for drawn in rounds]
        laws[rule] = law_of_paths(WIDE, torch.cat(accepted))
    return laws


def bound(texts: Texts, vocabulary: int, sizes: Sizes) -> dict[str, Any]:
    """The paper's bound by number of drafts, and the entropy of the rank that it is made of, in nats."""
    count_V = texts.rank_SL.flatten().bincount()
    law_V = sorted((count_V / count_V.sum()).tolist(), reverse=True)
    entropy = float(torch.special.entr(torch.tensor(law_V, dtype=torch.float64)).sum())
    tokens = {str(drafts): round(tokens_bound(law_V, vocabulary, drafts), 3) for drafts in sizes.drafts}
    return {"entropy": round(entropy, 4), "positions": texts.rank_SL.numel(), "tokens": tokens}


@dataclasses.dataclass(frozen=True, slots=True)
class Half:
    """One half of the texts: what races write behind its contexts, and the trees that grow there by the entropy."""

    contexts: int
    texts: Texts
    rows: list[Growing]

    def mean_of(self, count_S: torch.Tensor) -> torch.Tensor:
        """Return the means of each context's rounds, float64 [I]."""
        return by_context(count_S, self.contexts)

    def trees(self, drafts: int) -> list[Growing]:
        """Return the trees with so many drafts each."""
        return [row.kept(drafts) for row in self.rows]

    def trees_above(self, value: float) -> list[Growing]:
        """Return the trees of the nodes that are worth so much; their drafts differ in number."""
        return [row.kept(sum(found >= value for found in row.values) - 1) for row in self.rows]

    def follow(self, rows: list[Growing]) -> torch.Tensor:
        """Return the tokens of each round, float64 [S]."""
        counts = [row.follow(text) for row, text in zip(rows, self.texts.token_SL.tolist(), strict=True)]
        return torch.tensor(counts, dtype=torch.float64)


def aware(pairs: list[SimulatedPair], texts: list[Texts], setting: Setting, sizes: Sizes) -> dict[str, Any]:
    """Trees that depend on the draft's entropy beside trees that do not, for races, fitted to the first half."""
    laws = LawsByEntropy.of(texts[0], BINS)
    seen, half = (
        Half(len(pair.context_IC), some, grow(pair, laws, setting, sizes.text_turns, max(sizes.drafts)))
        for pair, some in zip(pairs, texts, strict=True)
    )
    lines = [aware_line(laws, seen, half, drafts) for drafts in sizes.drafts]
    edges = [round(edge, 4) for edge in laws.edge_Q.tolist()]
    return {"edges": edges, "laws": [[round(chance, 5) for chance in law] for law in laws.law_QR], "lines": lines}


def aware_line(laws: LawsByEntropy, seen: Half, half: Half, drafts: int) -> dict[str, Any]:
    """Tokens per round of a race with each way to choose a tree of so many drafts, beside the stateless tree's."""
    rank_WL, entropy_W = seen.texts.windows(min(drafts, seen.texts.rank_SL.shape[1]))
    bin_W = torch.bucketize(entropy_W, laws.edge_Q)
    fixed = {
        "stateless": best_tree(law_of_ranks(seen.texts.rank_SL), drafts),
        "frequent": tree_of_ranks(rank_WL, drafts),
        "chain": DraftTree.chain(drafts),
    }
    by_bin = [tree_of_ranks(rank_WL[bin_W == number], drafts) for number in range(BINS)]
    own, above = half.trees(drafts), half.trees_above(worth(seen.rows, drafts))  # as many as were grown, at most
    counts = {name: followed(tree, half.texts.rank_SL) for name, tree in fixed.items()}
    counts |= {"root": by_root(by_bin, laws, half.texts), "node": half.follow(own), "above": half.follow(above)}
    means = {name: half.mean_of(count_S) for name, count_S in counts.items()}
    fitted = followed(fixed["stateless"], seen.texts.rank_SL), by_root(by_bin, laws, seen.texts)
    return {
        "drafts": drafts,
        "tokens": {name: mean_and_error(mean_I) for name, mean_I in means.items()},
        "to_stateless": {name: mean_and_error(mean_I - means["stateless"]) for name, mean_I in means.items()},
        "to_frequent": {name: mean_and_error(mean_I - means["frequent"]) for name, mean_I in means.items()},
        "root_to_stateless_where_fitted": mean_and_error(seen.mean_of(fitted[1] - fitted[0])),
        "trees": {name: shape_of(tree) for name, tree in fixed.items()},
        "by_bin": [shape_of(tree) for tree in by_bin],
        "node_depth": round(sum(row.depths[-1] for row in own) / len(own), 2),
        "above_drafts": round(sum(len(row.tokens) - 1 for row in above) / len(above), 2),
    }


def worth(rows: list[Growing], drafts: int) -> float:
    """Return what a node must be worth for rows to have so many drafts on average."""
    values = sorted((value for row in rows for value in row.values[1:]), reverse=True)
    return values[drafts * len(rows) - 1]


def by_root(trees: list[DraftTree], laws: LawsByEntropy, texts: Texts) -> torch.Tensor:
    """Tokens of rounds that take the tree of their root's bin; float64 [S]."""
    bin_S = torch.bucketize(texts.entropy_SL[:, 0].contiguous(), laws.edge_Q)
    return torch.stack([followed(tree, texts.rank_SL) for tree in trees])[bin_S, torch.arange(len(bin_S))]


def grow(pair: SimulatedPair, laws: LawsByEntropy, setting: Setting, turns: int, drafts: int) -> list[Growing]:
    """Trees that grow by the entropy at every node, behind all contexts and so often the whole."""
    parts = [(turn, part) for turn in range(turns) for part in pair.parts]
    return [row for turn, part in parts for row in grown(pair, laws, setting, turn, part, drafts)]


def shape_of(tree: DraftTree) -> dict[str, int]:
    """How deep a tree is, and how wide at its root and at its widest."""
    return {"depth": tree.depth, "root": len(tree.levels[1]), "widest": max(map(len, tree.levels))}


def measure(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Measure everything at each setting; yield what has been found after each."""
    pairs = [SimulatedPair(contexts=sizes.contexts, texts=slice(half, None, 2)) for half in range(2)]
    found: dict[str, Any] = {}
    for setting in sizes.settings:
        texts = [written(pair, setting, sizes.text_turns, sizes.length) for pair in pairs]
        laws = rank_laws(pairs[0], texts[0], setting)
        found[setting.name] = {
            "rank_laws": {rule: [round(chance, 5) for chance in law] for rule, law in laws.items()},
            "bound": bound(texts[1], pairs[1].vocabulary, sizes),
            "compared": compare(pairs[1], laws, setting, sizes),
            "aware": aware(pairs, texts, setting, sizes),
        }
        yield {"sizes": dataclasses.asdict(sizes), "vocabulary": pairs[1].vocabulary, "settings": found}


def table(setting: str, found: dict[str, Any]) -> str:
    """What was found at a setting, for the eye."""
    lines = [f"temperature {setting}: bound {found['bound']['tokens']}"]
    for line in found["compared"]:
        (mean, error), (gap, gap_error) = line["tokens"], line["to_race"]
        named = f"  {line['drafts']:3} {line['shape']:18} {line['rule']:10} {mean:8.3f} +- {error:.3f}"
        lines.append(f"{named}  to race {gap:+.3f} +- {gap_error:.3f}  expected {line.get('expected', '')}")
    for line in found["aware"]["lines"]:
        gaps = "  ".join(f"{name} {gap:+.3f} +- {error:.3f}" for name, (gap, error) in line["to_stateless"].items())
        lines.append(f"  {line['drafts']:3} stateless {line['tokens']['stateless'][0]}, to it: {gaps}")
    return "\n".join(lines)


@click.command()
@click.option("--small", is_flag=True, help="Run everything at sizes that take half a minute.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, help="Result file; its figure is beside it.")
def main(small: bool, output: Path) -> None:
    """Measure, write the result file and draw the figure."""
    torch.set_num_threads(1)
    from figures.ersd import draw  # needs matplotlib, as nothing else here does

    head = machine()
    for found in measure(SMALL if small else Sizes()):
        output.write_text(json.dumps(head | found, indent=1) + "\n", encoding="utf-8")
        click.echo(table(*list(found["settings"].items())[-1]))
        draw(found, output.with_suffix(".svg"))


if __name__ == "__main__":
    main()
