"""Names that are meant for a field of ours: those that other tools give it, and its own name written another way.

Nothing here guesses. A name is one of the list, or one of our names but for capitals, blanks, ``-`` and ``_``; every
other name is an ordinary column, however near it looks.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

TOP = "its fields beside the prompt"  # stands in place of a name for objects that hold sampling fields
# What vLLM, SGLang, TGI, TensorRT-LLM, llama.cpp, Ollama, transformers, lm-eval and the APIs of Anthropic, Cohere,
# Google, Mistral and Bedrock call the fields of a record. Names that may as well be a column of the user's, such as
# ``input``, ``k``, ``parameters``, ``num_tokens`` or ``logprob``, are not among them.
OTHERS: Mapping[str, str] = {
    other: ours
    for ours, others in {
        "max_tokens": "max_new_tokens max_token max_output_tokens max_tokens_to_sample max_gen_toks max_gen_len "
        "max_generated_tokens max_generation_tokens max_response_tokens max_token_count max_length n_predict "
        "num_predict tokens_to_generate request_output_len",
        "min_tokens": "min_token min_new_tokens min_length min_output_tokens",
        "temperature": "temp do_sample",
        "repetition_penalty": "repeat_penalty rep_pen",
        "logit_bias": "logits_bias",
        "stop": "stop_sequence stop_sequences stop_seq stop_seqs stop_string stop_strings stop_str stop_word "
        "stop_words stop_words_list stop_token",
        "stop_token_ids": "stop_tokens stop_token_id eos_token_id eos_token_ids",
        "n": "num_return_sequences num_completions num_generations candidate_count",
        "seed": "random_seed sampling_seed rng_seed",
        "logprobs": "return_logprob return_logprobs return_log_probs response_logprobs num_logprobs n_probs",
        "top_logprobs": "top_logprob num_top_logprobs top_logprobs_num top_n_tokens",
        "echo": "return_full_text",
        "token_ids": "prompt_token_ids input_ids input_token_ids",
        TOP: "sampling_params sampling_parameters generation_config generation_params generation_parameters "
        "generation_kwargs generate_kwargs gen_kwargs inference_config text_generation_config extra_body",
    }.items()
    for other in others.split()
}


def folded(name: str) -> str:
    """Return a name without capitals, blanks, ``-`` and ``_``."""
    return name.translate(_SEPARATORS).casefold()


_SEPARATORS = dict.fromkeys(map(ord, "-_ \t"))
_FOLDED = {folded(other): ours for other, ours in OTHERS.items()}


def meant(name: str, known: Mapping[str, str]) -> str | None:
    """Return the field that a name is meant for, or None for a name that is not meant for any.

    Args:
        name: A name that is no field itself.
        known: All fields, by their folded names.
    """
    short = folded(name)
    return known.get(short) or _FOLDED.get(short)


def hint(name: str, known: Iterable[str]) -> str:
    """Return a question that suggests a field in place of an unknown one; an empty text if none is near."""
    fields = {folded(one): one for one in known}
    right = meant(name, fields)
    if right == TOP:
        return f" Give {TOP}."
    if right == "token_ids":  # a body has no such field; its prompt may be token ids
        right = fields.get("prompt")
    near = [right] if right else difflib.get_close_matches(name, fields.values(), n=1, cutoff=0.8)
    return f" Did you mean {near[0]}?" if near else ""
