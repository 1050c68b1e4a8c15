"""What a run takes beside its models: ``host.py``, ``cache.py`` and ``memory.py``."""

from __future__ import annotations

from typing import Any

from quoting.words import listed, measured, numeral, percent, table

INPUTS = {"examples": "the example's prompts", "short": "short rows", "mixture": "mixture"}


def host(result: dict[str, Any]) -> str:
    """The shares of engines, laws and host, by the tokens of a row."""
    lines = result["lines"]
    rows = [
        (
            *(str(line["tokens"]), f"{line['passes']:,}", f"{line['seconds']:.1f}", percent(line["in_engines"])),
            *(percent(line["laws_and_selection"]), percent(line["host"], ".1f"), f"{line['host_ms_per_pass']:.2f} ms"),
        )
        for line in lines
    ]
    return (
        f"Runs of {lines[0]['records'] * lines[0]['tokens']:,} tokens in all, {lines[0]['rows']} rows at a time, over "
        f"engines that sleep for {result['milliseconds']:g} milliseconds instead of a pass and return logits over "
        f"4,096 tokens; plain decoding {measured(result)}.\n\n"
        + table(
            ("tokens of a row", "passes", "seconds", "in engines", "laws and selection", "host", "host for each pass"),
            rows,
        )
    )


def cache(result: dict[str, Any]) -> str:
    """Rows that fit into a gigabyte, reserved and grown, and what growing takes."""
    growing = result["growing"]
    rows = [
        (
            INPUTS[line["input"]],
            f"{line['mean_tokens']:,} and {line['longest_tokens']:,} tokens",
            *(f"{line['capacity']:,}", str(line["rows_before"]), str(line["rows_after"])),
        )
        for line in result["rows_in_a_gigabyte"]
    ]
    return (
        f"Rows that fit into 1 GB of cache, of the sizes of SmolLM2-135M in float32, {measured(result)}: with the "
        "capacity of the bundle reserved for each, and with the cache that grows, at its largest moment.\n\n"
        + table(("input", "mean and longest text", "capacity", "reserved", "grown"), rows)
        + f"\n\nGrowing and shrinking takes {percent(growing['share'], '.1f')} of the time in which PyTorch decodes "
        f"{growing['records']} rows of the mixture, {numeral(growing['rows'])} at a time, on the CPU."
    )


def grown(result: dict[str, Any]) -> str:
    """How many times as many rows fit on the example's prompts."""
    times = [
        f"{numeral(round(line['rows_after'] / line['rows_before']))} times as many rows as a reserved capacity of "
        f"{line['capacity']:,}"
        for line in result["rows_in_a_gigabyte"]
        if line["input"] == "examples"
    ]
    return f"On the example's prompts a gigabyte of such a cache holds {listed(times)}."


def memory(result: dict[str, Any]) -> str:
    """Time and memory of a record, by the number of records."""
    runs = result["runs"]
    rows = [
        (
            f"{run['records']:,}",
            f"{run['microseconds_per_record']['decoding']} microseconds",
            *(f"{run['peak_mib'][phase]:.0f} MiB" for phase in ("survey", "decoding", "merge")),
        )
        for run in runs
    ]
    return (
        "A stub stands in the place of the models, so the figures cover everything except the models. Measured "
        f"{measured(result)}; memory is the most that is resident.\n\n"
        + table(("records", "decoding a record", "checking all ids before", "decoding", "merging"), rows)
    )


QUOTES = {
    "host": ("host.json", host),
    "cache": ("cache.json", cache),
    "cache-grown": ("cache.json", grown),
    "memory": ("memory.json", memory),
}
