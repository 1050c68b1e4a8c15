"""The whole decoder on exported models: its law, its independence of the batch, its agreement with transformers."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from support import chi_square_p_value, completions
from tiny_models import save_checkpoint, save_pair, tiny_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from spectr_export.build import build
from spectr_export.preparation import BuildOptions
from spectr_runtime import (
    Bundle,
    Chat,
    Completion,
    Decoder,
    EngineError,
    Failure,
    Plan,
    Request,
    SamplingParams,
    UsageError,
)
from spectr_runtime.bundle import Role
from spectr_runtime.contract import Engine
from spectr_runtime.engines import open_engine

PLANS = [Plan.plain(), Plan("single", 1, 3), Plan("kseq", 3, 2), Plan("kseq", 4, 4)]
LETTERS = 6
PROMPT = (1, 4, 2, 2, 3)


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """One token per letter; the first is the end token."""
    tokenizer = Tokenizer(models.WordLevel({"<end>": 0} | {chr(96 + token): token for token in range(1, LETTERS)}, "a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """A bundle of six tokens whose draft is a blurred target, and the target's folder."""
    folder = tmp_path_factory.mktemp("letters")
    target = tiny_model("llama", seed=1, vocab_size=LETTERS, eos_token_id=0)
    draft = tiny_model("llama", seed=1, vocab_size=LETTERS, eos_token_id=0)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.add_(0.08 * torch.randn(parameter.shape, generator=generator))
    for name, model in (("target", target), ("draft", draft)):
        save_checkpoint(folder / name, model)
        letter_tokenizer().save_pretrained(folder / name)
    build(BuildOptions(str(folder / "target"), str(folder / "draft")), folder / "bundle", say=str)
    return Bundle.open(folder / "bundle"), folder / "target"


@pytest.fixture(scope="module")
def byte_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """A bundle over bytes, and the target's folder."""
    folder = tmp_path_factory.mktemp("bytes")
    target, draft = save_pair(folder)
    build(BuildOptions(str(target), str(draft)), folder / "bundle", say=str)
    return Bundle.open(folder / "bundle"), target


@torch.inference_mode()
def two_token_law(folder: Path) -> torch.Tensor:
    """Exact law of the two tokens after the prompt under transformers' own target, flat [36]."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    texts = torch.tensor([[*PROMPT, token] for token in range(LETTERS)])
    law_BTV = model(texts).logits.double().softmax(-1)
    return (law_BTV[0, -2][:, None] * law_BTV[:, -1]).flatten()


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_first_two_tokens_follow_the_target(letters: tuple[Bundle, Path], plan: Plan, backend: str) -> None:
    bundle, folder = letters
    rows = 8_000 if backend == "onnxruntime" else 4_000
    params = SamplingParams(max_tokens=2, ignore_eos=True)
    decoder = Decoder(bundle, plan=plan, batch_size=100, backend=backend)  # type: ignore[arg-type]
    counts = torch.zeros(LETTERS**2)
    for one in completions(decoder.generate(Request(str(row), PROMPT, params) for row in range(rows))).values():
        counts[LETTERS * one.token_ids[0] + one.token_ids[1]] += 1
    law = two_token_law(folder)
    assert chi_square_p_value(counts, law) > 1e-9
    tempered = law.pow(1 / 1.3) / law.pow(1 / 1.3).sum()
    assert chi_square_p_value(counts, tempered) < 1e-9, "the test must be able to tell a wrong law"


def mixed_requests(count: int) -> list[Request]:
    """Prompts of many lengths with mixed sampling."""
    shuffler = random.Random(3)
    requests = []
    for row in range(count):
        prompt = tuple(shuffler.randrange(256) for _ in range(1 + 7 * row % 60))
        params = SamplingParams(
            max_tokens=1 + 5 * row % 40,
            temperature=(1.0, 0.0, 0.6)[row % 3],
            top_k=(0, 20)[row % 2],
            top_p=(1.0, 0.9, 1.0, 1.0)[row % 4],
            seed=row if row % 5 == 0 else None,
        )
        requests.append(Request(f"row {row}", prompt, params))
    return requests


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_row_does_not_depend_on_its_batch(byte_pair: tuple[Bundle, Path], plan: Plan, backend: str) -> None:
    # Logits differ in their last bits between batch shapes. A row could change only where a uniform number of 53 bits
    # falls between the two sides of such a difference; over these rows and seeds none does.
    requests = mixed_requests(16)
    runs = []
    for batch_size in (1, 3, 8):
        random.Random(batch_size).shuffle(requests)
        decoder = Decoder(byte_pair[0], plan=plan, batch_size=batch_size, backend=backend)  # type: ignore[arg-type]
        runs.append({name: one for name, one in completions(decoder.generate(requests)).items()})
    for run in runs[1:]:
        for name, one in run.items():
            assert one == runs[0][name]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_greedy_equals_generate(byte_pair: tuple[Bundle, Path], plan: Plan) -> None:
    bundle, folder = byte_pair
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    requests = [Request(one.id, one.prompt, SamplingParams(max_tokens=30, temperature=0)) for one in mixed_requests(12)]
    padding = list(range(bundle.manifest.vocabulary.size, bundle.manifest.models["target"].vocabulary))
    for name, one in completions(Decoder(bundle, plan=plan, batch_size=5).generate(requests)).items():
        (prompt,) = (request.prompt for request in requests if request.id == name)
        ids = torch.tensor([list(prompt)])  # type: ignore[arg-type]
        with torch.inference_mode():
            whole = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=30,
                do_sample=False,
                pad_token_id=0,
                suppress_tokens=padding,
            )
        assert list(one.token_ids) == whole[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("plan", [PLANS[0], PLANS[2]], ids=str)
def test_a_prefix_that_is_copied_changes_no_bit(byte_pair: tuple[Bundle, Path], plan: Plan) -> None:
    """Not even of a log-probability, whichever rows read it for the others, and whatever is kept."""
    params = SamplingParams(max_tokens=8, ignore_eos=True, logprobs=2)
    prompts = [(*range(7, (7, 57, 40, 90)[row % 4]), *range(row, 3 * row + 1)) for row in range(14)]
    requests = [Request(str(row), prompt, params, echo=row % 5 == 0) for row, prompt in enumerate(prompts)]
    requests += [dataclasses.replace(one, id=f"{one.id} again") for one in requests]
    alone = completions(Decoder(byte_pair[0], plan=plan, batch_size=1, prefix_tokens=0).generate(requests))
    for batch_size, prefix_tokens in ((4, 0), (4, None), (3, 32), (9, 10_000)):
        decoder = Decoder(byte_pair[0], plan=plan, batch_size=batch_size, prefix_tokens=prefix_tokens)
        assert completions(decoder.generate(requests)) == alone
        assert (decoder.reading.copied > 400) == (prefix_tokens != 0)


def test_texts_go_in_and_come_out(byte_pair: tuple[Bundle, Path]) -> None:
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    requests = [Request("é", "naïve é", params), Request("empty", "", params), Request("ids", (300,), params)]
    found = {one.id: one for one in Decoder(byte_pair[0], plan=PLANS[2]).generate(requests)}
    whole = found["é"]
    assert isinstance(whole, Completion)
    assert whole.usage.prompt_tokens == len("naïve é".encode())
    assert whole.usage.completion_tokens == 20
    assert whole.text
    assert isinstance(found["empty"], Failure)
    assert str(found["empty"].error) == "The prompt is empty; at least one token is needed."
    assert isinstance(found["ids"], Failure)
    assert str(found["ids"].error) == "Token id 300 is outside the vocabulary; ids run from 0 to 256."


def test_a_row_that_broke_leaves_its_cache_clean(byte_pair: tuple[Bundle, Path]) -> None:
    """A masked slot that holds NaN makes attention NaN: zero times NaN. The next text in the row must not see it."""
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    requests = [Request(str(row), (row, 7, 9), params) for row in range(4)]
    sound = completions(Decoder(byte_pair[0], plan=PLANS[2], batch_size=1).generate(requests))
    decoder = Decoder(byte_pair[0], plan=PLANS[2], batch_size=1)
    outcomes = decoder.generate(requests)
    first = next(outcomes)
    for part in decoder._loop.pair.target.cache.parts():
        part[0, :, 10:30] = torch.nan
    rest = list(outcomes)
    assert first == sound["0"]
    assert [type(one) for one in rest] == [Failure, Completion, Completion]
    assert rest[1:] == [sound["2"], sound["3"]]


def test_an_unknown_device_is_refused(byte_pair: tuple[Bundle, Path]) -> None:
    with pytest.raises(UsageError, match="Backend onnxruntime runs on cpu, cuda or cuda:N; got 'gpu'"):
        Decoder(byte_pair[0], plan=PLANS[0], device="gpu")
    with pytest.raises(EngineError, match="'gpu'"):
        Decoder(byte_pair[0], plan=PLANS[0], backend="torch", device="gpu")


def test_a_batch_beyond_the_memory_is_refused(byte_pair: tuple[Bundle, Path]) -> None:
    with pytest.raises(EngineError, match="There is no memory for a cache of 10000000000 rows"):
        Decoder(byte_pair[0], plan=PLANS[0], batch_size=10**10)


def test_conversations_need_a_chat_template(byte_pair: tuple[Bundle, Path], tmp_path: Path) -> None:
    request = Request("a", Chat(({"role": "user", "content": "hi"},)), SamplingParams(max_tokens=3, ignore_eos=True))
    decoder = Decoder(byte_pair[0], plan=PLANS[0])
    (refused,) = decoder.generate([request])
    assert isinstance(refused, Failure)
    assert refused.error.code == "no_chat_template"
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    decoder._tokenizer._template.templates = {"default": template}
    (answered,) = completions(decoder.generate([request])).values()
    assert answered.usage.prompt_tokens == len("user: hi\n")
    decoder._tokenizer._template.templates = {"default": "{{ raise_exception('system first') }}"}
    (failed,) = decoder.generate([request])
    assert isinstance(failed, Failure)
    assert "The chat template refused the messages: system first." in str(failed.error)


def test_the_draft_cache_is_whole_after_a_fully_accepted_path(
    byte_pair: tuple[Bundle, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft that equals the target has every draft accepted, round after round, also where its cache lagged."""
    bundle, _ = byte_pair

    def open_target(bundle: Bundle, role: Role, **sizes: Any) -> Engine:
        return open_engine(bundle, "target", **sizes)

    monkeypatch.setattr("spectr_runtime.speculation.pair.open_engine", open_target)
    decoder = Decoder(bundle, plan=Plan("kseq", 2, 3), batch_size=2)
    params = SamplingParams(max_tokens=40, ignore_eos=True, temperature=0)
    for one in completions(decoder.generate(Request(str(row), (row, 7, 9, 8), params) for row in range(6))).values():
        stats = one.speculation
        assert stats.accepted == 3 * stats.rounds
