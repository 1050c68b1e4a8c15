"""What a checkpoint says of the texts that its model writes: the tokens that end them, and how they are sampled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spectr_export.original.settings import read_settings
from spectr_runtime.bundle.layout import CONFIG
from spectr_runtime.errors import BundleError
from spectr_runtime.rows.ranges import RANGES

GENERATION = "generation_config.json"
NO_TOKEN = -1  # what older checkpoints write for a token that they do not have; transformers' generate ignores it
# The sampling parameters that a bundle keeps, each with the value that changes nothing.
SAMPLING = {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1}
# Settings that change what transformers writes and that spectr does not have. Null, false, zero and an empty value
# change nothing; neither does the value that is given here.
FOREIGN: Mapping[str, float | None] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "dola_layers": None,
    "typical_p": 1,
    "epsilon_cutoff": None,
    "eta_cutoff": None,
    "top_h": None,
    "encoder_repetition_penalty": 1,
    "no_repeat_ngram_size": None,
    "encoder_no_repeat_ngram_size": None,
    "bad_words_ids": None,
    "force_words_ids": None,
    "constraints": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "exponential_decay_length_penalty": None,
    "min_length": None,
    "min_new_tokens": None,
    "stop_strings": None,
    "guidance_scale": 1,
    "watermarking_config": None,
    "token_healing": None,
}


def read_generation(folder: Path) -> dict[str, Any]:
    """Return the contents of ``generation_config.json``; a checkpoint without the file says nothing.

    Raises:
        BundleError: The file is malformed.
    """
    path = folder / GENERATION
    return read_settings(path) if path.is_file() else {}


def find_end_tokens(folder: Path, config: Any, tokenizer: Any, width: int) -> tuple[int, ...]:
    """Return all ids that end a text by generation_config.json, config.json or the tokenizer, sorted.

    Args:
        folder: The checkpoint.
        config: Its transformers configuration.
        tokenizer: Its tokenizer.
        width: Width of the model's logits.

    Raises:
        BundleError: One of the places names something else than tokens that the model scores.
    """
    named = (
        (folder / GENERATION, read_generation(folder).get("eos_token_id")),
        (folder / CONFIG, getattr(config, "eos_token_id", None)),
        (folder / "tokenizer_config.json", tokenizer.eos_token_id),
    )
    return tuple(sorted({token for path, value in named for token in _tokens(path, value, width)}))


def _tokens(path: Path, value: object, width: int) -> Iterator[int]:
    for token in value if isinstance(value, list) else [value]:
        if token is None or (token == NO_TOKEN and type(token) is int):
            continue
        if type(token) is not int or not 0 <= token < width:
            raise BundleError(
                f"{path} gives eos_token_id as {value!r:.80}; it must be a token id from 0 to {width - 1}, a list of "
                "them, or null.",
                hint="Correct it: without its end tokens no text of the model ends.",
            )
        yield token


def own_sampling(folder: Path) -> dict[str, float]:
    """Return the sampling parameters that generation_config.json gives, by the names of ``SamplingParams``.

    Null and values that change nothing are left out. ``do_sample`` makes the temperature 0 where it is false; a file
    that leaves it out does not mean greedy texts, although transformers' own default is false.

    Raises:
        BundleError: A value is outside its range.
    """
    settings, path = read_generation(folder), folder / GENERATION
    for name in SAMPLING:
        _check(path, name, settings.get(name))
    samples = settings.get("do_sample")
    if samples is not None and not isinstance(samples, bool):
        raise BundleError(
            f"{path} gives do_sample as {samples!r:.80}; it must be true, false or null.", hint="Correct it."
        )
    given = {name: settings.get(name) for name in SAMPLING} | ({"temperature": 0} if samples is False else {})
    return {name: value for name, value in given.items() if value is not None and value != SAMPLING[name]}


def _check(path: Path, name: str, value: object) -> None:
    kinds, kind = ((int,), "a whole number, ") if name == "top_k" else ((int, float), "a number, ")
    if value is not None and (type(value) not in kinds or not RANGES[name].holds(value)):  # type: ignore[arg-type]
        raise BundleError(
            f"{path} gives {name} as {value!r:.80}; it must be {kind}{RANGES[name].words}.",
            hint="Correct it, or take it out.",
        )


def foreign_settings(folder: Path) -> list[str]:
    """Return the names of those settings that change what transformers writes and that spectr does not have."""
    settings = read_generation(folder)
    return [name for name, neutral in FOREIGN.items() if (value := settings.get(name)) and value != neutral]
