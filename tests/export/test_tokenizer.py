from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import END, byte_tokenizer, tiny_config
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from spectr_export.original.tokenizer import (
    PROBE,
    common_vocabulary,
    find_end_tokens,
    load_tokenizer,
    refuse_other_tokenizer,
)
from spectr_runtime import BundleError


def test_equal_tokenizers_pass() -> None:
    refuse_other_tokenizer(byte_tokenizer(), byte_tokenizer())


def test_another_role_of_a_special_token_passes() -> None:
    draft = byte_tokenizer()
    draft.pad_token = END
    refuse_other_tokenizer(byte_tokenizer(), draft)


def test_another_vocabulary_is_refused_with_an_example() -> None:
    draft = byte_tokenizer()
    draft.add_tokens(["<extra>"])
    with pytest.raises(
        BundleError, match="vocabularies differ: 1 tokens, for instance '<extra>' is id none in the target and 257"
    ):
        refuse_other_tokenizer(byte_tokenizer(), draft)


def test_another_special_token_is_refused() -> None:
    target, draft = byte_tokenizer(), byte_tokenizer()
    target.add_tokens([AddedToken("<tool>", special=True)])
    draft.add_tokens([AddedToken("<tool>", special=False)])
    with pytest.raises(BundleError, match="special tokens differ: 1 tokens, for instance '<tool>'"):
        refuse_other_tokenizer(target, draft)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("normalizer", normalizers.Lowercase()),
        ("normalizer", normalizers.NFC()),
        ("normalizer", normalizers.NFKC()),
        ("normalizer", normalizers.StripAccents()),
        ("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        ("pre_tokenizer", pre_tokenizers.Whitespace()),
    ],
)
def test_another_way_to_encode_is_refused(part: str, other: Any) -> None:
    draft = byte_tokenizer()
    setattr(draft.backend_tokenizer, part, other)
    with pytest.raises(BundleError, match="encodings of a probe text differ"):
        refuse_other_tokenizer(byte_tokenizer(), draft)


def test_other_merges_of_one_vocabulary_are_refused() -> None:
    ids = {"d": 0, "e": 1, "f": 2, "de": 3, "ef": 4}
    target, draft = (
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(ids, merges)))
        for merges in ([("d", "e"), ("e", "f")], [("e", "f"), ("d", "e")])
    )
    with pytest.raises(BundleError, match="encodings of a probe text differ"):
        refuse_other_tokenizer(target, draft)


def test_the_same_tokens_with_other_ids_are_refused() -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)
    draft = byte_tokenizer(letters)
    with pytest.raises(
        BundleError,
        match="vocabularies differ: 256 tokens, for instance '!' is id 0 in the target and 255 in the draft",
    ):
        refuse_other_tokenizer(byte_tokenizer(), draft)


def test_bytes_and_sentence_pieces_do_not_go_together() -> None:
    pieces = Tokenizer(models.Unigram([("<unk>", 0.0), ("\u2581the", -1.0), ("a", -2.0)], unk_id=0))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    with pytest.raises(BundleError, match=r"vocabularies differ: 259 tokens, for instance '!' .* none in the draft"):
        refuse_other_tokenizer(byte_tokenizer(), PreTrainedTokenizerFast(tokenizer_object=pieces))


def test_an_end_token_that_only_one_model_scores_is_refused() -> None:
    with pytest.raises(BundleError, match=r"End tokens \[261\] lie outside the vocabulary of 260 tokens"):
        common_vocabulary({"draft": 260, "target": 264}, byte_tokenizer(), (256, 261))


def test_the_common_vocabulary_is_the_narrower_one() -> None:
    vocabulary = common_vocabulary({"draft": 260, "target": 264}, byte_tokenizer(), (256,))
    assert (vocabulary.size, vocabulary.eos_token_ids) == (260, (256,))


def test_a_model_that_cannot_score_every_token_is_refused() -> None:
    with pytest.raises(BundleError, match="The draft scores 256 tokens; the tokenizer has ids up to 256"):
        common_vocabulary({"draft": 256, "target": 264}, byte_tokenizer(), ())


def test_end_tokens_come_from_all_three_places(tmp_path: Path) -> None:
    config = tiny_config("llama", eos_token_id=7)
    assert find_end_tokens(tmp_path, config, byte_tokenizer()) == (7, 256)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 7]}))
    assert find_end_tokens(tmp_path, config, byte_tokenizer()) == (7, 9, 256)


def test_a_model_may_have_no_end_token(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    assert find_end_tokens(tmp_path, tiny_config("llama", eos_token_id=None), tokenizer) == ()


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny_config("llama").save_pretrained(tmp_path)
    with pytest.raises(BundleError, match="cannot load a tokenizer"):
        load_tokenizer(tmp_path)


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
    # Every run of characters that the pattern keeps together becomes a token, so that another split shows.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, special_tokens=[END], show_progress=False)
    tokenizer.train_from_iterator([PROBE, PROBE], trainer)
    return tokenizer


# transformers builds some classes anew and takes only the vocabulary from tokenizer.json. Before 5.22 it lost the split
# of Llama's class in this way, without an error.
@pytest.mark.parametrize(
    ("architecture", "named", "digits"),
    [
        ("qwen2", "Qwen2Tokenizer", ""),
        ("qwen3", "Qwen2Tokenizer", ""),
        ("llama", "PreTrainedTokenizerFast", "{1,3}"),
        ("llama", "LlamaTokenizerFast", "{1,3}"),
        ("olmo2", "GPT2Tokenizer", "{1,3}"),
        ("phi3", "GPT2Tokenizer", "{1,3}"),
        ("granite", "GPT2Tokenizer", ""),
        ("smollm3", "PreTrainedTokenizerFast", "{1,3}"),
        # transformers 5.23 loses the split of these.
        ("qwen2", "LlamaTokenizerFast", "{1,3}"),
        ("qwen2", "Qwen2Tokenizer", "{1,3}"),
        ("gpt_neox", "GPTNeoXTokenizer", "{1,3}"),
    ],
)
def test_a_text_is_encoded_as_tokenizer_json_says(tmp_path: Path, architecture: str, named: str, digits: str) -> None:
    original = splitting_tokenizer(digits)
    original.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": architecture}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named, "eos_token": END}))
    loaded = load_tokenizer(tmp_path)
    assert loaded(PROBE, add_special_tokens=False)["input_ids"] == original.encode(PROBE, add_special_tokens=False).ids
    loaded.save_pretrained(tmp_path / "bundle")
    again = AutoTokenizer.from_pretrained(tmp_path / "bundle")
    assert again(PROBE, add_special_tokens=False)["input_ids"] == original.encode(PROBE, add_special_tokens=False).ids
    assert again.eos_token == END


def test_a_setting_beside_tokenizer_json_is_kept(tmp_path: Path) -> None:
    original = splitting_tokenizer("{1,3}")
    original.enable_padding(length=500)
    original.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "olmo2"}))
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": END, "add_prefix_space": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    expected = AutoTokenizer.from_pretrained(tmp_path)("x", add_special_tokens=False)["input_ids"]
    assert load_tokenizer(tmp_path)("x", add_special_tokens=False)["input_ids"] == expected
