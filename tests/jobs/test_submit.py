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
    assert actions == {"FailIndex": [2, 3, 42, 65], "Ignore": [75]}
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
        (["--", "bundle", "in", "-o", "-"], "A job has no stdin, pipe or stdout to read or write; name files."),
        (["--", "bundle", "-", "-o", "run"], "A job has no stdin, pipe or stdout to read or write; name files."),
        (["--", "bundle", "/dev/fd/63", "-o", "run"], "A job has no stdin, pipe or stdout to read or write;"),
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


ARRAY = ("slurm", "--ranks", 3, "--time", "1h")
JOB = ("kubernetes", "--ranks", 3, "--image", "r/s:1", "--claim", "work")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*ARRAY, "--name", "my job"), "--name is 'my job'; allowed is up to 200 letters, digits, dots, - and _,"),
        ((*ARRAY, "--name", "a/b"), "--name is 'a/b'; allowed is up to 200 letters"),
        ((*ARRAY, "--name", "a%j"), "--name is 'a%j'; allowed is up to 200 letters"),
        ((*ARRAY, "--name", "x\n#SBATCH --uid=0"), "--name is 'x\\n#SBATCH --uid=0'; allowed is up to 200 letters"),
        ((*ARRAY, "--name", ""), "--name is ''; allowed is up to 200 letters"),
        ((*ARRAY, "--partition", "a b"), "--partition is 'a b'; allowed is a partition, or several with commas"),
        (
            (*ARRAY, "--memory", "64GB"),
            "--memory is '64GB'; allowed is a number of megabytes, or one with K, M, G or T",
        ),
        (
            ("slurm", "--ranks", 3, "--time", "70s"),
            "--time is 1 min 10 s, but a task is warned 1 min 10 s before that; allowed is a longer time. "
            "Raise --time, or lower --drain-timeout.",
        ),
        (("slurm", "--ranks", 3, "--time", "0s"), "--time is 0.0 s, but a task is warned 1 min 10 s before that;"),
        ((*ARRAY, "--to", "none/there/s"), "--to none/there/s: there is no folder none/there."),
        ((*JOB, "--name", "My_Job"), "--name is 'My_Job'; allowed is up to 61 small letters, digits and -,"),
        ((*JOB, "--name", "x" * 62), f"--name is '{'x' * 62}'; allowed is up to 61 small letters, digits and -,"),
        (
            (*JOB, "--name", "-x"),
            "--name is '-x'; allowed is up to 61 small letters, digits and -, first and last no -.",
        ),
        ((*JOB, "--name", ""), "--name is ''; allowed is up to 61 small letters"),
        ((*JOB, "--name", 'a: b"c'), """--name is 'a: b"c'; allowed is up to 61 small letters"""),
        ((*JOB, "--memory", "64GB"), "--memory is '64GB'; allowed is an amount such as 64Gi or 64G."),
        ((*JOB, "--memory", "lots"), "--memory is 'lots'; allowed is an amount such as 64Gi or 64G."),
        ((*JOB, "--mount", "work"), "--mount is 'work'; allowed is an absolute path without a colon."),
        ((*JOB, "--claim", "My Claim"), "--claim is 'My Claim'; allowed is the name of a volume claim."),
        ((*JOB, "--ranks", 100_001), "--ranks is 100001; allowed are up to 100000 indices of a job."),
    ],
)
def test_what_the_queue_would_not_take_is_refused(
    batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], message: str
):
    monkeypatch.chdir(tmp_path)
    result = batch("submit", *options, *RUN)
    assert (result.code, list(tmp_path.iterdir())) == (2, [])
    assert message in result.err


@pytest.mark.parametrize("name", ["x" * 61, "a-1", "7"])
def test_the_longest_name_of_a_kubernetes_job_is_taken(submitted, name: str):
    assert kubernetes_job(submitted, "--name", name)["metadata"]["name"] == name


def test_a_folder_with_blanks_is_quoted_as_sbatch_reads_it(batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "my dir #1"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert batch("submit", *ARRAY, "--partition", "gpu,cpu", "--to", "job", *RUN).code == 0
    options = slurm_options((folder / "job").read_text())
    assert options["chdir"] == f'"{folder}"'
    assert options["partition"] == "gpu,cpu"


def test_a_folder_that_sbatch_cannot_be_told_is_refused(batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / 'a"b'
    folder.mkdir()
    monkeypatch.chdir(folder)
    result = batch("submit", *ARRAY, *RUN)
    assert result.code == 2
    assert "has a quote, a backslash or a line break in its name, which sbatch cannot be told." in result.err


def test_a_bundle_and_inputs_that_are_not_here_are_told(batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").touch()
    run = ("--", "bundle", "in.jsonl", "*.jsonl", "s3://bucket/in.jsonl", "none*.jsonl", "-o", "run")
    result = batch("submit", *ARRAY, *run)
    assert result.code == 0
    assert result.err.splitlines()[:-1] == [
        f"spectr-batch: warning: there is no {name} here; the machines of the queue must have it under this path"
        for name in ("bundle", "none*.jsonl")
    ]


def test_a_script_that_was_edited_is_not_overwritten(batch, submitted, tmp_path: Path):
    text = submitted("slurm", "--time", "1h")
    assert submitted("slurm", "--time", "1h") == text
    (tmp_path / "job").write_text(text + "# mine\n")
    result = batch("submit", "slurm", "--ranks", 3, "--to", "job", "--time", "1h", *RUN)
    assert (result.code, "job exists with other content." in result.err) == (2, True)


def test_how_to_start_is_told(batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = batch("submit", "slurm", "--ranks", 3, "--time", "1h", *RUN)
    assert result.err.endswith("spectr-batch: wrote spectr.sbatch; start it with: sbatch spectr.sbatch\n")
