"""What calls of models cost: ``export.py``, ``calls.py`` and ``reading.py``."""

from __future__ import annotations

from typing import Any

from quoting.words import counted, listed, measured, numeral, ratio, span, table

RUNNERS = {"transformers": "transformers", "spectr": "spectr", "genai": "onnxruntime-genai"}
MODELS = {"smollm2": "SmolLM2-135M-Instruct", "large": "A random llama of a hundred million parameters"}
FORMS = ("int8, weights alone", "int8", "int4")


def graphs(result: dict[str, Any]) -> str:
    """A call of the exported graph beside transformers and the graph of onnxruntime-genai's builder."""
    models = result["models"][-1]
    lines: dict[tuple[int, int], list[str]] = {}
    for call in models["calls"]:
        own = lines.setdefault((call["B"], call["T"]), [str(call["B"]), str(call["T"])])
        own.append(shown(call))
    return (
        "One call of the exported graph, of transformers, and of the graph that onnxruntime-genai's own builder makes, "
        f"for a random llama of {models['parameters'] / 1e6:.0f} million parameters behind {result['prefix']} tokens. "
        f"Times are medians of {result['repeats']} interleaved calls; the factor is the speed relative to "
        f"transformers, with its 10th and 90th percentile, {measured(result)}.\n\n"
        + table(("rows", "tokens", *RUNNERS.values()), lines.values())
    )


def shown(call: dict[str, Any]) -> str:
    """The time of a call, and how many times as fast as transformers it is."""
    if "failure" in call:
        return "fails"
    told = f"{call['milliseconds']:.0f} ms"
    low, high = call["percentiles_10_90"]
    beside = f", {call['times_transformers']:.1f}x ({low:.1f} to {high:.1f})"
    return told if call["runner"] == "transformers" else told + beside


def precisions(result: dict[str, Any]) -> str:
    """A call in each precision beside float32, and what each loses."""
    rows = [
        (
            *(str(call["rows"]), str(call["tokens"]), f"{call['float32']['milliseconds']:,.0f} ms"),
            *(ratio(call[form]["times_float32"], *call[form]["percentiles_10_90"]) for form in FORMS),
        )
        for call in result["calls"]
    ]
    if lost := result["lost"]:
        rows.append(("", "nats per token lost", "0", *(f"{lost[form]:.4f}" for form in FORMS)))
    same = {
        form: sum(call[form]["same_bits_as_in_a_batch"] for call in result["calls"]) for form in ("float32", *FORMS)
    }
    count = len(result["calls"])
    told = listed(f"{number} of {count} in {form}" for form, number in same.items() if form != "int8, weights alone")
    return (
        f"{MODELS.get(result['model'], result['model'])} at the end of texts of {result['length']} tokens, all logits "
        f"wanted, {measured(result)}: how many times as fast a call is as float32's in the same repeat, with its 10th "
        'and 90th percentile. "Weights alone" is int8 as it was before rows were rounded, with float32 for the logits.'
        f"\n\n{table(('rows', 'tokens', 'float32', *FORMS), rows)}\n\n"
        f"A row's logits are to the bit those that it has in a batch of eight rows of as many tokens in {told}."
    )


def reading(result: dict[str, Any]) -> str:
    """Reading prompts one by one, together, and with both models at once."""
    lines = [line for line in result["lines"] if line["rows"] == max(one["rows"] for one in result["lines"])]
    rows = [
        (
            *(str(line["tokens"]), f"{line['milliseconds']['target, one by one']:,.0f} ms"),
            quartiles(line["together_of_one_by_one"]),
            f"{line['milliseconds']['both, one behind the other']:,.0f} ms",
            quartiles(line["at_once_of_one_behind_the_other"]),
        )
        for line in lines
    ]
    shortest = min(line["tokens"] for line in result["lines"])
    costs = [line["call_costs_tokens"] for line in result["lines"] if line["rows"] > 1 and line["tokens"] == shortest]
    at_once = [line["at_once_of_one_behind_the_other"][1] for line in lines]
    return (
        f"{numeral(lines[0]['rows']).capitalize()} prompts of the padded pair are read into empty caches, in float32 "
        f"{measured(result)}: by the target one by one and in one call, and by both models one behind the other and "
        f"each in a thread of its own. Medians of {counted(result['repeats'], 'turn')}, and of the ratios within a "
        "turn with their quartiles.\n\n"
        + table(("tokens each", "target, one by one", "in one call", "both models", "at once"), rows)
        + f"\n\nReading with both models at once takes {span(at_once)} of the time of one behind the other. A call "
        f"of texts of {shortest} tokens costs what {span(costs, '.0f')} tokens cost beside its own."
    )


def quartiles(three: list[float]) -> str:
    """Return a median with its quartiles."""
    low, middle, high = three
    return ratio(middle, low, high)


QUOTES = {
    "graphs": ("export.json", graphs),
    "precisions": ("calls.json", precisions),
    "reading": ("reading.json", reading),
}
