"""What a call costs by rows and tokens, in each precision.

    python benchmarks/calls.py                                  # a random llama of a hundred million parameters
    python benchmarks/calls.py path/to/checkpoint --repeats 20

One model is stored in float32, in int8, in int4, and in int8 as releases before rounded rows had it: weights alone, and
the layer that gives the logits in float32. All are opened by ONNX Runtime and called in turn, B rows of T tokens at the
end of texts of ``LENGTH`` tokens, all logits wanted. Reported are medians, and the ratio to float32 in the same repeat
with its 10th and 90th percentile; and whether a row's logits are the same to the bit as in the largest batch of as many
tokens. Of a checkpoint that is named, also what each form loses, in nats per token on the documents of this repository,
as ONNX Runtime computes.
"""

# B rows, T tokens fed, M wanted columns, V vocabulary.
from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

import click
import torch
from machine import machine
from precision import nats
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from spectr_export.graph.export import export_graph
from spectr_export.original.model import load_stored, measure_spec
from spectr_export.storing.plan import StoragePlan, distinct_weights
from spectr_export.storing.precision import Precision
from spectr_export.storing.save import save_model
from spectr_export.text import WINDOW
from spectr_export.weights import Layout
from spectr_runtime.bundle.weights import CODES, SCALES
from spectr_runtime.contract import Call, Engine
from spectr_runtime.contract.mask import block_mask, triangle
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine

FORMS = ("float32", "int8, weights alone", "int8", "int4")
SHAPES = ((1, 1), (1, 5), (1, 9), (8, 1), (8, 2), (8, 5), (8, 64))
LENGTH, ROWS = 128, 8
DOCUMENTS = Path(__file__).parent.parent / "docs"
TOKENS = 2048  # on which losses are measured
LARGE = LlamaConfig(
    vocab_size=16_000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
    num_key_value_heads=4, max_position_embeddings=1024, bos_token_id=0, eos_token_id=0, pad_token_id=0,
)  # fmt: skip


def open_forms(source: Path, folder: Path) -> Iterator[tuple[str, Engine]]:
    """The engines, by the names of their forms."""
    for form in FORMS:
        stored, own = load_stored(source), folder / form
        plan = StoragePlan.of(stored.model, Precision("float32", "none" if form == "float32" else form.split(",")[0]))
        spec = dataclasses.replace(measure_spec(stored.model), quantisation=plan.precision.quantisation)
        if form == "int8, weights alone":
            plan = without_head(plan, stored.model)
            with mock.patch("spectr_export.storing.plan.levels_to_metadata", return_value={}):
                save_model(stored.model, own, plan, stored.weights)
        else:
            save_model(stored.model, own, plan, stored.weights)  # int4 by its weights alone, which is as fast
        export_graph(own, spec)
        yield form, OnnxRuntimeEngine(own, spec, rows=ROWS, capacity=max(LENGTH, WINDOW))


def without_head(plan: StoragePlan, model: object) -> StoragePlan:
    """The same plan with the layer that gives the logits as it is."""
    head = plan.head
    assert head is not None
    layouts = {name: layout for name, layout in plan.layouts.items() if name not in (head + CODES, head + SCALES)}
    if plan.tied is None:
        layouts[head] = Layout(torch.float32, tuple(distinct_weights(model)[head].shape))
    matrices = {name: form for name, form in plan.matrices.items() if name != head}
    return dataclasses.replace(plan, matrices=matrices, layouts=layouts, head=None, tied=None)


def make_call(rows: int, tokens: int, vocabulary: int) -> Call:
    """Tokens at the end of texts that fill the attention length; a row is the same in every batch of as many tokens."""
    ids_BT = torch.randint(vocabulary, (ROWS, tokens), generator=torch.Generator().manual_seed(tokens))[:rows]
    first_B = torch.full((rows,), LENGTH - tokens)
    places_BT = first_B[:, None] + torch.arange(tokens)
    mask = block_mask(first_B, triangle(tokens, torch.device("cpu")), LENGTH)
    return Call(ids_BT.contiguous(), places_BT, mask, first_B, places_BT - first_B[:, None])


def fill(engine: Engine) -> None:
    """Read the beginnings of all texts into the cache."""
    call = make_call(ROWS, LENGTH, engine.spec.vocabulary)
    none = call.logit_index_BM[:, :1]
    engine.forward(dataclasses.replace(call, logit_index_BM=none))


def measure(engines: Mapping[str, Engine], rows: int, tokens: int, repeats: int) -> dict[str, object]:
    """Milliseconds of one shape in every form, and the ratios of float32's to them."""
    vocabulary = engines["float32"].spec.vocabulary
    call, several = make_call(rows, tokens, vocabulary), make_call(ROWS, tokens, vocabulary)
    same = {
        form: bool(torch.equal(engine.forward(several)[:rows].clone(), engine.forward(call)))
        for form, engine in engines.items()
    }
    taken: dict[str, list[float]] = {form: [] for form in engines}
    for repeat in range(repeats):
        turn = [*engines.items()]
        for form, engine in turn[repeat % len(turn) :] + turn[: repeat % len(turn)]:
            started = time.perf_counter()
            engine.forward(call)
            taken[form].append(1e3 * (time.perf_counter() - started))
    lines = {}
    for form, own in taken.items():
        ratios = [base / one for one, base in zip(own, taken["float32"], strict=True)]
        low, *_, high = statistics.quantiles(ratios, n=10)
        lines[form] = {
            "milliseconds": round(statistics.median(own), 2),
            "times_float32": round(statistics.median(ratios), 2),
            "percentiles_10_90": [round(low, 2), round(high, 2)],
            "same_bits_as_in_a_batch": same[form],
        }
    return {"rows": rows, "tokens": tokens, **lines}


def measure_losses(engines: Mapping[str, Engine], source: Path) -> dict[str, float]:
    """Nats per token over float32's of each form, as its engine computes."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(DOCUMENTS.glob("*.md")))
    ids = AutoTokenizer.from_pretrained(source)(text)["input_ids"][:TOKENS]
    found = {form: nats(engine, ids) for form, engine in engines.items()}
    return {form: round(own - found["float32"], 4) for form, own in found.items()}


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--repeats", default=30, help="Interleaved repeats of every call.")
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "calls.json")
def main(checkpoint: Path | None, repeats: int, output: Path) -> None:
    """Measure and write the result file."""
    with tempfile.TemporaryDirectory() as name:
        source = checkpoint or Path(name) / "large"
        if checkpoint is None:
            LlamaForCausalLM(LARGE).save_pretrained(source)
        engines = dict(open_forms(source, Path(name)))
        torch.set_num_threads(1)
        for engine in engines.values():
            fill(engine)
        lines = []
        for rows, tokens in SHAPES:
            lines.append(measure(engines, rows, tokens, max(repeats * 8 // (8 + rows * tokens // 8), 5)))
            click.echo(json.dumps(lines[-1]))
        lost = {} if checkpoint is None else measure_losses(engines, source)
    result = machine() | {"model": source.name, "length": LENGTH, "repeats": repeats, "calls": lines, "lost": lost}
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
