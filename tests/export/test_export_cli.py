from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny_models import save_checkpoint, tiny_model

from spectr_export.cli import main
from spectr_runtime import Bundle


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", [[], ["build"], ["compile"], ["inspect"], ["check"]])
def test_help_shows_an_example(command: Any) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert re.search(r"Example:\n +spectr-export \w+", result.stdout)


def test_help_does_not_wait_for_torch() -> None:
    script = "import sys, spectr_export.cli; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_build_ends_with_one_line_about_the_bundle(pair: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "tiny.bundle"
    target, draft = pair
    result = run("build", target, "--draft", draft, "-o", output, "--capacity", 100)
    assert result.exit_code == 0, result.output
    assert re.fullmatch(
        re.escape(str(output)) + r": 0\.\d MB, capacity 100, logits within \S+ of transformers, \d+ s\n", result.stdout
    )
    assert result.stderr.startswith("draft: llama, ")
    assert Bundle.open(output).manifest.limits.capacity == 100


def test_a_refused_build_is_two_lines_and_an_exit_code(pair: tuple[Path, Path], tmp_path: Path) -> None:
    alibi = save_checkpoint(tmp_path / "alibi", tiny_model("falcon", alibi=True))
    result = run("build", alibi, "--draft", pair[1], "-o", tmp_path / "bundle")
    assert (result.exit_code, result.stdout) == (42, "")
    lines = result.stderr.splitlines()
    assert lines[:1] == ["capacity 128 tokens per text"]
    assert lines[1].startswith("Error: The falcon model has ALiBi position biases")
    assert lines[2].startswith("Use ")
    assert len(lines) == 3


def test_an_existing_output_is_a_usage_error(pair: tuple[Path, Path], tmp_path: Path) -> None:
    result = run("build", pair[0], "--draft", pair[1], "-o", tmp_path)
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: {tmp_path} exists.\nName another path, or replace it with --overwrite.\n",
    )


def test_a_place_that_cannot_be_written_to_is_one_line(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("build", pair[0], "--draft", pair[1], "-o", tmp_path / "file" / "bundle")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: [Errno ")


def test_inspect_shows_a_page(bundle_path: Path) -> None:
    result = run("inspect", bundle_path)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert re.fullmatch(re.escape(str(bundle_path)) + r"  \(0\.\d MB, sha256 [0-9a-f]{16}\)", lines[0])
    assert lines[1] == ("target      llama, float32, 2 layers, 2 key/value heads of 8, 264 logits, made for 128 tokens")
    assert re.fullmatch(r" +\d+\.\d% of its tokens accepted at temperature 1", lines[5])
    assert lines[6:8] == [
        "vocabulary  257 tokens, end tokens 256",
        "limits      128 tokens per text, 256 per call",
    ]


def test_inspect_prints_the_manifest_as_json(bundle_path: Path) -> None:
    result = run("inspect", bundle_path, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads((bundle_path / "spectr.json").read_text())


def test_check_repeats_the_parity(bundle_path: Path) -> None:
    result = run("check", bundle_path)
    assert (result.exit_code, result.stdout) == (0, f"{bundle_path}: sound\n")
    assert [line.split(":")[0] for line in result.stderr.splitlines()[1:]] == ["draft", "target"]


@pytest.mark.parametrize("command", ["check", "inspect"])
def test_an_altered_file_is_refused(bundle_path: Path, tmp_path: Path, command: Any) -> None:
    output = tmp_path / "copy.bundle"
    shutil.copytree(bundle_path, output)
    with (output / "target" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    result = run(command, output)
    assert (result.exit_code, result.stdout) == (42, "")
    assert "target/model.safetensors" in result.stderr


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    result = run("inspect", tmp_path)
    assert result.exit_code == 42
    assert result.stderr.startswith(f"Error: {tmp_path} is not a bundle")
