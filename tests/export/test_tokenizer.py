"""Tokenizers are loaded as their files say, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from packaging.version import Version
from tiny_models import END, byte_tokenizer, tiny_config
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from spectr_export.original.tokens import tokenizer as module
from spectr_export.original.tokens.probe import PROBES
from spectr_export.original.tokens.tokenizer import load_tokenizer, refuse_changed_by_saving
from spectr_runtime import BundleError

PROBE = PROBES[0]


def load(folder: Path) -> tuple[Any, list[str]]:
    lines: list[str] = []
    return load_tokenizer(folder, lines.append), lines


def checkpoint(folder: Path, architecture: str, **settings: Any) -> Path:
    """Write the settings beside a tokenizer's file."""
    (folder / "config.json").write_text(json.dumps({"model_type": architecture}))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny_config("llama").save_pretrained(tmp_path)
    with pytest.raises(BundleError, match="cannot load a tokenizer"):
        load(tmp_path)


def splitting_tokenizer(digits: str) -> Tokenizer:
    """A tokenizer of bytes that splits a text first as Llama 3 and Qwen 2 do, but for how many digits stay together."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC() if digits == "" else None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern.replace("DIGITS", digits)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # Every run of characters that the pattern keeps together becomes a token, so that another split shows.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, special_tokens=[END], show_progress=False)
    tokenizer.train_from_iterator([PROBE, PROBE], trainer)
    return tokenizer


# transformers builds some classes anew and takes only the vocabulary from tokenizer.json. Before 5.22 it lost the split
# of Llama's class in this way, without an error.
@pytest.mark.parametrize(
    ("architecture", "named", "digits", "as_it_is"),
    [
        # Qwen's class adds a token <|endoftext|>, which real files have.
        ("qwen2", "Qwen2Tokenizer", "", True),
        ("qwen3", "Qwen2Tokenizer", "", True),
        ("llama", "PreTrainedTokenizerFast", "{1,3}", False),
        ("llama", "LlamaTokenizerFast", "{1,3}", False),
        ("olmo2", "GPT2Tokenizer", "{1,3}", False),
        ("phi3", "GPT2Tokenizer", "{1,3}", False),
        ("granite", "GPT2Tokenizer", "", False),
        ("smollm3", "PreTrainedTokenizerFast", "{1,3}", False),
        # transformers loses the split of these, of the first since 5.23.
        ("qwen2", "LlamaTokenizerFast", "{1,3}", Version(transformers.__version__) >= Version("5.23")),
        ("qwen2", "Qwen2Tokenizer", "{1,3}", True),
        ("gpt_neox", "GPTNeoXTokenizer", "{1,3}", True),
    ],
)
def test_a_text_is_encoded_as_tokenizer_json_says(
    tmp_path: Path, architecture: str, named: str, digits: str, as_it_is: bool
) -> None:
    original = splitting_tokenizer(digits)
    original.save(str(tmp_path / "tokenizer.json"))
    loaded, lines = load(checkpoint(tmp_path, architecture, tokenizer_class=named, eos_token=END))
    assert loaded(PROBE, add_special_tokens=False)["input_ids"] == original.encode(PROBE, add_special_tokens=False).ids
    assert len(lines) == as_it_is
    refuse_changed_by_saving(loaded)
    loaded.save_pretrained(tmp_path / "bundle")
    again = AutoTokenizer.from_pretrained(tmp_path / "bundle")
    assert again(PROBE, add_special_tokens=False)["input_ids"] == original.encode(PROBE, add_special_tokens=False).ids
    assert again.eos_token == END


def test_a_setting_beside_tokenizer_json_is_kept(tmp_path: Path) -> None:
    original = splitting_tokenizer("{1,3}")
    original.enable_padding(length=500)
    original.save(str(tmp_path / "tokenizer.json"))
    checkpoint(tmp_path, "olmo2", tokenizer_class="GPT2Tokenizer", eos_token=END, add_prefix_space=True)
    expected = AutoTokenizer.from_pretrained(tmp_path)("x", add_special_tokens=False)["input_ids"]
    assert load(tmp_path)[0]("x", add_special_tokens=False)["input_ids"] == expected


def test_a_file_that_is_read_as_it_is_is_told(tmp_path: Path) -> None:
    splitting_tokenizer("{1,3}").save(str(tmp_path / "tokenizer.json"))
    (line,) = load(checkpoint(tmp_path, "gpt_neox", tokenizer_class="GPTNeoXTokenizer", eos_token=END))[1]
    assert line.startswith("tokenizer: tokenizer.json is read as it is; GPTNeoXTokenizer would make of ")


def pieces(folder: Path) -> None:
    """A tokenizer of pieces and lone bytes that puts a space before every text."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"\u2581helo"]
    ids = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(ids, [], byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(("setting", "first"), [(None, "\u2581"), (True, "\u2581"), (False, "h")])
def test_a_space_before_the_text_follows_its_setting(tmp_path: Path, setting: bool | None, first: str) -> None:
    pieces(tmp_path)
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    loaded, lines = load(
        checkpoint(tmp_path, "llama", tokenizer_class="LlamaTokenizer", add_prefix_space=setting, **named)
    )
    assert loaded.tokenize("hello")[0][0] == first
    assert loaded.decode(loaded("hello", add_special_tokens=False)["input_ids"]) == "hello"
    assert lines == []
    refuse_changed_by_saving(loaded)


def test_a_third_reading_is_refused(tmp_path: Path) -> None:
    """The class loses the split, and a setting changes what the file's own tokenizer makes of a token."""
    original = splitting_tokenizer("{1,3}")
    original.add_tokens([AddedToken("<tool>", lstrip=False)])
    original.save(str(tmp_path / "tokenizer.json"))
    number = original.token_to_id("<tool>")
    tool = {"content": "<tool>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
    checkpoint(
        tmp_path,
        "gpt_neox",
        tokenizer_class="GPTNeoXTokenizer",
        eos_token=END,
        added_tokens_decoder={str(number): {**tool, "special": False}},
    )
    with pytest.raises(BundleError) as caught:
        load(tmp_path)
    assert caught.value.message == (
        f"GPTNeoXTokenizer does not read {tmp_path / 'tokenizer.json'} as the file says: of "
        r"'a<tool>b <tool> c\n<tool>' it makes ... '<tool>' 'Ġ' 'c' '<tool>', the file ... 'Ġ' '<tool>' 'Ġ' 'c' 'Ċ' "
        "'<tool>'."
    )
    assert "Set tokenizer_class to PreTrainedTokenizerFast" in caught.value.hint


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    ("content", "words"), [(b'{"a": 1,}', "is not JSON"), (b"[]", "holds a list"), (b"\xff", "UTF-8")]
)
def test_a_malformed_file_is_refused_by_its_name(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleError, match=words) as caught:
        load(tmp_path)
    assert str(tmp_path / name) in caught.value.message


@pytest.mark.parametrize("content", ["{}", '{"model": {"type": "BPE"}}', '{"model": 3, "added_tokens": {}}'])
def test_an_object_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BundleError, match="tokenizer"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "package"), [(b"\x0a\x0e\x0a\x05<unk>\x15", "sentencepiece"), (b"IQ== 0\nIg== 1\n", "tiktoken")]
)
def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, package: str
) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    tiny_config("llama").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(BundleError) as caught:
        load(tmp_path)
    assert caught.value.message == (
        f"{tmp_path / 'tokenizer.model'} is a vocabulary that only {package} can read, which is not installed."
    )
    assert caught.value.hint == f"Install it with `pip install 'spectr[{package}]'`; the bundle will not need it."


def test_a_tokenizer_that_saving_changes_is_refused() -> None:
    tokenizer, other = byte_tokenizer(), byte_tokenizer()
    refuse_changed_by_saving(tokenizer)
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save_pretrained = other.save_pretrained  # type: ignore[method-assign]
    with pytest.raises(BundleError) as caught:
        refuse_changed_by_saving(tokenizer)
    message = caught.value.message
    assert message.startswith("Saved to the bundle and loaded again, TokenizersBackend is another tokenizer: of ")
    assert message.endswith(" 'Ġ' 'A' 'Ì' ..., and makes ... 'Ã' '¥' 'Ġ' 'a' 'Ì' 'Ĭ' ....")


def test_a_chat_template_that_saving_loses_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained = byte_tokenizer().save_pretrained  # type: ignore[method-assign]
    tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(BundleError, match="is another tokenizer: its chat template"):
        refuse_changed_by_saving(tokenizer)
