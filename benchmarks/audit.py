"""How often an audit fails, for rows that are what they claim to be and for rows that are not.

    OMP_NUM_THREADS=1 python benchmarks/audit.py build/pair

The demo prompts are decoded once exactly and once with lenience (Leviathan et al., arXiv 2211.17192, appendix A.5),
which trades the target's law for accepted drafts. Every completion is scored under what it claims; then audits take
random rows until they have so many tokens, as ``spectr-batch audit`` does.
"""

from __future__ import annotations

import dataclasses
import json
import random
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from machine import machine

from spectr_jobs.commands.evidence import FALSE_ALARMS, Evidence
from spectr_jobs.inputs.reader import START, Reader, shape_of
from spectr_jobs.inputs.sources import resolve
from spectr_jobs.records.record import Record
from spectr_runtime import Bundle, Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.rows.score import Score, Written
from spectr_runtime.scorer import Scorer
from spectr_select import RULES, Role, Rule, Selection
from spectr_select.chance import Chance
from spectr_select.rule import Round

# B rows, V vocabulary.
PROMPTS = Path(__file__).parent.parent / "examples" / "prompts.jsonl"
PLAN = Plan("single", 1, 1)
LENIENCE = 1.5
BATCH = 8
AUDITS = 200
CLAIMS: dict[str, dict[str, float]] = {
    "what they are": {},
    "temperature 0.95": {"temperature": 0.95},
    "temperature 0.9": {"temperature": 0.9},
    "temperature 1.1": {"temperature": 1.1},
    "top_p 0.99": {"top_p": 0.99},
}


def lenient(drawn: Round, chance: Chance) -> Selection:
    """Accept one draft with probability ``min(1, LENIENCE t / d)``; the residual is that of the exact rule."""
    target_BV, draft_BV = drawn.target_BNV[:, 0].double(), drawn.draft_BPV[:, 0].double()
    token_B1 = drawn.tokens_BN[:, 1:]
    wanted_B1, offered_B1 = (law_BV.gather(1, token_B1) for law_BV in (target_BV, draft_BV))
    accepted_B = chance.first(1, (LENIENCE * wanted_B1 / offered_B1).clamp(max=1)) == 0
    residual_BV = (target_BV - draft_BV).clamp(min=0)
    law_BV = torch.where(accepted_B[:, None], drawn.target_BNV[:, 1].double(), residual_BV)
    return Selection(torch.where(accepted_B, 1, -1)[:, None], accepted_B.long(), chance.pick(Role.EMIT, 0, law_BV))


def read_requests(prompts: int | None, choices: int, tokens: int) -> list[Request]:
    """The first demo prompts, each several times, at temperature 1 with nothing else asked."""
    inputs, params = resolve([str(PROMPTS)], {}), SamplingParams(max_tokens=tokens)
    records = (item.record for item in Reader(inputs, [shape_of(one) for one in inputs], params).read(START, None))
    found = [(record.origin.key, record.prompts[0]) for record in records if isinstance(record, Record)]
    return [Request(key, prompt, params, choice) for key, prompt in found[:prompts] for choice in range(choices)]


def decode(bundle: Bundle, rule: Rule, requests: Sequence[Request]) -> list[Written]:
    """Decode the requests with a rule in the place of the plan's."""
    by_key = {(one.id, one.choice): one for one in requests}
    lossless, RULES[PLAN.rule] = RULES[PLAN.rule], rule
    try:
        outcomes = list(Decoder(bundle, plan=PLAN, batch_size=BATCH).generate(requests))
    finally:
        RULES[PLAN.rule] = lossless
    rows = [one for one in outcomes if isinstance(one, Completion)]
    return [Written(by_key[row.id, row.choice], row.token_ids) for row in rows]


def claiming(rows: Iterable[Written], claim: dict[str, float]) -> list[Written]:
    """The rows as if they had been asked for otherwise."""
    asked = [(row, dataclasses.replace(row.request.params, **claim)) for row in rows]  # type: ignore[arg-type]
    return [dataclasses.replace(row, request=dataclasses.replace(row.request, params=one)) for row, one in asked]


def audit(scores: Sequence[Score], tokens: int, seed: int) -> Evidence:
    """One audit of random rows."""
    evidence, left = Evidence(seed), tokens
    for score in random.Random(seed).sample(scores, len(scores)):
        evidence.add(dataclasses.replace(score, tokens=score.tokens[:left]))
        left -= min(left, len(score.tokens))
        if not left:
            break
    return evidence


def line(rule: str, claim: str, scores: Sequence[Score], tokens: int, audits: int) -> dict[str, Any]:
    """How many of the audits of so many tokens fail, and by which statistic."""
    found = [audit(scores, tokens, seed) for seed in range(audits)]
    names = found[0].statistics
    return {
        "rows": rule,
        "claim": claim,
        "tokens": tokens,
        "failed": round(statistics.fmean(not one.sound for one in found), 4),
        "failed_by_impossible_tokens": round(statistics.fmean(one.impossible > 0 for one in found), 4),
        "failed_by": {
            name: round(statistics.fmean(one.statistics[name].p_value < one.threshold for one in found), 4)
            for name in names
        },
    }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--prompts", type=int, help="How many demo prompts; all by default.")
@click.option("--choices", default=6, help="Completions of every prompt.")
@click.option("--max-tokens", default=64, help="Tokens of a completion.")
@click.option("--tokens", "sizes", multiple=True, type=int, default=(1_000, 2_000, 4_000, 8_000), help="Of an audit.")
@click.option("--audits", default=AUDITS, show_default=True, help="Of each size.")
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "audit.json")
def main(
    bundle: Path,
    prompts: int | None,
    choices: int,
    max_tokens: int,
    sizes: tuple[int, ...],
    audits: int,
    output: Path,
) -> None:
    """Measure and write the result file."""
    opened, requests = Bundle.open(bundle), read_requests(prompts, choices, max_tokens)
    scorer = Scorer(opened, backend="onnxruntime", device="cpu", batch_size=BATCH, plan=PLAN)
    lines = []
    exact = RULES[PLAN.rule]
    for name, rule in (("exact", exact), ("lenient", dataclasses.replace(exact, select=lenient))):
        rows = decode(opened, rule, requests)
        for claim, changes in CLAIMS.items() if name == "exact" else [("what they are", {})]:
            scores = list(scorer.score(claiming(rows, changes)))
            for tokens in sizes:
                lines.append(line(name, claim, scores, tokens, audits))
                click.echo(json.dumps(lines[-1]))
    how = {"plan": str(PLAN), "lenience": LENIENCE, "completions": len(requests), "audits": audits}
    result = machine() | how | {"false_alarm_rate": FALSE_ALARMS, "lines": lines}
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
