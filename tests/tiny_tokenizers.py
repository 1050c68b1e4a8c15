"""Small tokenizers of every family that language models use, with the layouts of their checkpoints."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<|turn|>"]
ADDED = ["<think>", "日本\n", "é!"]  # tokens that are added to a vocabulary, but shown
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = [
    "the",
    "of",
    "an",
    "it",
    "do",
    "n",
    "s",
    "t",
    "ve",
    "re",
    "m",
    "'",
    ".",
    "?",
    "!",
    ",",
    "鑫",
    "é",
    "🎉",
    "\ufffd",
]


def wrapped(tokenizer: Tokenizer, *, bos: bool = True, **options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers, which puts the BOS in front of every text."""
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens(ADDED)
    if bos:
        front = [("<s>", tokenizer.token_to_id("<s>"))]
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=front)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **options
    )


def numbered(*parts: Sequence[str]) -> dict[str, int]:
    """A vocabulary of texts."""
    return {text: number for number, text in enumerate(dict.fromkeys(text for part in parts for text in part))}


def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2, Llama 3, Qwen: every letter of a token stands for a byte; some tokens end or begin inside a character."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("é", "ĳ"), ("«", "é"), ("ð", "Ł"), ("Ċ", "Ċ"), ("ï", "¿"), ("ï¿", "½")]
    tokenizer = Tokenizer(models.BPE(numbered(SPECIAL, letters, [a + b for a, b in merges]), merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return wrapped(tokenizer)


def _byte_fallback_model(strip: bool) -> Tokenizer:
    merges = [("▁", letter) for letter in "adnt"] + [("t", "h"), ("▁t", "h")]
    letters = ["▁", "鑫", "\ufffd", *map(chr, range(33, 127))]
    vocabulary = numbered(SPECIAL, BYTES, letters, [a + b for a, b in merges], ["▁▁", "▁▁▁"])
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    return tokenizer


def llama_2() -> PreTrainedTokenizerFast:
    """Llama 2, Mistral, TinyLlama, Phi-3: tokens for lone bytes; the space in front of the first word is dropped."""
    tokenizer = _byte_fallback_model(strip=True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return wrapped(tokenizer)


def gemma() -> PreTrainedTokenizerFast:
    """Gemma: tokens for lone bytes; the first space is kept."""
    tokenizer = _byte_fallback_model(strip=False)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return wrapped(tokenizer)


def _pieces() -> list[tuple[str, float]]:
    words = [*WORDS, *(f"▁{word}" for word in WORDS), "▁", *"abcdefghijklmnopqrstuvwxyz"]
    return [(text, -1.0 - number / 50) for number, text in enumerate(numbered(SPECIAL, words))]


def unigram(**options: Any) -> PreTrainedTokenizerFast:
    """T5, XGLM: words begin with a mark, which stands for a space; the first one's is dropped."""
    tokenizer = Tokenizer(models.Unigram(_pieces(), unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return wrapped(tokenizer, **options)


def unigram_cleaned() -> PreTrainedTokenizerFast:
    """The same, with a setting of transformers that removes spaces in front of punctuation."""
    return unigram(clean_up_tokenization_spaces=True)


def unigram_bytes() -> PreTrainedTokenizerFast:
    """A Unigram vocabulary with tokens for lone bytes, whose first words keep their spaces."""
    pieces = [*_pieces(), *((name, -9.0) for name in BYTES)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")])
    return wrapped(tokenizer)


def wordpiece(**options: Any) -> PreTrainedTokenizerFast:
    """BERT: all words but the first get a space; continuations are marked, and punctuation is cleaned up."""
    vocabulary = numbered(SPECIAL, WORDS, [f"##{word}" for word in WORDS], "abcdefghijklmnopqrstuvwxyz")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return wrapped(tokenizer, **options)


def wordpiece_cleaned() -> PreTrainedTokenizerFast:
    """The same, with transformers' own cleaning up after it."""
    return wordpiece(clean_up_tokenization_spaces=True)


def suffixed() -> PreTrainedTokenizerFast:
    """GPT-1: words end with a mark, which stands for a space unless it is the last one."""
    vocabulary = numbered(SPECIAL, WORDS, [f"{word}</w>" for word in WORDS], "abcdefghijklmnopqrstuvwxyz")
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return wrapped(tokenizer)


def words() -> PreTrainedTokenizerFast:
    """Whole words without a decoder, which are joined with spaces."""
    tokenizer = Tokenizer(models.WordLevel(numbered(SPECIAL, WORDS), "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" "), "removed")
    return wrapped(tokenizer)


FAMILIES: tuple[Callable[[], PreTrainedTokenizerFast], ...] = (
    byte_level,
    llama_2,
    gemma,
    unigram,
    unigram_cleaned,
    unigram_bytes,
    wordpiece,
    wordpiece_cleaned,
    suffixed,
    words,
)

TEXTS = (
    "鑫鑫鑫 the 鑫\n it's 🎉🎉, don't! naïve é日本\n語 🎉",
    "  the of\n\n, it ' s n't 've . ? the\ufffd 鑫",
    "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd \u0e44\u0e17\u0e22 <think>the</s>",
)


def sequences(tokenizer: Any, count: int, seed: int = 0) -> Iterator[list[int]]:
    """Tokens of texts, with gaps in them and random tokens between, all those of bytes and special ones included."""
    chance = random.Random(seed)
    texts = [tokenizer(text)["input_ids"] for text in TEXTS]
    bytes_ = [number for name, number in tokenizer.get_vocab().items() if name.startswith("<0x")]
    for _ in range(count):
        ids: list[int] = []
        while len(ids) < 24:
            text, start = chance.choice(texts), chance.randrange(20)
            ids += text[start : start + chance.randrange(12)]
            ids += [chance.randrange(len(tokenizer) + 2) for _ in range(chance.randrange(3))]
            ids += chance.choices(bytes_, k=chance.randrange(3)) if bytes_ else []
        yield ids[: chance.randrange(1, 25)]
