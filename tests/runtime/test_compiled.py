"""The choice of the engine for a machine, and the refusals with their words; without TensorRT and without a GPU."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from spectr_runtime import Bundle, BundleError, EngineError, Manifest, ModelSpec
from spectr_runtime.bundle import Limits, Vocabulary
from spectr_runtime.bundle.compiled import CompiledEngine, Dimension, EngineKey, Profile, choose_profile
from spectr_runtime.bundle.engines import find_engine, find_engines, list_engines

ADA = EngineKey("tensorrt-rtx", "1.7.1.116", ("8.9",))
HOPPER = EngineKey("tensorrt", "10.15.1", ("9.0",), "NVIDIA H100 80GB HBM3")
FLEET = EngineKey("tensorrt-rtx", "1.7.1.116", ("8.0", "8.9"))
PROFILES = (
    Profile(
        "decode",
        {"B": Dimension(1, 4, 8), "T": Dimension(1, 4, 16), "L": Dimension(1, 64, 192), "M": Dimension(1, 4, 16)},
    ),
    Profile(
        "prefill",
        {"B": Dimension(1, 8, 8), "T": Dimension(1, 32, 32), "L": Dimension(1, 64, 192), "M": Dimension(1, 1, 1)},
    ),
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    spec = ModelSpec("llama", 2, 1, 8, 64, 128)
    files = {"draft/model.onnx": "11", "target/model.onnx": "22"}
    manifest = Manifest(
        {"draft": spec, "target": spec}, Vocabulary(64, (0,)), Limits(128, 32), files, {}, {"draft": {}, "target": {}}
    )
    return Bundle(tmp_path, manifest)


def compiled_for(bundle: Bundle, key: EngineKey = ADA, engine: bytes = b"engine") -> CompiledEngine:
    return CompiledEngine(
        key=key,
        model_sha256=bundle.model_sha256("target"),
        sha256=hashlib.sha256(engine).hexdigest(),
        capacity=192,
        profiles=PROFILES,
        attention="fused",
        weight_streaming=False,
    )


def put(bundle: Bundle, compiled: CompiledEngine, engine: bytes = b"engine", name: str = "") -> Path:
    path = bundle.path / "target" / "engines" / f"{name or compiled.name}.engine"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{name or compiled.name}.json").write_text(json.dumps(compiled.to_json()))
    path.write_bytes(engine)
    return path


def of_size(bundle: Bundle, key: EngineKey, rows: int, slots: int) -> CompiledEngine:
    """An engine of so many rows and slots."""
    sizes = {"B": Dimension(1, rows, rows), "L": Dimension(1, 1, slots)}
    profiles = tuple(Profile(one.name, {**one.spans, **sizes}) for one in PROFILES)
    return dataclasses.replace(compiled_for(bundle, key), capacity=slots, profiles=profiles)


def test_names_of_engines_say_what_they_are_for() -> None:
    assert ADA.name == "tensorrt-rtx-1.7.1.116-sm89"
    assert HOPPER.name == "tensorrt-10.15.1-sm90-nvidia-h100-80gb-hbm3"
    assert FLEET.name == "tensorrt-rtx-1.7.1.116-sm80-sm89"
    engine = CompiledEngine(HOPPER, "", "", 192, PROFILES, "fused", weight_streaming=False)
    assert engine.name == "tensorrt-10.15.1-sm90-nvidia-h100-80gb-hbm3-192-slots"
    assert str(HOPPER) == "tensorrt 10.15.1 on compute capability 9.0 (NVIDIA H100 80GB HBM3)"


def test_a_record_survives_the_disk(bundle: Bundle) -> None:
    compiled = compiled_for(bundle, HOPPER)
    assert CompiledEngine.from_json(json.loads(json.dumps(compiled.to_json()))) == compiled
    assert compiled.rows == 8


def test_the_engine_of_this_machine_is_found_among_others(bundle: Bundle) -> None:
    others = (HOPPER, dataclasses.replace(ADA, capabilities=("12.0",)), dataclasses.replace(ADA, version="1.6.0"))
    for key in others:
        put(bundle, compiled_for(bundle, key))
    path = put(bundle, compiled_for(bundle))
    assert find_engine(bundle, "target", ADA, rows=1, slots=1) == (path, compiled_for(bundle))
    assert len(list_engines(bundle, "target")) == 4
    assert list_engines(bundle, "draft") == {}


@pytest.mark.parametrize(
    ("rows", "slots", "key", "capacity"),
    [
        (4, 192, FLEET, 192),
        (4, 193, ADA, 960),
        (4, 961, FLEET, 1088),
        (5, 1, ADA, 960),
        (8, 1088, ADA, 1088),
        (9, 1, ADA, 1088),
        (1, 1089, ADA, 1088),
    ],
)
def test_the_smallest_engine_that_is_large_enough_is_found_or_else_the_largest(
    bundle: Bundle, rows: int, slots: int, key: EngineKey, capacity: int
) -> None:
    for compiled in [of_size(bundle, ADA, 8, 1088), of_size(bundle, ADA, 8, 960)]:
        put(bundle, compiled)
    for compiled in [of_size(bundle, FLEET, 4, 1088), of_size(bundle, FLEET, 4, 192)]:
        put(bundle, compiled)
    path, compiled = find_engine(bundle, "target", ADA, rows=rows, slots=slots)
    assert (compiled.key, compiled.capacity, path.stem) == (key, capacity, f"{key.name}-{capacity}-slots")


def test_engines_are_listed_by_machine_and_size(bundle: Bundle) -> None:
    for key, slots in ((FLEET, 1088), (ADA, 1088), (ADA, 192), (ADA, 960)):
        put(bundle, of_size(bundle, key, 8, slots))
    listed = [(one.key, one.capacity) for one in list_engines(bundle, "target").values()]
    assert listed == [(FLEET, 1088), (ADA, 192), (ADA, 960), (ADA, 1088)]
    assert [one.capacity for _, one in find_engines(bundle, "target", ADA)] == [192, 960, 1088, 1088]
    assert [
        one.capacity for _, one in find_engines(bundle, "target", dataclasses.replace(ADA, capabilities=("8.0",)))
    ] == [1088]


def test_an_engine_of_before_whose_name_does_not_say_its_size_is_found(bundle: Bundle) -> None:
    path = put(bundle, compiled_for(bundle), name=ADA.name)
    assert find_engine(bundle, "target", ADA, rows=1, slots=1) == (path, compiled_for(bundle))


def test_an_engine_for_several_capabilities_serves_each(bundle: Bundle) -> None:
    path = put(bundle, compiled_for(bundle, FLEET))
    assert find_engine(bundle, "target", ADA, rows=1, slots=1) == (path, compiled_for(bundle, FLEET))
    assert FLEET.runs_on(dataclasses.replace(ADA, capabilities=("8.0",)))
    assert not FLEET.runs_on(dataclasses.replace(ADA, capabilities=("8.6",)))


@pytest.mark.parametrize(
    "held",
    [
        dataclasses.replace(ADA, version="1.7.2.5"),
        dataclasses.replace(ADA, capabilities=("8.6", "12.0")),
        HOPPER,
    ],
)
def test_another_gpu_or_version_is_refused_with_the_command_that_fixes_it(bundle: Bundle, held: EngineKey) -> None:
    put(bundle, compiled_for(bundle, held))
    with pytest.raises(EngineError) as caught:
        find_engine(bundle, "target", ADA, rows=1, slots=1)
    assert caught.value.message == (
        "The target has no engine for tensorrt-rtx 1.7.1.116 on compute capability 8.9, which this machine needs; "
        f"it has {held}."
    )
    assert caught.value.hint == (f"Run `spectr-export compile {bundle.path} --backend tensorrt-rtx` on this machine.")


def test_a_bundle_without_engines_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"The draft has no engine for tensorrt 10\.15\.1 .* it has none\."):
        find_engine(bundle, "draft", HOPPER, rows=1, slots=1)


def test_a_swapped_engine_is_refused(bundle: Bundle) -> None:
    put(bundle, compiled_for(bundle), b"another")
    with pytest.raises(
        BundleError, match=r"sm89-192-slots\.engine is not the engine that was compiled: its SHA-256 differs"
    ):
        find_engine(bundle, "target", ADA, rows=1, slots=1)


def test_an_engine_of_another_model_is_refused(bundle: Bundle) -> None:
    put(bundle, dataclasses.replace(compiled_for(bundle), model_sha256=bundle.model_sha256("draft")))
    with pytest.raises(BundleError, match="was compiled from another model than the target beside it") as caught:
        find_engine(bundle, "target", ADA, rows=1, slots=1)
    assert caught.value.hint == f"Run `spectr-export compile {bundle.path} --backend tensorrt-rtx` again."


def test_a_missing_engine_is_refused(bundle: Bundle) -> None:
    put(bundle, compiled_for(bundle)).unlink()
    with pytest.raises(BundleError, match="is missing from the bundle"):
        find_engine(bundle, "target", ADA, rows=1, slots=1)


def test_an_engine_outside_the_bundle_is_refused(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "engine"
    elsewhere.write_bytes(b"engine")
    path = put(bundle, compiled_for(bundle))
    path.unlink()
    path.symlink_to(elsewhere)
    with pytest.raises(BundleError, match="is missing from the bundle"):
        find_engine(bundle, "target", ADA, rows=1, slots=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"capacity": -1}, "CompiledEngine.capacity is -1; it must be a whole number"),
        ({"capacity": "192"}, "CompiledEngine.capacity is '192'"),
        ({"capacity": 64}, "A profile writes or sees 192 slots; a row of the engine has 64"),
        ({"weight_streaming": 1}, "CompiledEngine.weight_streaming is 1; it must be a bool"),
        ({"sha256": None}, "CompiledEngine.sha256 is None; it must be a str"),
        ({"profiles": []}, r"must serve the same number of rows; these serve \[\]"),
        ({"profiles": {}}, "must serve the same number of rows"),
        ({"profiles": [{"name": "decode", "spans": {}}]}, r"Profile 'decode' spans \[\]; it must span B, T, L, M"),
        ({"profiles": 3}, "missing or malformed"),
        ({"key": {"flavour": "tensorrt"}}, "missing or malformed"),
        (
            {"key": dataclasses.asdict(ADA) | {"gpu": "NVIDIA L4"}},
            "names the GPU 'NVIDIA L4'; engines of TensorRT must name a GPU, those of TensorRT-RTX none",
        ),
        ({"key": dataclasses.asdict(ADA) | {"capabilities": ["../8"]}}, r"Compute capabilities are \('../8',\)"),
        ({"key": dataclasses.asdict(ADA) | {"capabilities": []}}, r"Compute capabilities are \(\); they must be"),
        ({"key": dataclasses.asdict(ADA) | {"capabilities": [8.9]}}, "missing or malformed"),
        ({"key": dataclasses.asdict(ADA) | {"version": "1/2"}}, "The version is '1/2'; it must be one such"),
        ({"key": dataclasses.asdict(ADA) | {"version": "1.6.0"}}, "It describes tensorrt-rtx 1.6.0"),
        ({"capacity": 256}, r"It describes tensorrt-rtx 1\.7\.1\.116 .* with rows of 256 slots"),
        ({"nonsense": 1}, "missing or malformed"),
    ],
)
def test_a_malformed_record_is_refused(bundle: Bundle, changes: dict[str, Any], words: str) -> None:
    record = put(bundle, compiled_for(bundle)).with_suffix(".json")
    record.write_text(json.dumps(json.loads(record.read_text()) | changes))
    with pytest.raises(BundleError, match=f"is not the record of an engine: .*{words}") as caught:
        list_engines(bundle, "target")
    assert caught.value.hint == "Remove it and run `spectr-export compile` again."


@pytest.mark.parametrize("content", ["{", "[]", "3", "\x00", "[" * 100_000])
def test_a_record_that_is_no_object_is_refused(bundle: Bundle, content: str) -> None:
    put(bundle, compiled_for(bundle)).with_suffix(".json").write_text(content)
    with pytest.raises(BundleError, match="is not the record of an engine"):
        list_engines(bundle, "target")


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 3), (1, 3, 2), (1, 1.0, 1), (1, 1, 2**31)])
def test_a_dimension_starts_at_one_and_rises(sizes: tuple[Any, Any, Any]) -> None:
    with pytest.raises(BundleError):
        Dimension(*sizes)


def test_profiles_of_different_rows_are_refused(bundle: Bundle) -> None:
    other = Profile("prefill", {**PROFILES[1].spans, "B": Dimension(1, 4, 4)})
    with pytest.raises(BundleError, match=r"must serve the same number of rows; these serve \[4, 8\]"):
        dataclasses.replace(compiled_for(bundle), profiles=(PROFILES[0], other))


def test_a_profile_that_wants_more_logits_than_it_feeds_is_refused() -> None:
    with pytest.raises(BundleError, match="returns the logits of 17 tokens and feeds at most 16"):
        Profile("decode", {**PROFILES[0].spans, "M": Dimension(1, 4, 17)})


@pytest.mark.parametrize(
    ("sizes", "place"),
    [
        ({"B": 1, "T": 1, "L": 1, "M": 1}, 0),
        ({"B": 8, "T": 16, "L": 192, "M": 16}, 0),
        ({"B": 8, "T": 17, "L": 64, "M": 1}, 1),
        ({"B": 1, "T": 32, "L": 192, "M": 1}, 1),
    ],
)
def test_the_first_profile_that_takes_a_call_serves_it(sizes: dict[str, int], place: int) -> None:
    assert choose_profile(PROFILES, sizes) == place


@pytest.mark.parametrize(
    "sizes",
    [
        {"B": 9, "T": 1, "L": 64, "M": 1},
        {"B": 1, "T": 17, "L": 64, "M": 2},
        {"B": 1, "T": 33, "L": 64, "M": 1},
        {"B": 1, "T": 1, "L": 193, "M": 1},
    ],
)
def test_a_call_that_no_profile_takes_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(EngineError, match=r"it has decode B=1\.\.8 L=1\.\.192 M=1\.\.16 T=1\.\.16; prefill B=1\.\.8"):
        choose_profile(PROFILES, sizes)
