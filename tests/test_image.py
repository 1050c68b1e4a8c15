"""The Dockerfile fits the repository. No image is built: a test has neither Docker nor a registry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their arguments, continued lines joined."""
    lines = [line for line in TEXT.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(name, arguments) for name, arguments in (line.split(maxsplit=1) for line in joined)]


def arguments_of(name: str) -> list[str]:
    return [arguments for found, arguments in instructions() if found == name]


def extras() -> list[str]:
    (named,) = re.findall(r"'\.\[([\w,]+)\]'", TEXT)
    return named.split(",")


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in pairs}


def test_its_extras_exist_and_bring_one_onnxruntime_built_for_cuda() -> None:
    assert {"gpu", "rtx"} <= set(extras()) <= EXTRAS.keys()
    needed = {
        Requirement(line).name for line in [*PROJECT["dependencies"], *(one for e in extras() for one in EXTRAS[e])]
    }
    assert {name for name in needed if name.startswith("onnxruntime")} == {"onnxruntime-gpu"}


def test_every_direct_dependency_is_pinned_once_and_torch_to_no_build_for_cpus() -> None:
    tested, added = pins("constraints.txt"), pins("constraints-image.txt")
    assert not tested.keys() & added.keys()
    pinned = tested | added
    for line in [*PROJECT["dependencies"], *(one for extra in extras() for one in EXTRAS[extra])]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[requirement.name])
    assert "+" not in pinned["torch"]


def test_it_runs_as_a_user_other_than_root_in_work() -> None:
    user = arguments_of("USER")[-1]
    assert f"useradd --uid {user} " in TEXT
    assert int(user) > 0
    assert arguments_of("WORKDIR")[-1] == "/work"


def test_its_commands_are_on_the_path() -> None:
    (environment,) = arguments_of("ENV")
    (folder,) = re.findall(r"-m venv (\S+)", TEXT)
    assert f"PATH={folder}/bin:$PATH" in environment
    (command,) = arguments_of("CMD")
    assert yaml.safe_load(command)[0] in PROJECT["scripts"]
    assert {"spectr-batch", "spectr-export"} <= PROJECT["scripts"].keys()


def test_what_it_copies_exists_and_is_sent_to_the_builder() -> None:
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [source for arguments in arguments_of("COPY") for source in arguments.split()[:-1]]
    assert sorted(copied) == sorted(line[1:] for line in sent if line.startswith("!"))
    assert all((ROOT / source).exists() for source in copied)
    needed = {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "constraints.txt"}
    assert needed <= set(copied)


def test_it_copies_every_package_of_the_wheel() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    copied = {source for arguments in arguments_of("COPY") for source in arguments.split()[:-1]}
    assert {package.split("/")[0] for package in build["targets"]["wheel"]["packages"]} <= copied


def test_the_example_for_kubernetes_names_the_image_that_is_built() -> None:
    job = yaml.safe_load((ROOT / "examples" / "kubernetes.yaml").read_text(encoding="utf-8"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert f"docker build -t {container['image']} ." in TEXT
    assert container["command"][0] in PROJECT["scripts"]
    assert container["workingDir"] == "/work"
