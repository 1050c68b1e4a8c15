from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

RUN = ["--", "bundle", "in put.jsonl", "-o", "run", "--drain-timeout", "30s"]


@pytest.fixture
def submitted(batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def write(queue: str, *options: object, run: list[str] = RUN) -> str:
        result = batch("submit", queue, "--ranks", 3, "--to", "job", *options, *run)
        assert result.code == 0, result.err
        return (tmp_path / "job").read_text()

    return write


def slurm_options(script: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH ")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_a_slurm_array_has_a_task_per_rank_a_warning_and_requeueing(submitted, tmp_path: Path):
    options = slurm_options(submitted("slurm", "--time", "1-02:00:00", "--memory", "64G", "--partition", "gpu"))
    assert options == {
        "job-name": "spectr",
        "array": "0-2",
        "ntasks": "1",
        "cpus-per-task": "8",
        "gpus-per-task": "1",
        "mem": "64G",
        "partition": "gpu",
        "time": "1-02:00:00",
        "signal": "USR1@70",
        "chdir": str(tmp_path),
        "output": "spectr-%A_%a.log",
        "open-mode": "append",
        "requeue": "",
    }


def test_what_is_not_given_is_left_to_the_cluster(submitted):
    options = slurm_options(submitted("slurm", "--time", "90m", "--gpus", 0))
    assert options["time"] == "0-01:30:00"
    assert options.keys().isdisjoint({"gpus-per-task", "mem", "partition"})


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"), [(0, 0, False), (3, 0, False), (75, 5, True), (75, 100, False)]
)
def test_the_slurm_script_runs_the_command_and_requeues_what_was_interrupted(
    submitted, tmp_path: Path, code: int, restarts: int, requeued: bool
):
    submitted("slurm", "--time", "1h", "--setup", "export READY=yes")
    for name, content in {
        "srun": f'printf "%s\\n" "$READY" "$@" > "{tmp_path}/called"; exit {code}',
        "scontrol": f'echo "$@" > "{tmp_path}/requeued"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{content}\n")
        (tmp_path / name).chmod(0o755)
    told = {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": str(restarts)}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(["bash", "job"], env=told | {"PATH": path}, check=False)
    assert ended.returncode == code
    called = (tmp_path / "called").read_text().splitlines()
    assert called == ["yes", "spectr-batch", "run", "bundle", "in put.jsonl", "-o", "run", "--drain-timeout", "30s"]
    assert (tmp_path / "requeued").exists() is requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 9_2\n"


def kubernetes_job(submitted: Any, *options: object) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(submitted("kubernetes", "--image", "r/s:1", "--claim", "work", *options))


def test_a_kubernetes_job_has_an_index_per_rank_and_knows_the_exit_codes(submitted):
    job = kubernetes_job(submitted, "--memory", "64Gi", "--gpus", 2)
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (3, 3, "Indexed")
    actions = {rule["action"]: rule["onExitCodes"]["values"] for rule in spec["podFailurePolicy"]["rules"][:2]}
    assert actions == {"FailIndex": [2, 3, 42], "Ignore": [75]}
    pod = spec["template"]["spec"]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 50)
    (container,) = pod["containers"]
    assert container["command"][1:] == ["run", *RUN[1:]]
    assert container["env"] == [{"name": "SPECTR_WORLD", "value": "3"}]
    assert container["resources"] == {"requests": {"cpu": "8", "memory": "64Gi"}, "limits": {"nvidia.com/gpu": "2"}}
    assert {rule["onExitCodes"]["containerName"] for rule in spec["podFailurePolicy"]["rules"][:2]} == {
        container["name"]
    }


@pytest.mark.parametrize("options", [[], ["--gpus", 0], ["--memory", "1Gi", "--mount", "/data"]])
def test_a_kubernetes_job_follows_the_published_schema(submitted, options: list[object]):
    validate = pytest.importorskip("kubernetes_validate")
    job = kubernetes_job(submitted, *options)
    validate.validate(job, "1.33", strict=True)
    job["spec"]["completions"] = "three"
    with pytest.raises(validate.ValidationError):
        validate.validate(job, "1.33", strict=True)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (["--", "bundle"], "Missing argument 'INPUT...'"),
        (["--", "bundle", "in", "-o", "run", "--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["--", "bundle", "in", "-o", "-"], "A job has no stdin or stdout"),
        (["--", "bundle", "-", "-o", "run"], "A job has no stdin or stdout"),
        (["--", "bundle", "in", "-o", "run", "--rank", "0", "--world", "1"], "--rank is set by the queue"),
    ],
)
def test_the_command_of_the_run_is_checked(
    batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: list[str], message: str
):
    monkeypatch.chdir(tmp_path)
    result = batch("submit", "slurm", "--ranks", 1, "--time", "1h", *run)
    assert (result.code, list(tmp_path.iterdir())) == (2, [])
    assert message in result.err


def test_a_script_that_was_edited_is_not_overwritten(batch, submitted, tmp_path: Path):
    text = submitted("slurm", "--time", "1h")
    assert submitted("slurm", "--time", "1h") == text
    (tmp_path / "job").write_text(text + "# mine\n")
    result = batch("submit", "slurm", "--ranks", 3, "--to", "job", "--time", "1h", *RUN)
    assert (result.code, "job exists with other content." in result.err) == (2, True)


def test_how_to_start_is_told(batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = batch("submit", "slurm", "--ranks", 3, "--time", "1h", *RUN)
    assert result.err == "spectr-batch: wrote spectr.sbatch; start it with: sbatch spectr.sbatch\n"
