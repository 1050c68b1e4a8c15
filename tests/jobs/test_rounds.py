"""Rounds that can be seen: of a replayed record on the terminal, and of a few rows of every run in its events."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import StubDecoder, read_lines, write_lines

from spectr_jobs.commands.rounds import render
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.sessions import read_sessions
from spectr_jobs.work.watcher import LEADING, MOST, MOST_TOKENS, Watcher
from spectr_runtime import Completion, Plan, Request, RequestError, SpeculationStats, Usage
from spectr_runtime.rows.request import Failure
from spectr_runtime.rows.rounds import RowRound
from spectr_runtime.speculation.plan import AUTO

TEXTS = {1: "if", 2: " (", 3: "\n", 4: "é", 5: " x"}


def piece(token: int) -> tuple[str, bytes]:
    if token == 9:
        return "\ufffd", b"\xe6\x97"
    text = TEXTS.get(token, "")
    return text, text.encode()


def round_of(number: int, position: int, paths: tuple[tuple[int, ...], ...], *written: int, **changes: Any) -> RowRound:
    *accepted, token = written
    fields: dict[str, Any] = {"source": "draft" if paths else None, "dropped": 0, **changes}
    return RowRound(
        "a", 0, number, position, "race K=3 L=3", paths=paths, accepted=tuple(accepted), token=token, **fields
    )


def test_paths_that_begin_alike_are_one_tree_with_a_tick_at_what_was_kept() -> None:
    rounds = [
        round_of(1, 0, ((1, 2, 3), (1, 2, 5), (4, 2, 9, 7)), 1, 2, 5, 3),
        round_of(2, 4, (), 4),
        round_of(3, 5, ((1, 2),), 1, 2, 5, source="lookup", dropped=2),
    ]
    assert render("a", 1, rounds, piece) == "\n".join(
        [
            "a",
            "round 1 at 0: race K=3 L=3, from draft",
            '  ├ ✓"if" ✓" ("',
            '  │ ├ "\\n"',
            '  │ └ ✓" x"',
            '  └ "é" " (" <e6 97> <token 7>',
            '  kept 3, then the target\'s "\\n"',
            "round 2 at 4: race K=3 L=3, no drafts",
            '  the target\'s "é"',
            "round 3 at 5: race K=3 L=3, from lookup",
            '  └ ✓"if" ✓" ("',
            '  kept 2, then the target\'s " x"; 2 dropped, since the row had ended',
            "2.00 tokens per pass (6 in 3); draft: 3 of 4 accepted; lookup: 2 of 2 accepted",
            "",
        ]
    )


def test_no_more_is_accepted_than_was_proposed_where_a_token_behind_a_path_was_accepted_by_chance() -> None:
    rounds = [round_of(1, 0, ((1, 2),), 1, 2, 2, 5, source="lookup")]
    assert "lookup: 3 of 3 accepted" in render("a", 1, rounds, piece)


@pytest.fixture
def run_dir(batch, bundle: Path, tmp_path: Path) -> Path:
    records = [{"id": one, "prompt": f"Say {one}"} for one in (*range(9), "long")] + [{"id": "bad", "prompt": ""}]
    records += [{"id": one, "prompt": ["a", "b"], "n": 2} for one in ("many", "half")]
    path = write_lines(tmp_path / "in.jsonl", records)
    batch("run", bundle, path, "-o", tmp_path / "run", "--shard-size", 4, "--seed", 5)
    return tmp_path / "run"


def test_a_replay_shows_the_rounds_instead_of_the_row(batch, run_dir: Path) -> None:
    rows = [row for row in read_lines(run_dir / "output.jsonl") if len(row.get("token_ids", ())) > 4]
    for row in rows:
        result = batch("replay", run_dir, "--id", row["id"], "--rounds")
        assert (result.code, result.err) == (0, f"spectr-batch: {row['id']}: the same row\n")
        head, first, *_, last = result.out.splitlines()
        tokens, passes = len(row["token_ids"]), -(-len(row["token_ids"]) // 3)
        assert (head, first) == (str(row["id"]), "round 1 at 0: kseq K=4 L=4, from lookup")
        assert last.startswith(f"{tokens / passes:.2f} tokens per pass ({tokens} in {passes}); lookup: ")
        assert result.out.count("✓") == tokens - passes
    assert rows


def test_the_rounds_of_the_automatic_plan_are_those_of_auto_with_one_row(
    batch, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StubDecoder._outcome
    drafted_otherwise = SpeculationStats(rounds=9, accepted_at_depth=())
    monkeypatch.setattr(
        StubDecoder, "_outcome", lambda *of: dataclasses.replace(real(*of), speculation=drafted_otherwise)
    )
    for arguments, plan in (((), Plan.plain()), (("--rounds",), AUTO)):
        result = batch("replay", run_dir, "--id", "7", *arguments)
        assert (result.code, result.err) == (0, "spectr-batch: 7: the same row\n")
        assert (result.decoder.plan, result.decoder.batch_size) == (plan, 1)


def test_each_completion_has_its_rounds(batch, run_dir: Path) -> None:
    parts = batch("replay", run_dir, "--id", "many", "--rounds").out.split("\n\n")
    assert [part.splitlines()[0] for part in parts] == [f"many, completion {choice}" for choice in range(4)]
    assert all("tokens per pass" in part for part in parts)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("long", "long: there are no rounds\n"),
        ("bad", "bad: there are no rounds\n"),
        ("half", "half, completion 1: there are no rounds\n"),
    ],
)
def test_a_failed_record_says_that_it_has_no_rounds(batch, run_dir: Path, key: str, told: str) -> None:
    result = batch("replay", run_dir, "--id", key, "--rounds")
    assert (result.code, result.err) == (0, f"spectr-batch: {key}: the same row\n")
    assert told in result.out


def watched_in(run_dir: Path) -> list[dict[str, Any]]:
    sessions = read_sessions(RunDirectory.open(run_dir).sessions)
    return [dict(row) for session in sessions for row in session.watched]


def test_the_events_keep_what_the_rounds_of_a_few_rows_wrote(batch, run_dir: Path) -> None:
    kept = watched_in(run_dir)
    assert {row["id"] for row in kept} <= {*map(str, range(9)), "many", "half"}
    assert 4 <= len(kept) <= MOST
    rows = {str(row["id"]): row for row in read_lines(run_dir / "output.jsonl")}
    for row in kept:
        body = rows[row["id"]]
        ids = body["token_ids"] if "token_ids" in body else body["completions"][0]["token_ids"]
        assert row["tokens"] == len(ids)
        text = "".join(text for one in row["rounds"] for text in one["texts"])
        assert text == bytes(ids).decode("utf-8", "replace")
        assert all(one["drafted"] == len(one["texts"]) - 1 for one in row["rounds"])
    assert "rounds" not in {name for row in rows.values() for name in row}


def test_a_run_that_is_taken_up_again_is_sound_and_keeps_few_rows(batch, bundle: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", [{"id": n, "prompt": "x"} for n in range(400)])
    for limit in range(6):
        batch(
            "run",
            bundle,
            path,
            "-o",
            tmp_path / "run",
            "--shard-size",
            40,
            "--rank",
            limit,
            "--world",
            6,
            own_shards=True,
        )
    batch("run", bundle, path, "-o", tmp_path / "run", "--shard-size", 40)
    assert batch("verify", tmp_path / "run").code == 0
    assert 12 <= len(watched_in(tmp_path / "run")) <= 2 * MOST
    assert len([one for one in read_lines(tmp_path / "run" / "events.jsonl") if one["event"] == "rounds"]) == len(
        watched_in(tmp_path / "run")
    )


def finished(name: str, rounds: int = 1) -> Completion:
    return Completion(name, "", (1,) * rounds, "stop", Usage(1, rounds), SpeculationStats(rounds, ()))


def watched_of(watcher: Watcher, count: int) -> list[int]:
    requests = [Request(str(n), "x") for n in range(count)]
    return [n for n, one in enumerate(watcher.watched(requests)) if one.watch is not None]


def test_the_first_rows_are_watched_and_then_one_whenever_their_number_has_doubled() -> None:
    assert watched_of(Watcher(0, piece), 10_000) == [*range(LEADING), 6, 12, 24, 48, 96, 192]
    assert watched_of(Watcher(2, piece), 10_000) == [0, 1, 2]
    assert [len(watched_of(Watcher(earlier, piece), 10_000)) for earlier in range(6)] == [12, 6, 3, 1, 0, 0]


def test_only_first_completions_are_watched_and_failures_leave_nothing() -> None:
    watcher = Watcher(0, piece)
    first, second = watcher.watched([Request("a", "x"), Request("a", "x", choice=1)])
    assert second.watch is None
    assert first.watch is not None
    first.watch(round_of(1, 0, (), 4))
    assert watcher.ended(Completion("a", "", (), "stop", Usage(1, 0), SpeculationStats(0, ()), choice=1)) is None
    assert watcher.ended(Failure("a", RequestError("No."))) is None
    assert watcher.ended(finished("a")) is None


def test_a_long_row_is_cut() -> None:
    watcher = Watcher(0, piece)
    (request,) = watcher.watched([Request("a", "x")])
    assert request.watch is not None
    for number in range(MOST_TOKENS + 50):
        request.watch(round_of(number + 1, number, (), 4))
    told = watcher.ended(finished("a", MOST_TOKENS + 50))
    assert told is not None
    assert (told["tokens"], len(told["rounds"])) == (MOST_TOKENS + 50, MOST_TOKENS)
