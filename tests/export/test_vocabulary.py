"""What a target and a draft must share, and the tokens that are written with the two."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_models import END, byte_tokenizer
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from spectr_export.original.tokens.vocabulary import refuse_other_tokenizer, remarks, share_vocabulary
from spectr_runtime import BundleError
from spectr_runtime.bundle import Vocabulary


def with_added(*tokens: str) -> PreTrainedTokenizerFast:
    """The byte tokenizer, whose ids end at 256, with added tokens from 257 on."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(list(tokens))
    return tokenizer


def test_equal_tokenizers_pass() -> None:
    refuse_other_tokenizer(byte_tokenizer(), byte_tokenizer())


def test_another_role_of_a_special_token_passes() -> None:
    draft = byte_tokenizer()
    draft.pad_token = END
    refuse_other_tokenizer(byte_tokenizer(), draft)


def test_a_token_that_only_the_draft_has_is_refused_with_an_example() -> None:
    draft = byte_tokenizer()
    draft.add_tokens(["<extra>"])
    with pytest.raises(
        BundleError, match="vocabularies differ: 1 tokens, for instance '<extra>' is id none in the target and 257"
    ):
        refuse_other_tokenizer(byte_tokenizer(), draft)


def test_the_draft_may_lack_added_tokens_of_its_target() -> None:
    refuse_other_tokenizer(with_added("<think>", "[INST]"), byte_tokenizer())


def test_an_added_token_with_another_id_in_the_draft_is_refused() -> None:
    with pytest.raises(BundleError, match="'<a>' is id 257 in the target and 258 in the draft"):
        refuse_other_tokenizer(with_added("<a>", "<b>", "<c>"), with_added("<b>", "<a>"))


def test_the_draft_may_not_lack_an_ordinary_token() -> None:
    whole, without = (
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(ids, []))) for ids in ({"a": 0, "b": 1}, {"a": 0})
    )
    with pytest.raises(BundleError, match="1 tokens, for instance 'b' is id 1 in the target and none in the draft"):
        refuse_other_tokenizer(whole, without)


def test_another_special_token_is_refused() -> None:
    target, draft = byte_tokenizer(), byte_tokenizer()
    target.add_tokens([AddedToken("<tool>", special=True)])
    draft.add_tokens([AddedToken("<tool>", special=False)])
    with pytest.raises(
        BundleError, match="special tokens differ: 1 tokens, for instance '<tool>' is special in one of"
    ):
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
    with pytest.raises(BundleError, match="readings of a text differ"):
        refuse_other_tokenizer(byte_tokenizer(), draft)


def test_other_merges_of_one_vocabulary_are_refused() -> None:
    ids = {"d": 0, "e": 1, "f": 2, "de": 3, "ef": 4}
    target, draft = (
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(ids, merges)))
        for merges in ([("d", "e"), ("e", "f")], [("e", "f"), ("d", "e")])
    )
    with pytest.raises(BundleError, match="readings of a text differ"):
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
    with pytest.raises(BundleError, match=r"vocabularies differ: 258 tokens, for instance '!' .* none in the draft"):
        refuse_other_tokenizer(byte_tokenizer(), PreTrainedTokenizerFast(tokenizer_object=pieces))


def shared(
    draft_width: int,
    target_width: int,
    *,
    target: Any = None,
    draft: Any = None,
    ends: tuple[int, ...] = (256,),
) -> Vocabulary:
    target, draft = target or byte_tokenizer(), draft or byte_tokenizer()
    return share_vocabulary({"draft": draft_width, "target": target_width}, target, draft, ends)


@pytest.mark.parametrize(
    ("draft_width", "target_width", "size"),
    [
        (260, 264, 260),  # what only the target's padding scores is left out
        (264, 260, 260),
        (256, 264, 257),  # the draft lacks the end token, which is an added one
        (256, 256, 256),  # both lack it
    ],
)
def test_the_tokens_that_are_written(draft_width: int, target_width: int, size: int) -> None:
    assert shared(draft_width, target_width, ends=()).size == size


def test_an_end_token_that_only_the_target_scores_is_written() -> None:
    assert shared(260, 264, ends=(256, 261)) == Vocabulary(262, (256, 261), 256)


def test_added_tokens_of_the_target_are_written_although_the_draft_lacks_their_logits() -> None:
    target = with_added("<think>", "</think>")
    assert shared(257, 264, target=target) == Vocabulary(259, (256,), 256)
    assert shared(264, 264, target=target).size == 264
    assert shared(257, 258, target=target).size == 258


@pytest.mark.parametrize(
    ("special", "substitute"),
    [
        ({}, 256),
        ({"pad_token": "a"}, 64),
        ({"pad_token": "a", "unk_token": "b"}, 65),
        ({"unk_token": "<late>"}, 256),  # the draft has no logits for it
        ({"eos_token": None}, 0),
    ],
)
def test_the_draft_is_fed_its_unknown_padding_or_end_token(special: dict[str, Any], substitute: int) -> None:
    draft = with_added("<late>")
    for name, token in special.items():
        setattr(draft, name, token)
    assert shared(257, 264, target=with_added("<late>"), draft=draft).substitute == substitute


@pytest.mark.parametrize("role", ["target", "draft"])
def test_a_model_must_score_the_ordinary_tokens(role: str) -> None:
    widths = {"draft": 264, "target": 264, role: 254}
    with pytest.raises(BundleError) as caught:
        shared(widths["draft"], widths["target"], ends=())
    assert caught.value.message == (
        f"The {role} scores token ids below 254; the ordinary tokens of its tokenizer go on: 2 tokens, such as "
        "'\u0142' (id 254)."
    )


def told(draft_width: int, target_width: int, target: Any) -> list[str]:
    return list(remarks({"draft": draft_width, "target": target_width}, target, byte_tokenizer()))


def test_what_a_model_lacks_is_told() -> None:
    assert told(257, 257, byte_tokenizer()) == []
    assert told(257, 257, with_added("<image>")) == [
        "target: no logits for '<image>' (id 257): never written, and a prompt that holds one fails"
    ]
    assert told(264, 264, with_added("<think>", "</think>")) == [
        "draft: not made for 2 tokens, such as '<think>' (id 257), which the target has: hardly ever drafted"
    ]
    assert told(256, 258, with_added("<a>", "<b>")) == [
        "target: no logits for '<b>' (id 258): never written, and a prompt that holds one fails",
        "draft: not made for 2 tokens, such as '<|end|>' (id 256), which the target has: hardly ever drafted",
    ]
