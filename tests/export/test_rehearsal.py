"""The dry run of a build estimates the bundle and checks the pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from architectures import ARCHITECTURES
from click.testing import CliRunner
from tiny_models import VOCABULARY, Exported, save_checkpoint, tiny_model

from spectr_export.cli import main
from spectr_export.member import Member
from spectr_export.rehearsal import SECONDS_PER_LAYER, SECONDS_PER_TRACE, Estimate
from spectr_export.storing.precision import FLOAT32, Precision
from spectr_export.weights import read_header


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_size_foretold_is_the_size_written(architecture: str, exported: Callable[[str], Exported]) -> None:
    made = exported(architecture)
    expected = Estimate.of(Member("target", made.folder, FLOAT32), made.model.config)
    assert expected.size == sum(entry.length for entry in read_header(made.folder / "model.safetensors").values())
    assert expected.layers == made.spec.layers


def test_memory_goes_with_the_largest_file_or_matrix_and_not_with_the_experts(
    exported: Callable[[str], Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exported("qwen3_moe")

    def expected() -> Estimate:
        return Estimate.of(Member("target", made.folder, FLOAT32), made.model.config)

    assert expected().largest_matrix == 4 * 6 * 48 * 32  # all experts of a layer are one product
    monkeypatch.setattr("spectr_runtime.bundle.stacks.PRODUCT", 48 * 32)
    assert expected().largest_matrix == 4 * VOCABULARY * 32
    assert expected().memory == 3 * 4 * VOCABULARY * 32 + 2e9
    few = dataclasses.replace(expected(), largest_file=1000)
    assert few.memory == 1300 + 2e9


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_rounding_to_int4_takes_memory_for_the_most_inputs_of_a_layer(architecture: str, tmp_path: Path) -> None:
    model = tiny_model(architecture, hidden_size=64, intermediate_size=96)
    model.save_pretrained(tmp_path)
    exact, int4 = (
        Estimate.of(Member("target", tmp_path, precision), model.config)
        for precision in (FLOAT32, Precision("float32", "int4"))
    )
    most = {"llama": 96, "gpt2": 256}[architecture]
    assert (int4.most_inputs, exact.most_inputs, exact.rounded) == (most, 0, 0)
    assert int4.memory - exact.memory == 4 * most * (2 * most + 4 * 2048)
    assert int4.seconds > exact.seconds


def test_a_dry_run_checks_the_pair_and_writes_nothing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    result = CliRunner().invoke(main, ["build", str(pair[0]), "--draft", "int8", "-o", str(output), "--dry-run"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "dry run, nothing is written"
    assert [line.split()[0] for line in lines[1:]] == [
        "target",
        "draft",
        "vocabulary",
        "limits",
        "disk",
        "memory",
        "time",
    ]
    assert "int8 weights and float32" in lines[2]
    assert not output.exists()
    other = save_checkpoint(tmp_path / "other", tiny_model("mpt"))
    refused = CliRunner().invoke(main, ["build", str(other), "--draft", str(pair[1]), "-o", str(output), "--dry-run"])
    assert refused.exit_code == 42
    assert refused.stdout == ""


def test_the_time_grows_with_the_layers_and_with_what_the_checks_read(exported: Callable[[str], Exported]) -> None:
    made = exported("llama")
    plain = dataclasses.replace(
        Estimate.of(Member("target", made.folder, FLOAT32), made.model.config), parameters=10**9
    )
    kinds = [Precision("float32", "none"), Precision("float32", "int4"), Precision("bfloat16", "none")]
    seconds = [dataclasses.replace(plain, precision=kind).seconds for kind in kinds]
    assert seconds == sorted(set(seconds))
    deeper = dataclasses.replace(plain, layers=plain.layers + 10)
    assert deeper.seconds == pytest.approx(plain.seconds + 10 * SECONDS_PER_LAYER)


def test_a_quantised_copy_takes_no_trace_of_its_own(pair: tuple[Path, Path], tmp_path: Path) -> None:
    def foretold(draft: str) -> int:
        arguments = ["build", str(pair[0]), "--draft", draft, "-o", str(tmp_path / "bundle"), "--dry-run"]
        line = CliRunner().invoke(main, arguments).stdout.splitlines()[-1]
        return int(line.split("about ")[1].split(" s")[0])

    saved = foretold(str(pair[1])) - foretold("int8")
    assert saved == pytest.approx(SECONDS_PER_TRACE, abs=1), "whole seconds are told"
