"""What has run where: docs/where-it-ran.md, made from the heads of all result files.

python benchmarks/where.py            # writes the document
python benchmarks/where.py --check    # says which results are of code that differs from what is here
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
ROOT = HERE.parent
DOCUMENT = ROOT / "docs" / "where-it-ran.md"
PREDICTED = "gpu_predicted"
FOLDERS = ("benchmarks", "examples", "export", "jobs", "runtime", ".")  # that modules are imported from
BESIDE = ("machine", "figures", "quoting")  # modules of scripts that tell what was measured, and change no figure
# Packages that a script measures all of if it has one of these words; tests are of all that they import.
EXPORT, JOBS = "export/spectr_export", "jobs/spectr_jobs"
COMMANDS = {
    "spectr-batch": (JOBS,),
    "spectr-export": (EXPORT,),
    '"pytest"': (EXPORT, JOBS, "runtime/spectr_runtime", "spectr_select"),
}
SHOWN = ("spectr", "torch", "transformers", "onnxruntime", "onnxruntime-gpu", "tensorrt-rtx")
BEGINNING = """# What has run where

Every result file under [`benchmarks/results/`](../benchmarks/results) names its machine, and the state of the code that
was measured, as a commit; a plus sign says that there were changes beside it. This page is made of these files by
[`where.py`](../benchmarks/where.py), and a test holds it equal to them; `python benchmarks/where.py --check` says for
which of them the code that was measured differs from what is here. {gpus}
What each script found is in [what was measured](benchmarks.md).

| machine | date | state | result | what | versions |
|---|---|---|---|---|---|"""
NO_GPU = """**Nothing has run on a GPU yet**; what one should
give is foretold in [a page of its own](../benchmarks/results/gpu_predicted.md), and
[`gpu.py`](../benchmarks/gpu.py) measures it in a quarter of an hour ([how](speed.md#a-day-on-a-gpu))."""
GPUS = """On a GPU ran what stands first."""


def document() -> str:
    """Return the document."""
    lines = sorted({line for path in (HERE / "results").glob("*.json") for line in lines_of(path)})
    on_gpus = [line for line in lines if line[0] == 0]
    table = "\n".join(line for _, line in lines)
    return f"{BEGINNING.format(gpus=GPUS if on_gpus else NO_GPU)}\n{table}\n"


def script_of(path: Path) -> Path:
    """Return the script that wrote a result file."""
    return HERE / f"{'gpu' if path.stem.startswith('gpu') else path.stem}.py"


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a result file, one for each machine and date in it; GPUs come first."""
    what = docstring(script_of(path))
    for head in heads(json.loads(path.read_text(encoding="utf-8"))):
        gpu = head.get("gpu")
        machine = f"{gpu['name']}, {gpu['memory']}" if gpu else f"{head['processor']}, {head['cores']} cores"
        told = f"foretold: {what}" if path.stem == PREDICTED else what
        versions = [f"{name} {head['versions'][name]}" for name in SHOWN if name in head["versions"]]
        found = f"Python {head['python']}, {', '.join(versions)}"
        name = f"[`{path.name}`](../benchmarks/results/{path.name})"
        when = f"{head['date']} | {head.get('revision', 'not recorded')}"
        yield 0 if gpu else 1, f"| {machine} | {when} | {name} | {told} | {found} |"


def code_of(script: Path) -> set[Path]:
    """Return the modules of this repository that a script imports or runs, however indirectly, and the script."""
    wanted, found = [script], set[Path]()
    while wanted:
        module = wanted.pop()
        if module not in found:
            found.add(module)
            wanted += imported_by(module)
            if module.is_relative_to(HERE):
                wanted += measured_by(module.read_text(encoding="utf-8"))
    return found


def measured_by(text: str) -> Iterator[Path]:
    """Yield the modules of the packages that a script measures all of, by its text."""
    for word, places in COMMANDS.items():
        if word in text:
            for place in places:
                yield from (ROOT / place).rglob("*.py")


def imported_by(module: Path) -> Iterator[Path]:
    """Yield the modules of this repository that a module imports, other than for types, or names as a script to run."""
    for node in executed(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from modules_at(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield from modules_at(node.module, alias.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".py"):
            yield from (place for place in (HERE / node.value, module.parent / node.value) if place.is_file())


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a module but those behind `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            yield from executed(node)


def modules_at(name: str, member: str = "") -> Iterator[Path]:
    """Yield the modules of a dotted name, and where a member of it comes from if it is a package's."""
    if name.split(".")[0] in BESIDE:
        return
    for folder in FOLDERS:
        place = ROOT / folder / name.replace(".", "/")
        files = [place.with_name(f"{place.name}.py"), package := place / "__init__.py"]
        if member:
            files += [place / f"{member}.py", place / member / "__init__.py"]
        yield from (file for file in files if file.is_file())
        if package.is_file():  # its public names are there for types, and imported when they are used
            for node in ast.walk(ast.parse(package.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module != name and member in map(name_of, node.names):
                    yield from modules_at(str(node.module), member)


def name_of(alias: ast.alias) -> str:
    """Return the name that an import gives."""
    return alias.asname or alias.name


def changed_since(path: Path, revision: str) -> list[str]:
    """Return the code behind a result that differs from what the result's revision had.

    Raises:
        subprocess.CalledProcessError: If the revision is not in this repository, or not recorded.
    """
    places = [f":(top){module.relative_to(ROOT)}" for module in sorted(code_of(script_of(path)))]
    told = ["git", "-C", str(ROOT), "diff", "--name-only", revision, "--", *places]
    return subprocess.run(told, check=True, capture_output=True, text=True).stdout.split()


def differences() -> list[str]:
    """Return a line for every result that is not of the code that is here, by what git knows of its revision."""
    lines = []
    for path in sorted((HERE / "results").glob("*.json")):
        for revision in sorted({head.get("revision", "") for head in heads(json.loads(path.read_text("utf-8")))}):
            try:
                changed = (
                    "measured with changes beside it" if "+" in revision else ", ".join(changed_since(path, revision))
                )
            except subprocess.CalledProcessError:
                changed = "not a revision that this repository has"
            if changed:
                lines.append(f"{path.name}, {revision or 'no revision'}: {changed}")
    return lines


def heads(result: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every head in a result, wherever it stands."""
    if isinstance(result, dict):
        if "processor" in result and "date" in result:
            yield result
        for value in result.values():
            yield from heads(value)
    elif isinstance(result, list):
        for value in result:
            yield from heads(value)


def docstring(script: Path) -> str:
    """Return what a script says of itself in the first sentence."""
    told = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    assert told is not None
    return told.split("\n\n")[0].replace("\n", " ").rstrip(".:")


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; say which results are of other code than what is here.")
def main(check: bool) -> None:
    """Write the document, or compare the code that was measured with what is here."""
    if not check:
        DOCUMENT.write_text(document(), encoding="utf-8")
        return
    found = differences()
    click.echo("\n".join(found) or "every result is of the code that is here")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
