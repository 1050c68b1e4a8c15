"""Run the tests with every dependency at the lower bound that pyproject.toml states for it.

    python benchmarks/lower_bounds.py
    python benchmarks/lower_bounds.py tests/runtime --environment build/lower_bounds

The tests run in an environment of their own. It holds torch in the version that constraints.txt pins, every other
direct dependency at its lower bound, and the newest versions of indirect dependencies that pip finds to fit. The
result file tells the versions, the line with which pytest closed, and the failures, of which true bounds have none.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from machine import machine
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "lower_bounds.json"
EXTRAS = ("remote", "test")  # the tests name all others that they import
TESTS = ("--numprocesses", "auto", "--maxprocesses", "4", "--dist", "loadfile")
CLOSING = re.compile(r"=* ?(\d+ (?:passed|failed|skipped|error|deselected|xfailed).*?) ?=*")


def lower_bounds() -> dict[str, str]:
    """Return, for each direct dependency but torch, its name and a requirement of exactly the lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, tuple[Version, str]] = {}
    for requirement in [*map(Requirement, project["dependencies"]), *of_extras(project, EXTRAS)]:
        name = canonicalize_name(requirement.name)
        if name != "torch":
            (bound,) = requirement.specifier
            written = f"{name}[{','.join(requirement.extras)}]" if requirement.extras else name
            # Two extras may name one package; together they need the higher bound.
            found[name] = max(
                found.get(name, (Version("0"), "")), (Version(bound.version), f"{written}=={bound.version}")
            )
    return {name: requirement for name, (_, requirement) in found.items()}


def of_extras(project: Mapping[str, Any], extras: Iterable[str]) -> Iterator[Requirement]:
    """Yield what extras require, and what those extras of the project require that they name."""
    for extra in extras:
        for requirement in map(Requirement, project["optional-dependencies"][extra]):
            if requirement.name == project["name"]:
                yield from of_extras(project, sorted(requirement.extras))
            else:
                yield requirement


def pinned_torch() -> str:
    """Return the line of constraints.txt that pins torch."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def installed(python: Path) -> dict[str, str]:
    """Return the versions of the packages in an environment, by name."""
    listed = subprocess.run([python, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True)
    return {canonicalize_name(one["name"]): one["version"] for one in json.loads(listed.stdout)}


def install(folder: Path, bounds: Sequence[str]) -> Path:
    """Make the environment and return the path of its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--upgrade", "pip"], check=True)
    subprocess.run([*pip, pinned_torch()], check=True)
    # The requirement names the build of torch too ("2.13.0+cpu"). Otherwise pip tries the other builds, which are
    # gigabytes, where the bounds exclude each other.
    subprocess.run([*pip, f"torch=={installed(python)['torch']}", *bounds], check=True)
    subprocess.run([*pip, "--no-deps", "--editable", ROOT], check=True)
    return python


def run_tests(python: Path, tests: Sequence[str]) -> list[str]:
    """Run pytest, show what it writes, and return its lines."""
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-m", "pytest", *TESTS, *tests]
    with subprocess.Popen(command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            click.echo(line, nl=False)
            lines.append(line.rstrip())
    return lines


@click.command()
@click.argument("tests", nargs=-1)
@click.option("--environment", type=click.Path(path_type=Path), help="Folder for the environment, which is kept there.")
@click.option("-o", "--output", default=RESULT, type=click.Path(path_type=Path), help="Where the result goes.")
def main(tests: tuple[str, ...], environment: Path | None, output: Path) -> None:
    """Run TESTS, by default all, with every dependency at its lower bound."""
    bounds = lower_bounds()
    with tempfile.TemporaryDirectory() as temporary:
        python = install(environment or Path(temporary) / "environment", list(bounds.values()))
        versions = installed(python)
        lines = run_tests(python, tests)
    closing = next(
        (found[1] for line in reversed(lines) if (found := CLOSING.fullmatch(line))), "pytest did not finish"
    )
    failures = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    direct = {name: versions[name] for name in sorted({*bounds, "torch"})}
    result = {
        **machine(),
        "versions": direct,
        "others": {name: version for name, version in versions.items() if name not in {*direct, "spectr"}},
        "tests": list(tests) or ["tests"],
        "closing": closing,
        "failures": failures,
    }
    output.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(bool(failures) or " passed" not in closing)


if __name__ == "__main__":
    main()
