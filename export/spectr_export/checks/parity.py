"""Compares an engine with the original model: chunked prefill of ragged rows, a draft tree, then single tokens.

The reference is the unchanged transformers model with its own eager attention and its own growing cache. It reads the
texts, and what the tree and the single tokens make of each, as texts. The engine reads batches of ragged rows, chunks
and trees, and has to give every token the same logits.
"""

# B rows, T tokens fed, L attention length, N nodes of a tree, V vocabulary.
from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spectr_export.checks.reference import Reference, Tokens
from spectr_export.checks.states import WholeEngine, apart
from spectr_export.checks.tolerance import (
    ABSOLUTE,
    RELATIVE,
    ROUNDED_BY_ROWS,
    WIDE_ABSOLUTE,
    WIDE_RELATIVE,
    Criterion,
    finite,
    shortfall,
    within,
    within_spread,
)
from spectr_export.checks.widening import widen
from spectr_export.graph.rounding import drop_rounding
from spectr_runtime.bundle import ModelSpec
from spectr_runtime.bundle.layout import GRAPH
from spectr_runtime.contract import Call, Engine
from spectr_runtime.engines.integer import with_integer_products
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine
from spectr_runtime.engines.torch import TorchEngine
from spectr_runtime.errors import BundleError

SMALLEST_CAPACITY = 64
LONGEST_TEXT = 256
CHUNK = 96
STEPS = 3
# The parent of each node of the draft tree. The root, node 0, is the last token of the committed text; it has three
# children, and below the first of them the tree branches again.
PARENTS = (-1, 0, 0, 0, 1, 1, 2, 4)
# The path of the tree that is accepted, from the root to a leaf.
ACCEPTED = (0, 1, 4, 7)


@dataclasses.dataclass(frozen=True, slots=True)
class FedToken:
    """One token that is fed to a row.

    Attributes:
        text: The whole text that ends in this token; its length gives the token's position.
        sees: Slots of the cache to which the token attends, including its own.
    """

    text: Tokens
    sees: frozenset[int]


def check_onnxruntime(
    reference: Reference, folder: Path, spec: ModelSpec, capacity: int, *, name: str
) -> Mapping[str, float]:
    """Compare the graph in a model's folder with the original model, in float32 whatever the type of the graph.

    A graph in fp8 or int8 is compared without rounding the inputs of its products; ``check_rounded`` compares it with
    rounding.

    Args:
        reference: The causal LM with the folder's weights, computing in float32 in eval mode, on the CPU.
        folder: Folder with ``model.onnx``.
        spec: The model's sizes.
        capacity: Longest text of the bundle, at least ``SMALLEST_CAPACITY``. The longest text of the comparison has
            this many tokens, or ``LONGEST_TEXT`` if that is less.
        name: What to call the model in an error.

    Returns:
        The largest difference in each stage, as ``compare`` returns it.

    Raises:
        BundleError: The model's logits differ.
        EngineError: ONNX Runtime fails.
    """
    engine = _float32_engine(folder, spec, capacity, drop_rounding)
    criterion = within(ABSOLUTE, RELATIVE) if spec.dtype == "float32" else within(WIDE_ABSOLUTE, WIDE_RELATIVE)
    return compare(reference, engine, criterion, name=name, states=criterion)


def check_rounded(
    reference: Reference, folder: Path, spec: ModelSpec, capacity: int, *, name: str
) -> Mapping[str, float]:
    """Compare a graph in fp8 or int8 with the original model while both round the inputs of their products.

    A difference in the last bit can move a number to the next code and so change all that is computed from it. So the
    logits after a text have to be near only as a whole. In int8 the code of a small number beside a large one may
    change by all that the number is, and a row of few large numbers differs much; there the middle of all texts counts,
    and the products are those of integers that ONNX Runtime computes.

    Args:
        reference: As in ``check_onnxruntime``, but a model that rounds.
        folder: As in ``check_onnxruntime``.
        spec: As in ``check_onnxruntime``.
        capacity: As in ``check_onnxruntime``.
        name: As in ``check_onnxruntime``.

    Returns:
        The largest difference of fp8, and the middle one of int8, as a part of the logits' spread, under the name
        ``rounded``.

    Raises:
        BundleError: The difference is more than ``ROUNDED`` or ``ROUNDED_BY_ROWS`` of the spread, or not finite.
    """
    engine = _float32_engine(folder, spec, capacity, with_integer_products)
    if spec.quantisation == "fp8":
        return {"rounded": max(compare(reference, engine, within_spread, name=name).values())}
    shares: list[float] = []

    def collect(logits_V: torch.Tensor, expected_V: torch.Tensor) -> tuple[float, bool, str]:
        share, _, _ = within_spread(logits_V, expected_V)
        shares.append(share)
        return share, math.isfinite(share), "finite ones"

    compare(reference, engine, collect, name=name)
    middle = statistics.median(shares)
    if middle > ROUNDED_BY_ROWS:
        raise BundleError(
            f"Parity failed ({name}): after half of the texts the logits differ from transformers by {middle:.2g} of "
            f"their spread or more; allowed are {ROUNDED_BY_ROWS:g}.",
            hint="spectr cannot serve this model faithfully in this precision; use int4, or leave --quantise out.",
        )
    return {"rounded": middle}


def check_half(reference: Reference, folder: Path, spec: ModelSpec, capacity: int, *, name: str) -> Mapping[str, float]:
    """Compare PyTorch's arithmetic in half precision with the original model.

    Rounding changes every logit, so only what would be decoded counts: after every text, the best token in half
    precision must have a logit in float32 within ``HALF`` of the best one there.

    Args:
        reference: As in ``check_onnxruntime``.
        folder: As in ``check_onnxruntime``.
        spec: The model's sizes, its type ``float16`` or ``bfloat16``.
        capacity: As in ``check_onnxruntime``.
        name: What to call the model in an error.

    Returns:
        The largest distance of such a token to the best logit, under the name ``half``.

    Raises:
        BundleError: The distance of a token exceeds ``HALF``, or a logit is not finite.
    """
    engine = TorchEngine(folder, spec, rows=3, capacity=_slots(capacity))
    return {"half": max(compare(reference, engine, shortfall, name=name).values())}


def check_range(reference: Reference, folder: Path, spec: ModelSpec, capacity: int, *, name: str) -> None:
    """Check that float16 holds all numbers that a quantised model computes, whatever its weights lose.

    Args:
        reference: As in ``check_onnxruntime``.
        folder: As in ``check_onnxruntime``.
        spec: The model's sizes, its type ``float16``.
        capacity: As in ``check_onnxruntime``.
        name: What to call the model in an error.

    Raises:
        BundleError: A logit is not finite.
    """
    compare(reference, TorchEngine(folder, spec, rows=3, capacity=_slots(capacity)), finite, name=name)


def check_parity(model: Any, engine: Engine, *, name: str) -> Mapping[str, float]:
    """Compare an engine with the original model, up to rounding of float32.

    Args:
        model: The original causal LM in eval mode, on the CPU.
        engine: As in ``compare``.
        name: As in ``compare``.

    Returns:
        The largest difference in each stage, as ``compare`` returns it.

    Raises:
        BundleError: A difference exceeds ``ABSOLUTE + RELATIVE * |logit|``, or a logit is not finite.
    """
    return compare(Reference(model), engine, within(ABSOLUTE, RELATIVE), name=name)


def compare(
    reference: Reference, engine: Engine, criterion: Criterion, *, name: str, states: Criterion = finite
) -> Mapping[str, float]:
    """Compare an engine with the original model.

    Args:
        reference: The original model, its logits followed by its states if the engine gives out some.
        engine: The engine, with at least 3 rows and ``SMALLEST_CAPACITY`` slots.
        criterion: Measures how far logits differ, and decides whether they may.
        name: What to call the engine in an error.
        states: The same for hidden states that the engine gives out.

    Returns:
        The largest difference in each of ``prefill``, ``tree`` and ``steps``.

    Raises:
        BundleError: A difference is not allowed.
    """
    if engine.spec.states:
        engine, criterion = WholeEngine(engine), apart(criterion, states, engine.spec.vocabulary)
    texts = _texts(engine)
    half = engine.spec.dtype == "float16"

    def compared(stage: str, calls: Iterator[Scores]) -> float:
        return _compare(reference, calls, criterion, f"{name}, {stage}", half=half)

    with torch.inference_mode():
        reference.read([text[:-1] for text in texts], [_branches(text, engine.spec.vocabulary) for text in texts])
        # Each stage continues with the cache that the stage before it has filled.
        return {
            "prefill": compared("prefill", _prefill(engine, texts)),
            "tree": compared("tree", _tree(engine, texts)),
            "steps": compared("steps", _steps(engine, _accept(engine, texts))),
        }


# The result of one call: texts, each with the logits [V] after it.
Scores = list[tuple[Tokens, torch.Tensor]]


def _texts(engine: Engine) -> list[Tokens]:
    """Return three texts of different lengths that leave room for the tree and the single tokens."""
    longest = min(LONGEST_TEXT, engine.cache.capacity - len(PARENTS) - STEPS)
    lengths = (longest, longest // 2 + 1, 5)
    generator = torch.Generator().manual_seed(0)
    return [tuple(torch.randint(engine.spec.vocabulary, (n,), generator=generator).tolist()) for n in lengths]


def _prefill(engine: Engine, texts: Sequence[Tokens]) -> Iterator[Scores]:
    """Feed all tokens but the last in chunks: the first two rows together, the third alone."""
    for first_row, rows in ((0, texts[:2]), (2, texts[2:])):
        for start in range(0, max(map(len, rows)) - 1, CHUNK):
            ends = [min(start + CHUNK, len(text) - 1) for text in rows]
            fed = [
                [FedToken(text[: n + 1], frozenset(range(n + 1))) for n in range(start, end)]
                for text, end in zip(rows, ends, strict=True)
            ]
            yield _feed(engine, fed, [start] * len(rows), first_row)


def _tree(engine: Engine, texts: Sequence[Tokens]) -> Iterator[Scores]:
    """Feed the last committed token and the nodes of the tree below it in one call."""
    starts = [len(text) - 1 for text in texts]
    fed = []
    for text, start in zip(texts, starts, strict=True):
        paths = _paths(text, engine.spec.vocabulary)
        committed = set(range(start))
        fed.append(
            [
                FedToken(text[:-1] + path, frozenset(committed | {start + ancestor for ancestor in _ancestors(node)}))
                for node, path in enumerate(paths)
            ]
        )
    yield _feed(engine, fed, starts, 0)


def _accept(engine: Engine, texts: Sequence[Tokens]) -> list[Tokens]:
    """Keep one path of the tree in the cache, as a round does, and return the texts that are now longer."""
    base_B = torch.tensor([len(text) - 1 for text in texts])
    end = max(map(len, texts)) - 1 + len(PARENTS)
    engine.cache.keep(base_B, torch.tensor([ACCEPTED[1:]] * len(texts)), end)
    return [_accepted(text, engine.spec.vocabulary) for text in texts]


def _steps(engine: Engine, texts: Sequence[Tokens]) -> Iterator[Scores]:
    """Feed single tokens after the accepted path."""
    for longer in zip(*(_continued(text, engine.spec.vocabulary) for text in texts), strict=True):
        fed = [[FedToken(text, frozenset(range(len(text))))] for text in longer]
        yield _feed(engine, fed, [len(text) - 1 for text in longer], 0)


def _branches(text: Tokens, vocabulary: int) -> list[Tokens]:
    """Return all texts of the tree and the single tokens; those that another one begins with are left out."""
    paths = _paths(text, vocabulary)
    leaves = [text[:-1] + paths[node] for node in range(len(PARENTS)) if node not in {*PARENTS, ACCEPTED[-1]}]
    return [*leaves, _continued(_accepted(text, vocabulary), vocabulary)[-1]]


def _accepted(text: Tokens, vocabulary: int) -> Tokens:
    """Return the text with the accepted path, which begins with its last token."""
    return text[:-1] + _paths(text, vocabulary)[ACCEPTED[-1]]


def _continued(text: Tokens, vocabulary: int) -> list[Tokens]:
    """Return the text with one to ``STEPS`` more tokens, whose values are arbitrary."""
    longer = [text]
    for step in range(STEPS):
        longer.append((*longer[-1], (longer[-1][-1] + step + 1) % vocabulary))
    return longer[1:]


def _paths(text: Tokens, vocabulary: int) -> list[Tokens]:
    """Return the tokens from the root, the last token of the text, to each node; their values are arbitrary."""
    paths: list[Tokens] = []
    for node, parent in enumerate(PARENTS):
        paths.append(text[-1:] if parent < 0 else (*paths[parent], (text[-1] + 17 * node) % vocabulary))
    return paths


def _ancestors(node: int) -> list[int]:
    chain = [node]
    while PARENTS[chain[-1]] >= 0:
        chain.append(PARENTS[chain[-1]])
    return chain


def _feed(engine: Engine, fed: Sequence[Sequence[FedToken]], starts: Sequence[int], first_row: int) -> Scores:
    """Feed ragged rows in one call; shorter rows are padded at their end, and the padding attends to nothing."""
    width = max(map(len, fed))
    length = max(start + width for start in starts)
    ids_BT = torch.zeros((len(fed), width), dtype=torch.int64)
    positions_BT, mask_B1TL = torch.zeros_like(ids_BT), torch.zeros((len(fed), 1, width, length), dtype=torch.bool)
    for row, column, token in _each(fed):
        ids_BT[row, column], positions_BT[row, column] = token.text[-1], len(token.text) - 1
        mask_B1TL[row, 0, column, list(token.sees)] = True
    columns_BT = torch.arange(width).repeat(len(fed), 1)
    call = Call(ids_BT, positions_BT, mask_B1TL, torch.tensor(starts), columns_BT, first_row)
    logits_BTV = engine.forward(call).clone()
    return [(token.text, logits_BTV[row, column]) for row, column, token in _each(fed)]


def _each(fed: Sequence[Sequence[FedToken]]) -> list[tuple[int, int, FedToken]]:
    rows = ([(row, column, token) for column, token in enumerate(tokens)] for row, tokens in enumerate(fed))
    return list(itertools.chain.from_iterable(rows))


def _compare(reference: Reference, calls: Iterator[Scores], criterion: Criterion, stage: str, *, half: bool) -> float:
    largest = 0.0
    # The longest text of a call comes first, so that an error names it.
    for text, logits_V in (scored for call in calls for scored in sorted(call, key=lambda pair: -len(pair[0]))):
        difference, sound, allowed = criterion(logits_V.cpu(), reference.logits(text))
        if not sound and half and not logits_V.isfinite().all() and reference.logits(text).isfinite().all():
            raise BundleError(
                f"Numbers within the model leave the range of float16 ({stage}): logits after {len(text)} tokens are "
                "not finite, and those of transformers in float32 are.",
                hint="Use `--dtype bfloat16`, which has float32's range.",
            )
        if not sound:
            raise BundleError(
                f"Parity failed ({stage}): logits after {len(text)} tokens differ from transformers by "
                f"{difference:.2g}; allowed are {allowed}.",
                hint="spectr cannot serve this model faithfully; use another one.",
            )
        largest = max(largest, difference)
    return largest


def _float32_engine(
    folder: Path, spec: ModelSpec, capacity: int, change: Callable[[bytes], bytes]
) -> OnnxRuntimeEngine:
    """Open a model's graph, changed and in float32, on the weights in the model's file."""
    data = (folder / GRAPH).read_bytes() if spec.dtype == "float32" else widen(folder / GRAPH)
    wide = dataclasses.replace(spec, dtype="float32")
    return OnnxRuntimeEngine(folder, wide, rows=3, capacity=_slots(capacity), lean=True, graph=change(data))


def _slots(capacity: int) -> int:
    return min(capacity, LONGEST_TEXT + len(PARENTS) + STEPS)
