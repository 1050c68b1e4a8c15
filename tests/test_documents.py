"""Links, anchors and names of files in the Markdown documents lead to something. Nothing is fetched."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from posixpath import normpath
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
# Files that are not committed yet count; files that git ignores do not, because a clone does not have them.
LISTED = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
FILES = frozenset(
    name
    for name in subprocess.run(LISTED, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    if name and (ROOT / name).exists()
)
FOLDERS = frozenset(str(parent) for name in FILES for parent in PurePosixPath(name).parents)
DOCUMENTS = sorted(name for name in FILES if name.endswith(".md"))
TARGETS = frozenset(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
# Only a path that begins with a folder of the repository surely names one of its files. Others, such as
# `build/demo/bundle`, may be made by a command.
TOP = "|".join(sorted(re.escape(name) for name in FOLDERS - {"."} if "/" not in name))
NAMED = re.compile(rf"(?<![\w./:-])(?:\./)?((?:{TOP})/[\w./*-]*)")
MADE = re.compile(r"(?:\$ |^)make ([\w-]+)", re.MULTILINE)


def tokens_of(text: str) -> list[Token]:
    """Return the document's tokens; what stands in a paragraph or a heading follows its token."""
    blocks = MarkdownIt("commonmark").enable("table").parse(text)
    return [token for block in blocks for token in (block, *(block.children or ()))]


def attributes_of(text: str, names: str) -> list[str]:
    """Return the values of these attributes (a regular expression) in the HTML that stands in a document."""
    html = "\n".join(token.content for token in tokens_of(text) if token.type in {"html_block", "html_inline"})
    return re.findall(rf"""<[^>]*\s(?:{names})=["']([^"']+)""", html)


def links_of(text: str) -> list[str]:
    """Return the targets of all links and pictures of a document."""
    found = [token.attrGet("href") or token.attrGet("src") for token in tokens_of(text)]
    return [str(target) for target in found if target] + attributes_of(text, "href|src")


def anchors_of(text: str) -> set[str]:
    """Return the anchors that a document has, those of its headings as GitHub names them."""
    tokens = tokens_of(text)
    anchors = set(attributes_of(text, "id|name"))
    for before, heading in pairwise(tokens):
        if before.type == "heading_open":
            words = "".join(token.content for token in heading.children or () if token.type in {"text", "code_inline"})
            slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
            copies = (slug, *(f"{slug}-{number}" for number in range(1, len(tokens))))
            anchors.add(next(name for name in copies if name not in anchors))
    return anchors


def is_kept(path: Path) -> bool:
    return str(path.relative_to(ROOT)) in FILES | FOLDERS


def broken_links(document: str, text: str) -> Iterator[str]:
    """Yield the links of a document that lead to no file of the repository or to no heading of it."""
    for link in links_of(text):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        path = unquote(parts.path)
        beside = "" if path.startswith("/") else str(PurePosixPath(document).parent)
        target = normpath(f"{beside}/{path}".lstrip("/")) if path else document
        if target not in FILES | FOLDERS:
            yield link
        elif parts.fragment and target.endswith(".md"):
            there = text if target == document else (ROOT / target).read_text(encoding="utf-8")
            if unquote(parts.fragment) not in anchors_of(there):
                yield link


def broken_names(text: str) -> Iterator[str]:
    """Yield the files and the targets of make that code in a document names and that do not exist."""
    for token in tokens_of(text):
        if token.type in {"fence", "code_block", "code_inline"}:
            names = [name.rstrip("/.") for name in NAMED.findall(token.content)]
            yield from (name for name in names if not any(map(is_kept, ROOT.glob(name))))
            yield from (f"make {target}" for target in MADE.findall(token.content) if target not in TARGETS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    assert list(broken_links(document, (ROOT / document).read_text(encoding="utf-8"))) == []


# The changelog tells of the past, so it may name files that are gone.
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "CHANGELOG.md"])
def test_code_names_what_exists(document: str) -> None:
    assert list(broken_names((ROOT / document).read_text(encoding="utf-8"))) == []


def test_a_broken_link_is_found() -> None:
    text = """
# The `name` of it, in short
# Twice
# Twice

[here](#the-name-of-it-in-short) [twice](#twice-1) [readme](../../README.md) [root](/Makefile) [tests](../../tests/)
[web](https://example.org/none.md#none) <mailto:nobody@example.org> <a id="mark"></a> [mark](#mark)
[gone](gone.md) ![gone](../../gone.png) [thrice](#twice-2) [elsewhere](../../README.md#no-heading)
[case](../../readme.md) [far](../../../README.md) <img src="gone.svg">

| [in a table](gone.md#part) | [by reference][one] |
|---|---|

[one]: gone.txt
"""
    assert list(broken_links("examples/demo_pair/README.md", text)) == [
        "gone.md",
        "../../gone.png",
        "#twice-2",
        "../../README.md#no-heading",
        "../../readme.md",
        "../../../README.md",
        "gone.md#part",
        "gone.txt",
        "gone.svg",
    ]


def test_a_name_of_nothing_in_code_is_found() -> None:
    text = """
Run `benchmarks/machine.py` or `tests/gone.py`, in build/demo:

    python benchmarks/gone.py build/demo/bundle examples/prompts.jsonl
    python -m pytest tests/jobs/ tests/test_*.py ./examples/nothing.py /data/examples/none

```sh
make test
make nothing PROMPTS=examples/none.jsonl
```
"""
    assert list(broken_names(text)) == [
        "tests/gone.py",
        "benchmarks/gone.py",
        "examples/nothing.py",
        "examples/none.jsonl",
        "make nothing",
    ]
