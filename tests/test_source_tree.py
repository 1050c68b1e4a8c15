"""The tree of the sources in docs/how-it-is-built.md names every module, and nothing that is not there."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent
PARTS = ("spectr_select", "runtime/spectr_runtime", "export/spectr_export", "jobs/spectr_jobs")


def tree_of(document: str) -> dict[str, str]:
    """Return the paths of the tree, those of folders with a slash behind them, and what is said of each."""
    section = document.partition("\n## The sources\n")[2].partition("\n## ")[0]
    found: dict[str, str] = {}
    above: list[str] = []
    for line in section.partition("```text\n")[2].partition("\n```")[0].splitlines():
        if not line:
            continue
        name, _, told = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        above[depth:] = [name]
        path = "".join(above)
        assert path not in found, f"{path} stands twice in the tree"
        found[path] = told.strip()
    return found


def sources() -> set[str]:
    """Return the modules of the parts and the folders that hold them; a folder's line speaks for its ``__init__``."""
    modules = {path.relative_to(ROOT).as_posix() for part in PARTS for path in (ROOT / part).rglob("*.py")}
    folders = {f"{PurePosixPath(module).parent}/" for module in modules}
    return {module for module in modules if not module.endswith("__init__.py")} | folders


def test_the_tree_is_that_of_the_sources() -> None:
    tree = tree_of((ROOT / "docs" / "how-it-is-built.md").read_text(encoding="utf-8"))
    assert sorted(sources() - tree.keys()) == [], "in the sources, not in the tree"
    assert sorted(tree.keys() - sources()) == [], "in the tree, not in the sources"
    assert [path for path, told in tree.items() if not told] == []
