from __future__ import annotations

import json
import re
import xml.dom.minidom
from pathlib import Path

import pytest
from jobs_stub import read_lines, write_lines

from spectr_jobs.report import drafts
from spectr_jobs.report import page as module
from spectr_jobs.report.charts import COLOURS, Axis, bars, line, number, scatter, shares, stacked
from spectr_jobs.report.timeline import Span, bins, plain_slowdown, spans
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_runtime import Plan
from spectr_runtime.speculation.timing import PlainTime


@pytest.fixture
def run_dir(batch, bundle: Path, tmp_path: Path) -> Path:
    records = [{"id": one, "prompt": "x" * one} for one in range(1, 30)]
    bad = [{"id": "<script>", "prompt": "x", "stop": "<b>", "suffix": "<i>&"}, {"id": "long", "prompt": "x"}]
    path = write_lines(tmp_path / "in.jsonl", records + bad)
    batch("run", bundle, path, "-o", tmp_path / "run", "--shard-size", 8, pause=0.001)
    return tmp_path / "run"


def test_the_page_shows_the_run_in_pictures_that_need_no_network(batch, run_dir: Path):
    result = batch("report", run_dir)
    assert (result.code, result.err) == (0, f"spectr-batch: wrote {run_dir}/report.html\n")
    page = (run_dir / "report.html").read_text()
    pictures = re.findall(r"<svg.*?</svg>", page, re.S)
    assert [xml.dom.minidom.parseString(one).documentElement.getAttribute("aria-label") for one in pictures] == [
        "Tokens per second over time",
        "Block efficiency over time",
        "Drafts accepted by depth",
        "Where the time went",
        "Lengths of prompts and completions",
    ]
    assert re.search(r"(src|href|url\(|@import|<script)", page) is None
    assert "<b>29</b>rows" in page
    assert "<b>2</b>failed" in page
    assert "complete · auto · seed 0" in page


def test_failures_are_counted_by_their_code_and_shown_as_text(run_dir: Path):
    page = module.page(RunDirectory.open(run_dir))
    told = "long: in.jsonl:31: The prompt is too long."
    assert f"<td>context_length_exceeded</td><td>1</td><td>no</td><td>{told}</td>" in page
    told = "&lt;script&gt;: in.jsonl:30: suffix: got &quot;&lt;i&gt;&amp;&quot;, "
    assert f"<td>unsupported_parameter</td><td>1</td><td>no</td><td>{told}" in page


def test_a_few_failures_of_a_kind_are_shown(batch, bundle: Path, tmp_path: Path):
    path = write_lines(tmp_path / "in.jsonl", [{"id": f"long-{n}", "prompt": "x"} for n in range(5)])
    batch("run", bundle, path, "-o", tmp_path / "run")
    told = "\n".join(f"long-{n}: in.jsonl:{n + 1}: The prompt is too long." for n in range(3))
    page = module.page(RunDirectory.open(tmp_path / "run"))
    assert f"<td>context_length_exceeded</td><td>5</td><td>no</td><td>{told}</td>" in page


def test_an_incomplete_run_has_a_report_too(batch, bundle: Path, prompts: Path, tmp_path: Path):
    batch("run", bundle, prompts, "-o", tmp_path / "run", "--shard-size", 8, "--rank", 1, "--world", 2, own_shards=True)
    assert "8 of 20 records so far" in module.page(RunDirectory.open(tmp_path / "run"))


def test_the_choices_of_a_plan_that_changes_are_shown(batch, bundle: Path, prompts: Path, tmp_path: Path):
    plans = [Plan("race", 1, 3), Plan("race", 1, 3), Plan.plain()]
    result = batch("run", bundle, prompts, "-o", tmp_path / "run", plans=plans)
    assert "  plans              race K=1 L=3 70%, plain 30%" in result.err.splitlines()
    page = module.page(RunDirectory.open(tmp_path / "run"))
    assert "70% · 28 rounds" in page
    assert page.count("Rounds by plan") == page.count("Plans over time") == 3
    found = [interval.plans for interval in bins(spans(tmp_path / "run" / "sessions")) if interval.plans]
    assert found
    assert all(sum(plans.values()) == pytest.approx(1) for plans in found)
    assert {plan for plans in found for plan in plans} == {"race K=1 L=3", "plain"}


def test_what_was_copied_of_shared_prefixes_is_told(batch, bundle: Path, prompts: Path, tmp_path: Path):
    result = batch("run", bundle, prompts, "-o", tmp_path / "run", copied=9)
    told = "180 of 240 tokens (75%) copied from prompts that begin alike, not read again"
    assert f"  shared prefixes    {told}" in result.err.splitlines()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["reading"] == {
        "read": 60,
        "calls": 0,
        "copied": 180,
    }
    assert f"<p>Shared prefixes: {told}.</p>" in module.page(RunDirectory.open(tmp_path / "run"))
    (session,) = (tmp_path / "run" / "sessions").iterdir()
    lines = [{name: value for name, value in one.items() if name != "reading"} for one in read_lines(session)]
    write_lines(session, lines)  # as a release wrote them that did not count this
    assert "Shared prefixes" not in module.page(RunDirectory.open(tmp_path / "run"))


def told_by(batch, bundle: Path, prompts: Path, run: Path, plain: PlainTime) -> tuple[float | None, str]:
    """How much slower plain decoding would have been, if the decoder says this of its 40 rounds, and the page."""
    assert batch("run", bundle, prompts, "-o", run, plain=plain, pause=0.002).code == 0
    return plain_slowdown(run / "sessions"), module.page(RunDirectory.open(run))


def test_the_speed_of_plain_decoding_is_told_where_most_rounds_tell_it(
    batch, bundle: Path, prompts: Path, tmp_path: Path
):
    slowdown, page = told_by(batch, bundle, prompts, tmp_path / "run", PlainTime(40, 0.01, 0.03))
    (session,) = (tmp_path / "run" / "sessions").iterdir()
    *_, last = read_lines(session)
    assert slowdown == pytest.approx((last["seconds"] + 0.02) / last["seconds"])
    speed = json.loads((tmp_path / "run" / "summary.json").read_text())["tokens_per_second"] / slowdown
    assert f"<p>Plain decoding would have written about {speed:,.1f} tokens/s here (by measured costs).</p>" in page
    for name, plain in (("few", PlainTime(19, 0.01, 0.03)), ("none", PlainTime())):
        slowdown, page = told_by(batch, bundle, prompts, tmp_path / name, plain)
        assert slowdown is None
        assert "Plain decoding" not in page
    write_lines(session, [{name: value for name, value in last.items() if name != "plain"}])  # of an earlier release
    assert plain_slowdown(tmp_path / "run" / "sessions") is None


def watched(run: Path, rows: list[dict[str, object]]) -> str:
    """The part of the page that shows rows, had a session watched these."""
    write_lines(run / "1-1.jsonl", [{"time": 0, "event": "start"}, *({"event": "rounds", **row} for row in rows)])
    return drafts.section(run)


def test_kept_drafts_are_shaded_by_depth_and_named_by_source(tmp_path: Path):
    rounds = [
        {"plan": "race K=2 L=3", "source": "draft", "drafted": 2, "texts": ["<b>", " &\n", '"x']},
        {"plan": "race K=1 L=8 texts", "source": "lookup", "drafted": 1, "texts": ["y"]},
        {"plan": "plain", "source": None, "drafted": 0, "texts": ["z\n"]},
        {"plan": "p", "source": "<new>", "drafted": 9, "texts": list("123456789")},
    ]
    shown = watched(tmp_path, [{"id": "<i>", "tokens": 14, "rounds": rounds}])
    text = shown.partition("<pre>")[2].partition("</pre>")[0]
    assert text.startswith(
        '<span class="kept draft d1" title="draft, depth 1 · race K=2 L=3">&lt;b&gt;</span>'
        '<span class="kept draft d2" title="draft, depth 2 · race K=2 L=3"> &amp;↵\n</span>'
        '<span title="target · race K=2 L=3">&quot;x</span>'
        '<span class="kept lookup d1" title="lookup, depth 1 · race K=1 L=8 texts">y</span>'
        '<span title="target · plain">z\n</span>'
        '<span class="kept other d1" title="&lt;new&gt;, depth 1 · p">1</span>'
    )
    assert re.findall(r" d(\d)", text)[-5:] == ["5", "6", "6", "6", "6"]
    assert "<b>&lt;i&gt;</b> · 14 tokens in 4 passes, 3.50 per pass" in shown
    legend = shown.partition("</p>")[0]
    assert all(f"<span>{source} <span" in legend for source in ("draft", "lookup", "&lt;new&gt;"))
    assert shown.count('class="kept draft d6"') == 1  # in the legend alone


def test_few_rows_are_shown_each_once_and_what_was_cut_is_told(tmp_path: Path):
    rounds = [{"plan": "plain", "source": None, "drafted": 0, "texts": ["x"]}]
    rows = [{"id": str(n), "tokens": 1 + (n == 0), "rounds": rounds} for n in range(12)]
    shown = watched(tmp_path, [*rows, rows[0]])
    assert re.findall(r"<b>(\d+)</b>", shown) == ["0", "2", "4", "6", "8", "10"]
    assert "the first 1 of 2 tokens in 1 passes" in shown
    assert watched(tmp_path, []) == ""


def test_the_page_shows_rows_of_the_run(run_dir: Path):
    page = module.page(RunDirectory.open(run_dir))
    assert page.count('<div class="drafts">') == 6
    assert 'class="kept lookup d1" title="lookup, depth 1 · kseq K=4 L=4"' in page


def test_interruptions_are_marked_and_told(batch, bundle: Path, prompts: Path, tmp_path: Path):
    def end(run: RunDirectory, reason: str | None) -> str:
        """The page, had the session ended so."""
        (session,) = run.sessions.iterdir()
        *events, last = read_lines(session)
        write_lines(
            session, events + ([last | {"reason": reason}] if reason else [last | {"event": "tick", "reason": None}])
        )
        return module.page(run)

    batch(
        "run",
        bundle,
        prompts,
        "-o",
        tmp_path / "run",
        "--shard-size",
        8,
        "--rank",
        1,
        "--world",
        2,
        own_shards=True,
        pause=0.002,
    )
    run = RunDirectory.open(tmp_path / "run")
    assert 'stroke-dasharray="4 3"' not in end(run, "done")
    for reason, shown in (("SIGTERM", "SIGTERM"), (None, "killed or running")):
        page = end(run, reason)
        assert f'text-anchor="end">{shown}</text>' in page
        assert f"<td>{shown}</td></tr>" in page
    assert page.count("<td>1 of 2</td>") == 1


def test_the_time_axis_takes_the_unit_that_fits():

    assert [module.unit_of(seconds)[0] for seconds in (60, 180, 3 * 3600 - 1, 3 * 3600, 10**6)] == [
        "seconds",
        "minutes",
        "minutes",
        "hours",
        "hours",
    ]


def test_many_rows_become_few_dots(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    assert module.page(RunDirectory.open(run_dir)).count("<circle") == 29
    monkeypatch.setattr(module, "DOTS", 10)
    assert module.page(RunDirectory.open(run_dir)).count("<circle") == 10


def test_the_timeline_loses_no_token(run_dir: Path):
    pieces = spans(run_dir / "sessions")
    written = sum(row["usage"]["completion_tokens"] for row in read_lines(run_dir / "output.jsonl"))
    assert sum(piece.tokens for piece in pieces) == written
    found = bins([Span(100, 160, 600, 100, 50), Span(130, 190, 300, 50, 0), Span(150, 150, 0, 0, 0)])
    width = 90 / len(found)
    assert sum(one.tokens_per_second * width for one in found) == pytest.approx(900)
    assert [found[index].tokens_per_second for index in (0, 60, -1)] == pytest.approx([10, 15, 5])
    assert [found[index].block_efficiency for index in (0, 60, -1)] == pytest.approx([1.5, 4 / 3, 1.0])
    assert (found[0].at, found[-1].at) == pytest.approx((width / 2, 90 - width / 2))


def test_shares_are_stacked_and_what_has_no_name_is_others():
    columns = [(0.5, {"a": 0.75, "b": 0.25}), (1.5, {}), (2.5, {"a": 0.5, "<c>": 0.5})]
    drawn = stacked(columns, ["a", "b"], Axis("s", 0, 3), "<t>")
    area = drawn.partition('<g shape-rendering="crispEdges">')[2].partition("</g>")[0]
    places = [
        (float(x), float(y), float(high), fill)
        for x, y, high, fill in re.findall(
            r'<rect x="([\d.]+)" y="([\d.]+)" width="[\d.]+" height="([\d.]+)" fill="([^"]+)"', area
        )
    ]
    assert places == [
        (56.0, 65.0, 135.0, COLOURS[0]),
        (56.0, 20.0, 45.0, COLOURS[1]),
        (384.0, 110.0, 90.0, COLOURS[0]),
        (384.0, 20.0, 90.0, COLOURS[-1]),
    ]
    names = re.findall(r">([^<]+)</text>", drawn)
    assert names[-3:] == ["a", "b", "others"]
    assert re.findall(r">([^<]+)</text>", stacked(columns[:1], ["a", "b"], Axis("s", 0, 1), "t"))[-2:] == ["a", "b"]


def test_many_names_take_several_lines():
    names = [f"race K={n} L=4 texts" for n in range(6)]
    drawn = stacked([(0.5, dict.fromkeys(names, 1 / 6))], names, Axis("s", 0, 1), "t")
    assert 'viewBox="0 0 560 280"' in drawn
    assert max(float(x) + 7 * 18 for x in re.findall(r'<rect x="([\d.]+)" y="2[4-9]\d', drawn)) <= 560


def test_a_run_without_sessions_has_no_timeline():
    assert bins([]) == []


@pytest.mark.parametrize(
    ("values", "high", "ticks"),
    [
        ([], 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([0.0], 1, None),
        ([7.2], 8, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ([430], 500, [0, 100, 200, 300, 400, 500]),
        ([0.013], 0.014, None),
    ],
)
def test_axes_end_at_round_numbers(values: list[float], high: float, ticks: list[float] | None):
    axis = Axis.up_to("x", values)
    assert axis.high == pytest.approx(high)
    assert ticks is None or axis.ticks() == pytest.approx(ticks)
    assert 2 <= len(axis.ticks()) <= 11


def test_numbers_are_short():
    assert [number(value) for value in (0.0, 0.25, 12.0, 1234.5, 0.1 + 0.2)] == ["0", "0.25", "12", "1,234", "0.3"]


def test_names_in_charts_are_text():
    axis = Axis("<tokens>", 0, 1)
    for chart in (
        line([(0, 0), (1, 1)], axis, axis, "<a>"),
        scatter([(0, 1)], axis, axis, "<a>"),
        bars({"<1>": 0.5}, "<n>", axis, "<a>"),
        shares({"<draft>": (1.0, "<1 s>")}, "<a>"),
        stacked([(0.5, {"<p>": 1.0})], ["<p>"], axis, "<a>"),
    ):
        xml.dom.minidom.parseString(chart)


def test_places_of_a_line_follow_its_axes():
    drawn = line([(0, 0), (10, 5)], Axis("x", 0, 10), Axis("y", 0, 10), "a")
    assert 'points="56.0,200.0 548.0,110.0"' in drawn


def test_a_line_that_a_power_cut_damaged_is_left_out(run_dir: Path):
    (shard, *_) = sorted((run_dir / "shards").iterdir())
    with (shard / "output.jsonl").open("ab") as file:
        file.write(b"\0\0\0\n{torn")
    assert module.page(RunDirectory.open(run_dir)).count("<circle") == 29
