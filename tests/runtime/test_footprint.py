"""The memory plan: sums by hand, and what the engines then allocate."""

from __future__ import annotations

import dataclasses

import pytest
from eager_pair import eager_bundle

from spectr_runtime import Bundle, Decoder, Plan, Request, SamplingParams
from spectr_runtime.backends import BACKENDS
from spectr_runtime.bundle import Limits
from spectr_runtime.planning.footprint import Footprint
from spectr_runtime.speculation.plan import AUTO


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return eager_bundle(tmp_path_factory.mktemp("pair"))


PLANS = [Plan.plain(), Plan("kseq", 2, 3)]


def memory(decoder: Decoder) -> tuple[int, int]:
    """The bytes of the caches, and those of the prefixes that are kept."""
    engines = [engine for engine in (decoder._loop.pair.target, decoder._loop.pair.draft) if engine is not None]
    blocks = [block for store in decoder._loop.pair.reader._prefixes.values() for block in store._blocks.values()]
    return sum(engine.cache.nbytes for engine in engines), sum(part.nbytes for block in blocks for part in block)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_caches_that_grow_are_planned_for_the_longest_text(bundle: Bundle, plan: Plan) -> None:
    limits = Limits(256, bundle.manifest.limits.tokens_per_call)
    bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, limits=limits))
    planned = Footprint.of(bundle, plan, "torch", 90)
    assert planned.slots < Footprint.of(bundle, plan, "torch").slots
    decoder = Decoder(bundle, plan=plan, backend="torch", batch_size=4)
    prompts = [tuple((row + 7 * place) % 250 for place in range(60)) for row in range(6)]
    params = SamplingParams(max_tokens=30, ignore_eos=True)
    for _ in decoder.generate(Request(str(row), prompt, params) for row, prompt in enumerate([(5, 6), *prompts])):
        caches, prefixes = memory(decoder)
        assert caches <= 4 * planned.cache_per_row
        assert prefixes <= planned.prefixes(4)
    assert decoder._loop.pair.target.cache.slots == planned.slots
    assert prefixes > 0.8 * planned.prefixes(4)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_caches_that_do_not_grow_are_planned_for_the_capacity(bundle: Bundle, plan: Plan) -> None:
    planned = Footprint.of(bundle, plan, "tensorrt")
    assert planned == Footprint.of(bundle, plan, "torch")
    assert Footprint.of(bundle, plan, "tensorrt", 64 - plan.tree.size).slots == 64
    pair = Decoder(bundle, plan=plan, backend="torch", batch_size=3)._loop.pair
    engines = [engine for engine in (pair.target, pair.draft) if engine is not None]
    for engine in engines:
        engine.cache.resize(engine.cache.capacity)
    assert sum(engine.cache.nbytes for engine in engines) == 3 * planned.cache_per_row
    assert {engine.cache.capacity for engine in engines} == {planned.slots}
    roles = ["target", "draft"][: len(engines)]
    assert planned.weights == sum((bundle.path / role / "model.safetensors").stat().st_size for role in roles)


def test_no_text_is_longer_than_the_bundle_takes(bundle: Bundle) -> None:
    whole = Footprint.of(bundle, "auto", "torch")
    assert [Footprint.of(bundle, "auto", "torch", longest) == whole for longest in (10, 10**6)] == [False, True]


def test_the_sums_add_up() -> None:
    planned = Footprint(weights=100, slots=64, per_slot=2, laws_per_row=8)
    assert [planned.total(rows) for rows in (1, 2, 4, 5)] == [100 + 136 + 128, 100 + 272 + 128, 772, 940]
    assert [planned.rows_in(memory) for memory in (99, 100, 363, 364, 499, 500)] == [0, 0, 0, 1, 1, 2]
    assert [planned.rows_in(planned.total(rows) + more) for rows in range(1, 9) for more in (-1, 0)] == [
        rows + more for rows in range(1, 9) for more in (-1, 0)
    ]


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_few_rows_keep_a_whole_text_of_prefixes(bundle: Bundle, rows: int) -> None:
    prompts = [tuple((row + 7 * place) % 250 for place in range(70)) for row in range(4 * rows)]
    planned = Footprint.of(bundle, Plan.plain(), "torch", 71)
    decoder = Decoder(bundle, plan=Plan.plain(), backend="torch", batch_size=rows)
    for row, prompt in enumerate(prompts):
        list(decoder.generate([Request(str(row), prompt, SamplingParams(max_tokens=1))]))
    _, prefixes = memory(decoder)
    assert planned.prefixes(rows) / 2 < prefixes <= planned.prefixes(rows)


def test_auto_takes_what_its_largest_plan_takes(bundle: Bundle) -> None:
    auto, short = (Footprint.of(bundle, plan, "torch") for plan in (AUTO, Plan("race", 1, 2)))
    assert auto.laws_per_row > short.laws_per_row


def test_laws_grow_with_the_tree_and_the_vocabulary(bundle: Bundle) -> None:
    size = bundle.manifest.vocabulary.size
    assert Footprint.of(bundle, Plan.plain(), "torch").laws_per_row == size * 16
    assert Footprint.of(bundle, Plan("kseq", 2, 3), "torch").laws_per_row == 2 * 7 * size * 16


def test_recordings_of_rounds_have_memory_of_their_own(bundle: Bundle) -> None:
    plan = Plan("kseq", 2, 3)
    there = {backend: Footprint.of(bundle, plan, backend, device="cuda:1") for backend in BACKENDS}
    assert {backend: one.recorded_per_row > 0 for backend, one in there.items()} == {
        "torch": True, "tensorrt": True, "tensorrt-rtx": False, "onnxruntime": False,
    }  # fmt: skip
    here, recorded = Footprint.of(bundle, plan, "torch"), there["torch"]
    assert here.recorded_per_row == 0
    assert recorded.total(8) - here.total(8) == 8 * recorded.recorded_per_row == 8 * here.laws_per_row
    assert recorded.rows_in(here.total(8)) < 8 == here.rows_in(here.total(8))
