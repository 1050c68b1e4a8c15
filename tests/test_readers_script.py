"""``benchmarks/readers.py``: known values, a draft that learns, and a wrong law that is noticed."""

from __future__ import annotations

from fractions import Fraction
from types import ModuleType

import pytest
import torch
from scripts import load_benchmark
from transformers import LlamaForCausalLM

from spectr_select import RULES

# V vocabulary.
PARTS = ("papers/readers_odd", "papers/readers_drafts", "readers", "figures/readers")
HEAD = {"date": "2026-01-01", "cores": 2, "processor": "a processor"}


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    return {name: load_benchmark(name) for name in (*PARTS, "quoting/readers")}


def test_the_optimum_of_two_tokens_is_its_closed_form(scripts: dict[str, ModuleType]) -> None:
    readers = scripts["readers"]
    assert readers.optimum(Fraction(3, 4), Fraction(1, 4), 2) == 0.6875
    assert readers.optimum(Fraction(3, 4), Fraction(1, 4), 8) == 1
    found = readers.measure_bernoulli()
    assert found["largest_difference"] < 1e-12
    assert found["families"][0]["curves"]["kseq"][1] == 0.648268
    text = scripts["quoting/readers"].two_tokens({"bernoulli": HEAD | found})
    assert "| 3/4 | 1/4 | `kseq` | 0.5000 | 0.6483 |" in text
    assert text.endswith("`kseq` is above `rrs` for every k from 2 to 16.")


def test_every_rule_has_its_line(scripts: dict[str, ModuleType]) -> None:
    figure = scripts["figures/readers"]
    assert set(RULES) == set(figure.MARKERS) == set(figure.COLOURS) - {"optimal"}


def test_rules_that_lose_by_more_paths_are_named(scripts: dict[str, ModuleType]) -> None:
    by_paths = {"1": {"gbv": [4.0, 0.1], "kseq": [4.0, 0.1]}, "8": {"gbv": [3.0, 0.1], "kseq": [3.9, 0.1]}}
    assert (
        scripts["quoting/readers"].falling({"by_paths": by_paths}) == " Fewer with the most paths than with one: `gbv`."
    )


def test_the_fastest_size_is_named_for_every_cost(scripts: dict[str, ModuleType]) -> None:
    def line(draft: str, distance: float, size: int, timed: float, weights: float) -> dict:
        speeds = {"timed": {"single": timed, "kseq": timed}, "weights": {"single": weights, "kseq": weights}}
        return {"draft": draft, "total_variation": distance, "cost": {"parameters": size}, "speed": speeds}

    own, small, large = line("own", 0.1, 2, 9.0, 9.0), line("a", 0.5, 1, 2.0, 2.0), line("b", 0.4, 2, 1.0, 3.0)
    tell = scripts["quoting/readers"].best_sizes
    assert tell({"lines": [small, large, own]}) == (
        "Of those trained alike, b is nearest to the target; a is fastest with `single` by timed calls and `kseq` by "
        "timed calls; b is fastest with `single` by the weights and `kseq` by the weights. The best may be larger than "
        "any that was trained."
    )
    assert tell({"lines": [small, line("b", 0.4, 2, 1.0, 1.0), own]}).endswith("with either rule by either cost.")


def test_wall_clock_is_quoted_of_the_headline(scripts: dict[str, ModuleType]) -> None:
    cell = {
        "plan": "kseq K=2 L=4", "drafts": 2, "length": 4, "tokens_per_second": 58.9, "block_efficiency": 4.13,
        "to_plain": {"median": 2.0, "least": 1.92, "most": 2.1}, "shares": {"verification": 0.7, "rest": 0.3},
    }  # fmt: skip
    other = cell | {"plan": "single K=1 L=4"}
    models = HEAD | {"prompt_tokens": 64, "tokens_per_prompt": 48, "rows": {"1": {"cells": [other, cell]}}}
    *_, heads, _, only = scripts["quoting/readers"].wall_clock({"pairs": {"padded": models}}).splitlines()
    assert heads.endswith("| verification | rest |")
    assert only == "| 2 | 59 | 4.13 | 2.00 (1.92 to 2.10) | 70 % | 30 % |"


def test_a_power_and_a_speed(scripts: dict[str, ModuleType]) -> None:
    sizes = [10, 20, 40]
    assert scripts["readers"].power(sizes, [size**1.5 for size in sizes]) == {"fitted": 1.5, "last": 1.5}
    assert scripts["readers"].speed(3.0, 0.125) == 2.0


def test_text_that_the_law_excludes_has_no_chance(scripts: dict[str, ModuleType]) -> None:
    law_V = torch.tensor([0.5, 0.5, 0.0])
    assert scripts["papers/readers_odd"].compared(torch.tensor([50, 50, 0]), law_V)[::2] == (0.0, 1.0)
    assert scripts["papers/readers_odd"].compared(torch.tensor([50, 49, 1]), law_V)[2] == 0.0


def test_wrong_drafts_keep_the_law_and_a_wrong_law_does_not(scripts: dict[str, ModuleType]) -> None:
    odd = scripts["papers/readers_odd"]
    target_V, uniform_V = odd.target_law(), odd.draft_laws()["uniform"]
    found = odd.facts("kseq", "uniform", target_V, uniform_V, uniform_V, 2000)
    assert found["p_value"] > 1e-6
    assert 0.78 < found["acceptance"] < 0.87  # 0.8267 of 40,000
    assert odd.facts("kseq", "uniform", target_V, uniform_V, target_V, 2000)["p_value"] < 1e-9
    assert odd.facts("race", "point", target_V, *2 * [odd.draft_laws()["point"]], 200)["acceptance"] == 0


@pytest.fixture(scope="module")
def target(scripts: dict[str, ModuleType]) -> LlamaForCausalLM:
    """A target with random weights."""
    config = scripts["papers/readers_drafts"].Size(64, 1).config
    config.vocab_size = 128
    model, generator = LlamaForCausalLM(config).eval(), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(std=0.1, generator=generator)
    return model


def test_a_draft_begins_with_the_principal_components(scripts: dict[str, ModuleType], target: LlamaForCausalLM) -> None:
    def squares(config) -> torch.Tensor:
        config.vocab_size = 128
        embedding_VE = scripts["papers/readers_drafts"].begun(config, target).get_input_embeddings().weight.detach()
        return embedding_VE @ embedding_VE.T

    whole_VE = target.get_input_embeddings().weight.detach()
    missed = [
        float((squares(scripts["papers/readers_drafts"].Size(hidden, 1).config) - whole_VE @ whole_VE.T).norm())
        for hidden in (64, 32)
    ]
    values = torch.linalg.svdvals(whole_VE)
    assert missed[0] < 1e-3 * missed[1]
    assert missed[1] == pytest.approx(float((values[32:] ** 2).norm()), rel=1e-3)


def test_drafts_learn_together(scripts: dict[str, ModuleType], target: LlamaForCausalLM) -> None:
    drafts = scripts["papers/readers_drafts"]
    configs = [drafts.Size(32, 1).config, drafts.Size(64, 1).config]
    for config in configs:
        config.vocab_size = 128
    models = [drafts.begun(config, target) for config in configs]
    text = torch.randint(128, (4 * drafts.CONTEXT,), generator=torch.Generator().manual_seed(1))

    def apart() -> list[float]:
        with torch.inference_mode():
            target_BTV, *found = (model(text[None, :64]).logits.softmax(-1) for model in (target, *models))
        return [float((one_BTV - target_BTV).abs().sum(-1).mean() / 2) for one_BTV in found]

    before = apart()
    drafts.distil(target, models, text, drafts.Schedule(steps=24, batch=1, learning_rate=2e-2))
    assert not any(model.training for model in models)
    assert all(late < early - 0.05 for late, early in zip(apart(), before, strict=True))
