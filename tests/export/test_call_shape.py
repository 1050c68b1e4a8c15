"""Runs whose calls have one shape: with a bundle's engines, a row is the same to the last bit in every company."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_heads import head_tensors, save_head, speculators_settings, target_checkpoint

from spectr_export.build import build
from spectr_export.preparation import BuildOptions
from spectr_jobs.cli import main as batch
from spectr_runtime import Bundle, Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.contract import Call, Output
from spectr_runtime.speculation.pair import chunk_of

RECORDS, SHARD = 18, 5
KINDS: Sequence[dict[str, Any]] = (
    {"logprobs": 2},
    {"logprobs": 1, "temperature": 0.7, "top_p": 0.9},
    {"logprobs": 2, "temperature": 0},
    {"logprobs": 3, "repetition_penalty": 1.3},
    {"logprobs": 2, "echo": True},
)
PLANS = {
    "plain": ("--plan", "plain"),
    "race": ("--rule", "race", "--drafts", 1, "--length", 4),
    "kseq": ("--rule", "kseq", "--drafts", 2, "--length", 2),
}


@pytest.fixture(autouse=True)
def costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def records() -> list[dict[str, Any]]:
    """Prompts that share a part and that do not, of all kinds."""
    begins = ("", "Answer as shortly as you can, please. ", "Say it! ")
    return [
        {"id": f"{n}", "prompt": f"{begins[n % 3]}{'so ' * (n % 7)}{n}", "max_tokens": 3 + n % 9} | KINDS[n % 5]
        for n in range(RECORDS)
    ]


class Runs:
    """Runs of records in a folder; their rows by id, without what drafts did."""

    def __init__(self, folder: Path, bundle: Path, *options: object) -> None:
        self._folder, self._bundle, self._options = folder, bundle, options

    def command(self, name: str, *options: object) -> int:
        path, folder = self._folder / f"{name}.jsonl", self._folder / name
        arguments = ("run", self._bundle, path, "-o", folder, "--shard-size", SHARD, *self._options, *options)
        return batch.call([str(argument) for argument in arguments])

    def write(self, name: str, records: Sequence[dict[str, Any]]) -> None:
        (self._folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))

    def rows(self, name: str) -> dict[str, dict[str, Any]]:
        lines = map(json.loads, (self._folder / name / "output.jsonl").read_bytes().splitlines())
        return {row["id"]: {key: value for key, value in row.items() if key != "speculation"} for row in lines}

    def decoded(self, name: str, records: Sequence[dict[str, Any]], *options: object) -> dict[str, dict[str, Any]]:
        self.write(name, records)
        assert self.command(name, *options) == 0
        return self.rows(name)


def bits(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Tokens and log-probabilities; equal floats are equal to the last bit."""
    return {key: (row["token_ids"], row["logprobs"]) for key, row in rows.items()}


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
@pytest.mark.parametrize("plan", PLANS)
def test_a_row_is_the_same_to_the_last_bit_in_every_company(
    bundle_path: Path, tmp_path: Path, plan: str, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Runs(tmp_path, bundle_path, *PLANS[plan], "--backend", backend, "--call-shape", "6x5")
    every = records()
    whole = bits(runs.decoded("whole", every))
    assert len(whole) == RECORDS
    assert bits(runs.decoded("turned", every[::-1])) == whole
    some = [one for n, one in enumerate(every) if n % 3]
    assert bits(runs.decoded("some", some)) == {one["id"]: whole[one["id"]] for one in some}
    for one in every[:: RECORDS // 6]:
        assert bits(runs.decoded(f"alone-{one['id']}", [one])) == {one["id"]: whole[one["id"]]}
    for key in ("0", "7", "14"):
        assert batch.call(["replay", str(tmp_path / "whole"), "--id", key]) == 0
        again = json.loads(capsys.readouterr().out)
        assert bits({key: again}) == {key: whole[key]}


def test_a_run_that_was_killed_or_shared_writes_the_same_bits(bundle_path: Path, tmp_path: Path) -> None:
    runs = Runs(tmp_path, bundle_path, *PLANS["race"], "--backend", "torch", "--call-shape", "6x5")
    whole = bits(runs.decoded("whole", records()))
    shards = tmp_path / "whole" / "shards"
    shutil.rmtree(shards / "00003")
    (shards / "00001" / "sealed.json").unlink()  # as a kill would have left it after two rows
    kept = shards / "00001" / "output.jsonl"
    kept.write_bytes(b"".join(kept.read_bytes().splitlines(keepends=True)[:2]))
    (tmp_path / "whole" / "output.jsonl").unlink()
    assert runs.command("whole") == 0
    assert bits(runs.rows("whole")) == whole
    runs.write("two", records())
    for rank in (1, 0):
        assert runs.command("two", "--rank", rank, "--world", 2) == 0
    assert bits(runs.rows("two")) == whole


@pytest.mark.parametrize("plan", [*PLANS, "auto"])
def test_the_rows_are_those_of_a_run_without_it(bundle_path: Path, tmp_path: Path, plan: str) -> None:
    options = (*PLANS.get(plan, ("--plan", "auto")), "--backend", "torch")
    free = Runs(tmp_path, bundle_path, *options, "--batch-size", 6).decoded("free", records())
    shape = "6x17" if plan == "auto" else "6x5"
    same = Runs(tmp_path, bundle_path, *options, "--call-shape", shape).decoded("same", records())
    assert {key: row["token_ids"] for key, row in same.items()} == {key: row["token_ids"] for key, row in free.items()}
    assert {key: row["text"] for key, row in same.items()} == {key: row["text"] for key, row in free.items()}


def test_chats_are_scored_in_the_one_shape_too(pair: tuple[Path, Path], tmp_path: Path) -> None:
    target = shutil.copytree(pair[0], tmp_path / "target")
    settings = json.loads((target / "tokenizer_config.json").read_text())
    template = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    (target / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    build(BuildOptions(str(target), str(pair[1])), tmp_path / "bundle", say=str)
    chats = [
        {
            "custom_id": f"{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "messages": [{"role": "user", "content": "so " * n}],
                "max_tokens": 4 + n,
                "logprobs": True,
                "top_logprobs": 2,
            },
        }
        for n in range(8)
    ]
    runs = Runs(tmp_path, tmp_path / "bundle", *PLANS["race"], "--backend", "torch", "--call-shape", "3x5")
    runs.write("whole", chats)
    assert runs.command("whole") == 0
    answers = {}
    for name, some in (("whole", chats), ("turned", chats[::-1]), ("alone", chats[5:6])):
        runs.write(name, some)
        assert runs.command(name) == 0
        lines = map(json.loads, (tmp_path / name / "output.jsonl").read_bytes().splitlines())
        answers[name] = {row["custom_id"]: row["response"]["body"]["choices"] for row in lines}
    assert answers["whole"]["5"][0]["logprobs"]["content"]
    assert answers["turned"] == answers["whole"]
    assert answers["alone"] == {"5": answers["whole"]["5"]}


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose draft is a head on the target."""
    folder = tmp_path_factory.mktemp("headed")
    target = target_checkpoint(folder / "target")
    head = save_head(folder / "head", speculators_settings(), head_tensors())
    build(BuildOptions(str(target), str(head)), folder / "bundle", say=str)
    return Bundle.open(folder / "bundle")


Shapes = set[tuple[int, ...]]


def decoded(
    bundle: Bundle, plan: Plan, asked: Sequence[Request], **shape: int | None
) -> tuple[dict[str, Completion], list[Shapes]]:
    """The rows, and the shapes of the calls of target and draft: rows, tokens, attention length."""
    decoder = Decoder(bundle, plan=plan, backend="torch", batch_size=4, **shape)  # type: ignore[arg-type]
    seen: list[Shapes] = []
    for engine in (decoder._loop.pair.target, decoder._loop.pair.draft):
        seen.append(shapes := set())

        def run(call: Call, shapes: Shapes = shapes, run: Any = engine.run) -> Output:
            shapes.add((*call.input_ids_BT.shape, call.attention_mask_B1TL.shape[-1]))
            return run(call)

        engine.run = run  # type: ignore[method-assign]
        engine.forward = lambda call, run=run: run(call).logits_BMV  # type: ignore[method-assign]
    rows = {one.id: one for one in decoder.generate(asked) if isinstance(one, Completion)}
    assert len(rows) == len(asked)
    return rows, seen


@pytest.mark.parametrize("kind", ["model", "head"])
@pytest.mark.parametrize("plan", [Plan("kseq", 2, 2), Plan("race", 1, 4), Plan("single", 1, 3)], ids=str)
def test_the_calls_have_one_shape_for_reading_and_one_for_rounds(
    bundle_path: Path, headed: Bundle, plan: Plan, kind: str
) -> None:
    """The draft's calls are one for reading, one for the root, and one for each level that it is fed."""
    bundle = headed if kind == "head" else Bundle.open(bundle_path)
    asked = [
        Request(
            f"{n}",
            (1, 2) if n == 4 else tuple(1 + (n * place) % 200 for place in range(1 + 9 * n)),
            SamplingParams(max_tokens=3 + 2 * n, logprobs=n % 3, temperature=1.0 if n % 4 else 0.0, ignore_eos=True),
            echo=n == 3,
        )
        for n in range(11)
    ]
    _, (target, draft) = decoded(bundle, plan, asked)
    assert len(target) > 4
    rows, (target, draft) = decoded(bundle, plan, asked, call_tokens=6)
    chunk = chunk_of(bundle.manifest.limits.tokens_per_call)
    assert {(count, tokens) for count, tokens, _ in target} == {(1, chunk), (4, 6)}
    levels = {(4, plan.drafts)} if plan.length > 1 else set()
    assert {(count, tokens) for count, tokens, _ in draft} == {(1, chunk), (4, 6 if kind == "head" else 2)} | levels
    assert len(target) == 2
    for one in (asked[-1], asked[3], asked[0], asked[4]):
        assert decoded(bundle, plan, [one], call_tokens=6)[0] == {one.id: rows[one.id]}


def test_a_run_without_memory_for_its_rows_ends_and_names_the_option(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Runs(tmp_path, bundle_path, *PLANS["race"], "--backend", "torch", "--call-shape", "6x5")
    runs.write("run", records())
    with monkeypatch.context() as patch:
        patch.setattr("spectr_runtime.contract.cache.free_memory", lambda device: 1000)
        assert runs.command("run") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        "spectr-batch: error: There is no memory for 6 rows, and with calls of one shape their number does not change: "
    )
    assert said.endswith(" Use a --call-shape of fewer ROWS, or a smaller batch_size in Python.")
    assert runs.command("run") == 0
