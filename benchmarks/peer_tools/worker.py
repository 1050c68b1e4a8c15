"""One tool in a process of its own: questions come as lines of JSON on stdin, answers go as lines of JSON to stdout.

The first line is a ``Setup``. The answer is ``{}`` once the tool has opened its model, which it makes first if need be.
Then ``{"law": ids}`` asks for the log-probability of every token but the first, and ``{"decode": prompts, "tokens": n,
"seed": s}`` for n more tokens behind every prompt; the answer has the seconds that took, and the largest memory of the
process so far. An answer may be ``{"error": line}``. What libraries print goes to stderr.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import resource
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Protocol

MODULES = {
    "spectr": "with_spectr",
    "transformers": "with_transformers",
    "onnxruntime-genai": "with_onnxruntime_genai",
    "OpenVINO GenAI": "with_openvino",
    "llama.cpp": "with_llama_cpp",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """What a tool is opened with.

    Attributes:
        tool: A key of ``MODULES``.
        plan: What the tool is to do: ``plain``, or a way to speculate that the tool knows.
        precision: How the target's matrices are stored: ``fp32``, ``int8`` or ``int4``.
        target: Folder of the target, as transformers reads it.
        draft: Folder of the draft; the target's own if a copy of lower precision drafts; None without a draft.
        draft_precision: How the draft's matrices are stored.
        rows: Prompts that are decoded together.
        folder: Where the tool keeps what it makes of the models.
        capacity: The most tokens of a text.
    """

    tool: str
    plan: str
    precision: str
    target: str
    draft: str | None
    draft_precision: str
    rows: int
    folder: str
    capacity: int = 512

    def made(self, *parts: str) -> Path:
        """Return a path for what a tool makes, below the folder of all."""
        return Path(self.folder).joinpath(*parts)


class Tool(Protocol):
    """A tool with its models open."""

    def law(self, ids: list[int]) -> list[float]:
        """Return the log-probability of every token of a text but the first."""

    def decode(self, prompts: list[list[int]], tokens: int, seed: int) -> list[list[int]]:
        """Return what is written behind every prompt, at temperature 1 and past end tokens."""


class Unsupported(Exception):
    """The tool, or this way to use it, cannot do what is asked."""


def run(*command: str, **variables: str) -> None:
    """Run a command that makes a model, in an environment with more variables; a failure is what it said last."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=os.environ | variables
    )
    sys.stderr.write(done.stdout)
    if done.returncode:
        said = done.stdout.strip().splitlines()
        raise RuntimeError(f"{Path(command[0]).name} ended with {done.returncode}: {said[-1] if said else ''}")


def answer(tool: Tool, question: dict[str, Any]) -> dict[str, Any]:
    """Answer one question."""
    if "law" in question:
        return {"law": tool.law(question["law"])}
    started = time.perf_counter()
    written = tool.decode(question["decode"], question["tokens"], question["seed"])
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux tells kibibytes
    return {"seconds": seconds, "written": written, "peak_bytes": peak}


def attempt(action: Any, *arguments: Any) -> tuple[Any, dict[str, str] | None]:
    """Return what an action returns and None, or None and its error, whose trace goes to stderr."""
    try:
        return action(*arguments), None
    except Exception as error:  # the errors of five libraries
        traceback.print_exc()
        return None, {"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}


def open_tool(line: str) -> Tool:
    """Open the tool that a line asks for."""
    setup = Setup(**json.loads(line))
    tool: Tool = importlib.import_module(MODULES[setup.tool]).open_tool(setup)
    return tool


def main() -> None:
    """Answer questions until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    tool, error = attempt(open_tool, sys.stdin.readline())
    print(json.dumps(error or {}), file=answers)
    for line in sys.stdin:
        given, error = attempt(answer, tool, json.loads(line))
        print(json.dumps(error or given), file=answers)


if __name__ == "__main__":
    # The tools' modules import this one by name, not as __main__.
    sys.modules["worker"] = sys.modules["__main__"]
    main()
