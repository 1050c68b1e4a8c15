"""The vocabulary that a target writes, and shares with its draft."""

# V vocabulary: token ids 0 .. V - 1.
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spectr_export.original.tokens.probe import difference, read_with, texts_for
from spectr_runtime.bundle import Role, Vocabulary
from spectr_runtime.errors import BundleError

FAMILY = "Choose a draft of the same family as the target."


def refuse_other_tokenizer(target: Any, draft: Any) -> None:
    """Refuse a draft whose token ids mean something else than the target's.

    The ids, the texts and the special tokens have to be the same, except that the draft may lack some of the target's
    added tokens. The special token that ends a text or pads it may be another one, so that a base model can draft for
    an instruct model.

    Args:
        target: The target's tokenizer.
        draft: The draft's tokenizer.

    Raises:
        BundleError: The tokenizers differ; the message gives the first difference.
    """
    lacking = target.get_vocab().keys() - draft.get_vocab().keys()
    texts = [text for text in texts_for(sorted(_special(draft))) if not any(token in text for token in lacking)]
    encoded = difference(read_with(target, texts), read_with(draft, texts))
    for part, found in (
        ("vocabularies", _other_tokens(target, draft)),
        ("special tokens", _other_kinds(target, draft)),
        (
            "readings of a text",
            encoded and f"of {encoded[0]!r:.60} the target makes {encoded[1]}, the draft {encoded[2]}",
        ),
    ):
        if found:
            raise BundleError(
                f"Draft and target do not share a tokenizer; their {part} differ: {found}.",
                hint=FAMILY,
            )


def share_vocabulary(
    widths: Mapping[Role, int],
    target: Any,
    draft: Any | None,
    end_tokens: tuple[int, ...],
    chosen: Sequence[int] | None = None,
) -> Vocabulary:
    """Return the token ids that are written: those that the target scores, without padding that only it has.

    Added tokens may lie beyond a model's logits, as tokens of images do. What the target cannot score is never written.
    What only the draft cannot score is never drafted, and is fed to it as its unknown, padding or end token.

    Args:
        widths: Width of the logits of each model.
        target: The target's tokenizer.
        draft: The draft's tokenizer; None if there is no draft.
        end_tokens: Ids that end a text; the target scores them.
        chosen: The target's ids of the tokens that the draft scores; None for the first ones in order.

    Raises:
        BundleError: A model cannot score every token of its vocabulary that is not an added one, and names no others.
    """
    _refuse_narrow("target", target, widths["target"])
    used = max((*target.get_vocab().values(), *end_tokens)) + 1
    if draft is None:
        return Vocabulary(min(widths["target"], used), end_tokens)
    if chosen is None:
        _refuse_narrow("draft", draft, widths["draft"])
    own = {token: number for number, token in enumerate(range(widths["draft"]) if chosen is None else chosen)}
    stand_ins = (draft.unk_token_id, draft.pad_token_id, draft.eos_token_id)
    known = [own[token] for token in stand_ins if token in own]
    return Vocabulary(min(widths["target"], max(max(own) + 1, used)), end_tokens, known[0] if known else 0)


def remarks(
    widths: Mapping[Role, int], target: Any, draft: Any | None, chosen: Sequence[int] | None = None
) -> Iterator[str]:
    """Yield a line for tokens that the target cannot score, and one for tokens that a draft does not know."""
    tokens = target.get_vocab()
    if unscored := {token: number for token, number in tokens.items() if number >= widths["target"]}:
        yield f"target: no logits for {_some(unscored)}: never written, and a prompt that holds one fails"
    if draft is None:
        return
    known, scored = draft.get_vocab(), {*(range(widths["draft"]) if chosen is None else chosen)}
    lacking = {token: number for token, number in tokens.items() if token not in known or number not in scored}
    if lacking := {token: number for token, number in lacking.items() if token not in unscored}:
        yield f"draft: not made for {_some(lacking)}, which the target has: hardly ever drafted"


def _refuse_narrow(role: str, tokenizer: Any, width: int) -> None:
    added = tokenizer.added_tokens_decoder
    beyond = {
        token: number for token, number in tokenizer.get_vocab().items() if number >= width and number not in added
    }
    if beyond:
        raise BundleError(
            f"The {role} scores token ids below {width}; the ordinary tokens of its tokenizer go on: {_some(beyond)}.",
            hint="Put the tokenizer beside it that the model was trained with.",
        )


def _other_tokens(target: Any, draft: Any) -> str:
    """Return which tokens have other ids; a token that only the target has, and that was added, is none of them."""
    wanted, found = target.get_vocab(), draft.get_vocab()
    added = target.added_tokens_decoder
    different = sorted(
        token
        for token in wanted.keys() | found.keys()
        if wanted.get(token) != found.get(token) and (token in found or wanted[token] not in added)
    )
    if not different:
        return ""
    example = different[0]
    return (
        f"{len(different)} tokens, for instance {example!r} is id {wanted.get(example, 'none')} in the target "
        f"and {found.get(example, 'none')} in the draft"
    )


def _other_kinds(target: Any, draft: Any) -> str:
    """Return which tokens are special in one tokenizer only, of those that the draft has."""
    known = draft.get_vocab()
    different = sorted((_special(target) & known.keys()) ^ _special(draft))
    return f"{len(different)} tokens, for instance {different[0]!r} is special in one of them only" if different else ""


def _special(tokenizer: Any) -> set[str]:
    return {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}


def _some(tokens: Mapping[str, int]) -> str:
    """Return a number of tokens with the first of them in words, such as ``2 tokens, such as '<think>' (id 4096)``."""
    name, number = min(tokens.items(), key=lambda token: token[1])
    return f"{len(tokens)} tokens, such as {name!r} (id {number})" if len(tokens) > 1 else f"{name!r} (id {number})"
