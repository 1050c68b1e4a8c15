"""The job files of ``examples/`` are what the commands write, given in the folder /data/spectr."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from spectr_jobs.cli import main as cli
from spectr_jobs.cli import submit as command

EXAMPLES = Path(__file__).parents[2] / "examples"
SETUP = (
    "--setup",
    '# In the image of the Dockerfile, instead of the next line: export PATH="$PWD/examples/apptainer:$PATH"',
    "--setup",
    "source .venv/bin/activate",
)
RUN = ("--", "build/demo/bundle", "examples/prompts.jsonl", "-o", "build/demo/run")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (
            "slurm.sbatch",
            ("slurm", "--ranks", 8, "--time", "4h", "--memory", "64G", *SETUP),
        ),
        (
            "kubernetes.yaml",
            (
                "kubernetes",
                "--ranks",
                8,
                "--memory",
                "64Gi",
                "--image",
                "registry.example/spectr:0.1",
                "--claim",
                "work",
            ),
        ),
    ],
)
def test_a_job_file_is_what_the_command_writes(
    batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: tuple[object, ...]
):
    monkeypatch.setattr(command.Path, "cwd", lambda: Path("/data/spectr"))
    written = tmp_path / name
    assert batch("submit", *arguments, "--to", written, *RUN, "--device", "cuda").code == 0
    assert (EXAMPLES / name).read_text() == written.read_text()


def test_apptainer_runs_the_command_in_the_image(tmp_path: Path):
    apptainer = tmp_path / "apptainer"
    apptainer.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 75\n")
    apptainer.chmod(0o755)
    paths = os.pathsep.join([str(EXAMPLES / "apptainer"), str(tmp_path), os.environ["PATH"]])
    done = subprocess.run(
        ["spectr-batch", "run", "a b"], env={"PATH": paths}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    words = ["exec", "--nv", "--bind", str(tmp_path), "spectr.sif", "spectr-batch", "run", "a b"]
    assert (done.returncode, done.stdout.splitlines()) == (75, words)


def test_the_ray_start_is_a_command_that_is_understood():
    lines = (EXAMPLES / "ray.sh").read_text().splitlines()
    assert lines[0] == "#!/bin/sh"
    words = shlex.split(" ".join(line.removesuffix("\\") for line in lines if not line.startswith("#")))
    assert words[:4] == ["exec", "spectr-batch", "submit", "ray"]
    submit = cli.cli.commands["submit"]
    assert isinstance(submit, command.click.Group)
    values = submit.commands["ray"].make_context("ray", words[4:]).params
    assert (values["ranks"], values["address"], values["arguments"][:4]) == (8, "auto", RUN[1:])
    run = cli.cli.commands["run"].make_context("run", list(values["arguments"])).params
    assert run["device"] == "cuda"
