"""Records that ask for more than one completion, from the input to the merged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import StubDecoder, read_lines, write_lines

from spectr_runtime import EngineError


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    records: list[dict[str, Any]] = [{"id": n, "prompt": f"Say {n}", "n": 1 + n % 4} for n in range(12)]
    records += [{"id": "pair", "prompt": ["a", "b"], "n": 2}, {"id": "half", "prompt": "a", "n": 3}]
    return write_lines(tmp_path / "in.jsonl", records)


def files(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "output.jsonl").read_bytes(), (folder / "errors.jsonl").read_bytes()


def test_a_row_holds_all_completions_of_its_record(batch, bundle: Path, inputs: Path, tmp_path: Path):
    assert batch("run", bundle, inputs, "-o", tmp_path / "run").code == 3
    rows = {row["id"]: row for row in read_lines(tmp_path / "run" / "output.jsonl")}
    assert ["completions" in row for row in rows.values()] == [n % 4 > 0 for n in range(12)] + [True]
    texts = [one["text"] for one in rows["pair"]["completions"]]
    assert len(set(texts)) == 4
    assert rows["pair"]["usage"]["prompt_tokens"] == 2
    (error,) = read_lines(tmp_path / "run" / "errors.jsonl")
    assert error["error"]["message"] == "in.jsonl:14, completion 1: The prompt is too long."
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["rows"], summary["failed"]) == (13, 1)


ASKED: dict[str, list[dict[str, Any]]] = {
    "/v1/completions": [
        {"prompt": "a"},
        {"prompt": ["a", "b"], "n": 3, "best_of": 3, "echo": True},
        {"prompt": [[1, 2], [3]], "logprobs": 5, "stop": "x", "seed": 1},
        {"prompt": "a", "logprobs": 0, "logit_bias": {"5": -100}, "presence_penalty": 1, "frequency_penalty": -1},
        {"prompt": "a", "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 1, "max_tokens": 4, "top_k": 3},
    ],
    "/v1/chat/completions": [
        {"messages": [{"role": "user", "content": "a"}]},
        {"messages": [{"role": "user", "content": "a"}], "n": 4, "logprobs": True, "top_logprobs": 20},
        {"messages": [{"role": "user", "content": "a"}], "logprobs": True, "max_completion_tokens": 3},
    ],
}


def test_every_line_reads_back_with_the_types_of_openai(batch, bundle: Path, tmp_path: Path):
    from openai.types import Completion
    from openai.types.chat import ChatCompletion

    records = [
        {"custom_id": f"{url} {n}", "method": "POST", "url": url, "body": {"model": "m"} | body}
        for url, bodies in ASKED.items()
        for n, body in enumerate(bodies)
    ]
    assert batch("run", bundle, write_lines(tmp_path / "in.jsonl", records), "-o", tmp_path / "run").code == 0
    rows = read_lines(tmp_path / "run" / "output.jsonl")
    for row, record in zip(rows, records, strict=True):
        assert (row.keys(), row["custom_id"]) == ({"id", "custom_id", "response", "error"}, record["custom_id"])
        kind = Completion if record["url"] == "/v1/completions" else ChatCompletion
        body = kind.model_validate(row["response"]["body"], strict=True)
        asked = record["body"]
        prompts = len(asked["prompt"]) if isinstance(asked.get("prompt"), list) else 1
        assert [one.index for one in body.choices] == list(range(prompts * asked.get("n", 1)))
        assert all((one.logprobs is not None) == ("logprobs" in asked) for one in body.choices)


@pytest.mark.parametrize("batch_size", [1, 3, 40])
def test_rows_do_not_depend_on_the_batch(batch, bundle: Path, inputs: Path, tmp_path: Path, batch_size: int):
    batch("run", bundle, inputs, "-o", tmp_path / "run")
    batch("run", bundle, inputs, "-o", tmp_path / "again", "--batch-size", batch_size, "--shard-size", 3)
    assert files(tmp_path / "again") == files(tmp_path / "run")


@pytest.mark.parametrize("finished", [1, 4, 9, 20])
def test_an_interruption_between_two_completions_loses_and_doubles_nothing(
    batch, bundle: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: int
):
    batch("run", bundle, inputs, "-o", tmp_path / "whole")
    real, left = StubDecoder._outcome, iter(range(finished))

    def outcome(self: StubDecoder, request: Any) -> Any:
        if next(left, None) is None:
            raise EngineError("The device is gone.")
        return real(self, request)

    monkeypatch.setattr(StubDecoder, "_outcome", outcome)
    assert batch("run", bundle, inputs, "-o", tmp_path / "run").code == 1
    monkeypatch.setattr(StubDecoder, "_outcome", real)
    assert batch("run", bundle, inputs, "-o", tmp_path / "run").code == 3
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    assert batch("verify", tmp_path / "run").code == 0
