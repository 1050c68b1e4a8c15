"""The demo pair, as ``make demo`` uses it: agreement with transformers and the worth of its drafts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from spectr_export.build import build
from spectr_export.preparation import BuildOptions
from spectr_runtime import Bundle, Completion, Decoder, Plan, Request, SamplingParams, telemetry

EXAMPLES = Path(__file__).parent.parent / "examples"
TOKENS = 32


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    pair, output = EXAMPLES / "demo_pair", tmp_path_factory.mktemp("demo") / "bundle"
    build(BuildOptions(str(pair / "target"), str(pair / "draft")), output, say=str)
    return Bundle.open(output)


def demo_requests(params: SamplingParams) -> list[Request]:
    records = [json.loads(line) for line in (EXAMPLES / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(records) >= 64
    return [
        Request(record.get("id") or record["custom_id"], record.get("prompt") or record["body"]["prompt"], params)
        for record in records
    ]


def decode(bundle: Bundle, plan: Plan, requests: list[Request]) -> list[Completion]:
    outcomes = Decoder(bundle, plan=plan, batch_size=8).generate(requests)
    rows = {one.id: one for one in outcomes if isinstance(one, Completion)}
    return [rows[request.id] for request in requests]


@pytest.fixture(scope="module")
def generated() -> list[list[int]]:
    """What transformers' greedy ``generate`` writes after every demo prompt, one prompt at a time."""
    folder = EXAMPLES / "demo_pair" / "target"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    written = []
    for request in demo_requests(SamplingParams()):
        inputs = tokenizer(request.prompt, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        written.append(ids[0, inputs["input_ids"].shape[1] :].tolist())
    return written


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("single", 1, 4), Plan("kseq", 4, 4)], ids=str)
def test_greedy_equals_generate_on_every_demo_prompt(bundle: Bundle, generated: list[list[int]], plan: Plan) -> None:
    rows = decode(bundle, plan, demo_requests(SamplingParams(max_tokens=TOKENS, temperature=0)))
    assert [list(row.token_ids) for row in rows] == generated


def test_drafts_are_accepted_and_more_paths_accept_more(bundle: Bundle) -> None:
    requests = demo_requests(SamplingParams(max_tokens=TOKENS, ignore_eos=True))

    def block_efficiency(plan: Plan) -> float:
        rows = decode(bundle, plan, requests)
        return 1 + sum(row.speculation.accepted for row in rows) / sum(row.speculation.rounds for row in rows)

    single, multiple = block_efficiency(Plan("single", 1, 4)), block_efficiency(Plan("kseq", 4, 4))
    assert single > 2.5
    assert multiple > single + 0.3


@pytest.mark.parametrize("document", ["README.md", "docs/decoding.md"])
def test_the_python_of_a_document_runs(
    bundle: Bundle, document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / document).read_text(encoding="utf-8"), re.DOTALL)
    folder = tmp_path / "build" / "demo"
    folder.mkdir(parents=True)
    (folder / "bundle").symlink_to(bundle.path)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, document, "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= len(re.findall(r"Request\(\"", example))


WATCHED = """
import os, sys, threading, time
from spectr_jobs.cli.main import call

found, over = set(), threading.Event()

def watch():
    while not over.wait(0.002):
        for number in os.listdir("/proc/self/fd"):
            try:
                found.add(os.readlink(f"/proc/self/fd/{number}").partition(":")[0])
            except OSError:
                pass

watcher = threading.Thread(target=watch)
watcher.start()
code = call(["run", *sys.argv[1:]])
over.set()
watcher.join()
print(code, "socket" in found)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not show a process's files")
def test_a_run_opens_no_socket_and_keeps_nothing_at_home_but_its_costs(bundle: Bundle, tmp_path: Path) -> None:
    home, prompts = tmp_path / "home", tmp_path / "prompts.jsonl"
    home.mkdir()
    lines = (EXAMPLES / "prompts.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    prompts.write_text("\n".join(lines), encoding="utf-8")
    # Continuous integration is a reason for some libraries to keep quiet, so the process must not know of it.
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    run = [
        sys.executable,
        "-c",
        WATCHED,
        str(bundle.path),
        str(prompts),
        "-o",
        str(tmp_path / "run"),
        "--max-tokens",
        "8",
    ]
    ended = subprocess.run(run, env=kept | {"HOME": str(home)}, capture_output=True, text=True, check=False)
    assert ended.stdout == "0 False\n", ended.stderr
    (costs,) = (path for path in home.rglob("*") if path.is_file())
    assert costs.parent.parent == home / ".cache" / "spectr" / "costs"


def test_reports_are_off_unless_the_user_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in telemetry.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    telemetry.turn_off()
    assert {name: os.environ[name] for name in telemetry.VARIABLES} == {
        "ORT_DISABLE_TELEMETRY": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
