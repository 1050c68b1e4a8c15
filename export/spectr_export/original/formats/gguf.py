"""GGUF files: one file that holds a model's configuration, tokenizer and weights.

``unpack`` writes configuration and tokenizer as a checkpoint of transformers has them, beside a link to the file;
``read_weights`` gives the weights under transformers' names. Names, configuration and tokenizer are what transformers
makes of the file, and the numbers are those of ggml's own package.
"""

# N outputs, K inputs, D head size.
from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spectr_export.console import Say
from spectr_export.original.formats.blocks import Blocks, QuantisedMatrix, fitting_form
from spectr_export.original.formats.ggml import LAYOUTS, Layout, read_blocks
from spectr_export.original.ondemand import LazyWeight
from spectr_runtime.bundle.layout import CONFIG
from spectr_runtime.errors import BundleError, EngineError, first_line

SUFFIX = ".gguf"
WEIGHTS = f"model{SUFFIX}"  # the name of the link to the file
TOKENIZER = "tokenizer.json"
# Files beside a GGUF file that say the same better: a tokenizer's own rules, a configuration with all of its fields.
BESIDE = (CONFIG, "generation_config.json", TOKENIZER, "tokenizer_config.json", "chat_template.jinja")
# Makes of a weight, or of numbers in its place, what transformers has.
Change = Callable[[np.ndarray], np.ndarray]
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Rules for cutting text that llama.cpp knows by these names, and that cut as GPT-2 does; those of ``DIGITS`` also cut
# out every digit. Source: ``llama-vocab.cpp`` of llama.cpp.
LIKE_GPT2 = ("gpt-2", "phi-2", "jina-es", "jina-de", "mpt", "olmo", "jina-v1-en", "gigachat", "roberta-bpe")
DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "minerva-7b")
# Rotary frequencies of Llama 3.1 and later, which llama.cpp stores as a divisor for each frequency.
DIVISORS = "rope_freqs.weight"
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
AGAIN = "Get the file again."
ORIGINAL = "Put the model's own config.json beside the file, or use its checkpoint in safetensors."


@dataclasses.dataclass(frozen=True, slots=True)
class GgufFile:
    """An open GGUF file.

    Attributes:
        path: The file.
        reader: The reader of ggml's package.
    """

    path: Path
    reader: Any

    @staticmethod
    def open(path: Path) -> GgufFile:
        """Open a file.

        Raises:
            EngineError: ggml's package is not installed.
            BundleError: The file is not sound.
        """
        try:
            file = GgufFile(path, _read(path))
            architecture = file.value("general.architecture")
        except ImportError as error:
            raise EngineError(
                f"{path} is a GGUF file, and gguf cannot be imported: {error}.",
                hint="Install it with `pip install 'spectr[gguf]'`.",
            ) from error
        except Exception as error:  # the reader checks little, and fails with errors of many types
            raise BundleError(f"{path} is no sound GGUF file: {first_line(error)}.", hint=AGAIN) from error
        if not isinstance(architecture, str):
            raise BundleError(f"{path} does not name an architecture: {architecture!r}.", hint=AGAIN)
        return file

    @property
    def architecture(self) -> str:
        """The architecture as llama.cpp names it."""
        return str(self.value("general.architecture"))

    def value(self, key: str) -> Any:
        """Return the value of a key, or None."""
        field = self.reader.get_field(key)
        return None if field is None else field.contents()

    def own(self, key: str) -> Any:
        """Return the value of a key of the architecture's own, or None."""
        return self.value(f"{self.architecture}.{key}")


def _read(path: Path) -> Any:
    """Return ggml's reader of a file; it takes seconds to read a large vocabulary, and a build needs it often."""
    found = path.resolve()
    state = found.stat()
    return _read_once(found, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=2)
def _read_once(path: Path, modified: int, size: int) -> Any:
    from gguf import GGUFReader

    class Reader(GGUFReader):
        def _get(self, *arguments: Any, **options: Any) -> Any:
            # Slices of a memory map are several times slower than those of an array on the same memory.
            vars(self)["data"] = np.asarray(self.data)
            return super()._get(*arguments, **options)

    return Reader(path)


@contextlib.contextmanager
def _one_reader() -> Iterator[None]:
    """Let transformers, which reads a file anew for configuration and tokenizer, take the reader that is there."""
    import gguf as package

    gguf: Any = package
    own = gguf.GGUFReader
    gguf.GGUFReader = lambda path: _read(Path(path))
    try:
        yield
    finally:
        gguf.GGUFReader = own


def unpack(path: Path, folder: Path, say: Say) -> None:
    """Write the folder of a checkpoint: configuration, tokenizer, and a link to the file.

    Files beside the file are taken instead of what is made of it, where they are.

    Args:
        path: The GGUF file.
        folder: An empty folder.
        say: Takes a line on what is taken from where.

    Raises:
        BundleError: The file is not sound, is one of several parts, or has what transformers cannot read.
        EngineError: ggml's package is not installed.
    """
    file = GgufFile.open(path)
    parts = file.value("split.count")
    if parts and parts > 1:
        raise BundleError(
            f"{path} is one of {parts} parts of a model.", hint="Join them first, with `llama-gguf-split --merge`."
        )
    (folder / WEIGHTS).symlink_to(path.resolve())
    beside = [name for name in BESIDE if (path.parent / name).is_file()]
    for name in beside:
        shutil.copyfile(path.parent / name, folder / name)
    if beside:
        say(f"{path}: {', '.join(beside)} beside it {'is' if len(beside) == 1 else 'are'} taken")
    with _one_reader():
        if CONFIG not in beside:
            _write_config(file, folder)
        if TOKENIZER not in beside:
            _write_tokenizer(file, folder, say)


def read_weights(folder: Path, model: Any) -> dict[str, LazyWeight]:
    """Return the weights of the file in an unpacked folder, under transformers' names; those of no use are left out.

    Args:
        folder: The folder.
        model: The causal LM on the meta device.

    Raises:
        BundleError: transformers has no names for the weights of this architecture.
    """
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    file = GgufFile.open(folder / WEIGHTS)
    kind: Any = TENSOR_PROCESSORS.get(file.architecture, TensorProcessor)
    processor = kind(config=model.config.to_dict())
    try:
        names = get_gguf_hf_weights_map(model, processor)
    except NotImplementedError as error:
        raise _unknown(file, error) from error
    return {
        names[tensor.name]: _weight(tensor, functools.partial(_changed, processor, tensor.name))
        for tensor in file.reader.tensors
        if tensor.name in names
    }


def _changed(processor: Any, name: str, weights: np.ndarray) -> np.ndarray:
    """Return a weight as transformers has it, which llama.cpp may keep in another order or with a constant added."""
    changed: np.ndarray = processor.process(
        weights=weights, name=name, tensor_key_mapping={}, parsed_parameters={"tensors": {}}
    ).weights
    return changed


def _weight(tensor: Any, change: Change) -> LazyWeight:
    kind, shape = tensor.tensor_type.name, tuple(int(size) for size in reversed(tensor.shape))
    # Numbers that take no memory show which shape the change leaves.
    changed = change(np.broadcast_to(np.float32(0), shape)).shape
    if kind in PLAIN:
        return LazyWeight(PLAIN[kind], changed, [lambda: _read_plain(tensor, shape, change)])

    def read() -> torch.Tensor:
        from gguf.quants import dequantize

        return torch.from_numpy(np.ascontiguousarray(change(dequantize(tensor.data, tensor.tensor_type))))

    order_N = _order_of_outputs(change, len(tensor.data))
    if kind not in LAYOUTS or order_N is None or len(shape) != 2:
        return LazyWeight.of(QuantisedMatrix(changed, None, read))
    layout = LAYOUTS[kind]
    form = fitting_form(layout.code, shape, shape[1] // layout.block, minima=layout.minima)
    return LazyWeight.of(QuantisedMatrix(changed, form, read, lambda: _read_blocks(tensor, layout, order_N)))


def _read_plain(tensor: Any, shape: Sequence[int], change: Change) -> torch.Tensor:
    dtype = PLAIN[tensor.tensor_type.name]
    data = torch.from_numpy(np.array(tensor.data)).view(dtype).view(*shape)
    # numpy has no bfloat16.
    changed = change(data.float().numpy() if dtype == torch.bfloat16 else data.numpy())
    return torch.from_numpy(np.ascontiguousarray(changed)).to(dtype)


def _read_blocks(tensor: Any, layout: Layout, order_N: torch.Tensor) -> Blocks:
    return read_blocks(torch.from_numpy(np.array(tensor.data)), layout).take_outputs(order_N)


def _order_of_outputs(change: Change, outputs: int) -> torch.Tensor | None:
    """Return the order in which a change puts the outputs of a matrix, or None if it does anything else.

    The change is tried on two columns, which hold the numbers of the rows and of themselves in place of weights.
    """
    rows_N2, columns_N2 = np.indices((outputs, 2), dtype=np.float64)
    changed_N2 = change(rows_N2)
    if changed_N2.shape != (outputs, 2) or not np.array_equal(change(columns_N2), columns_N2):
        return None
    if not np.array_equal(changed_N2[:, 0], changed_N2[:, 1]):
        return None
    return torch.from_numpy(changed_N2[:, 0].astype(np.int64))


def _write_config(file: GgufFile, folder: Path) -> None:
    from transformers import AutoConfig

    _refuse_unread(file)
    try:
        config: Any = AutoConfig.from_pretrained(folder, gguf_file=WEIGHTS)
    except Exception as error:  # a missing key, an unknown architecture
        raise _unknown(file, error) from error
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    parameters = _rope_parameters(file, config)
    if parameters:
        # Of layers of several types, those with full attention are scaled.
        config.rope_parameters.get("full_attention", config.rope_parameters).update(parameters)
    config.save_pretrained(folder)


def _unknown(file: GgufFile, error: Exception) -> BundleError:
    return BundleError(
        f"{file.path}: transformers cannot read a GGUF file of the architecture {file.architecture!r}: "
        f"{first_line(error)}",
        hint=ORIGINAL,
    )


def _refuse_unread(file: GgufFile) -> None:
    """Refuse what transformers would leave out of a file without a word."""
    if file.own("expert_count"):
        raise BundleError(
            f"{file.path} holds a mixture of experts, whose stacks in a GGUF file are not read.",
            hint="Use the model's checkpoint in safetensors.",
        )
    names = {tensor.name for tensor in file.reader.tensors}
    if {"rope_factors_long.weight", "rope_factors_short.weight"} & names:
        raise BundleError(f"{file.path} has the factors of LongRoPE, which are not read from it.", hint=ORIGINAL)


def _rope_parameters(file: GgufFile, config: Any) -> Mapping[str, Any]:
    """Return the parameters of the rotary positions that transformers leaves out: those of scaling.

    Raises:
        BundleError: They are of a kind that is not known.
    """
    divisors = next((tensor for tensor in file.reader.tensors if tensor.name == DIVISORS), None)
    if divisors is not None:
        return _llama3(file, np.array(divisors.data, dtype=np.float64), config)
    kind, factor = file.own("rope.scaling.type"), file.own("rope.scaling.factor")
    if kind in (None, "none"):
        return {}
    if kind not in ("linear", "yarn") or not factor:
        raise BundleError(
            f"{file.path} scales its rotary positions by {kind!r} with a factor of {factor}; read are linear and yarn "
            "with a factor.",
            hint=ORIGINAL,
        )
    original = file.own("rope.scaling.original_context_length")
    more = {"original_max_position_embeddings": int(original)} if original else {}
    return {"rope_type": kind, "factor": float(factor), **more}


def _llama3(file: GgufFile, divisors_D: np.ndarray, config: Any) -> Mapping[str, Any]:
    """Return the parameters of Llama 3 whose divisors are those of the file."""
    parameters = {"rope_type": "llama3", "factor": float(divisors_D.max()), **LLAMA3}
    base, size = config.rope_parameters["rope_theta"], 2 * len(divisors_D)
    wavelengths_D = 2 * math.pi * base ** (np.arange(0, size, 2) / size)
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    turns_D = LLAMA3["original_max_position_embeddings"] / wavelengths_D
    smooth_D = np.clip((turns_D - low) / (high - low), 0, 1)
    expected_D = 1 / ((1 - smooth_D) / parameters["factor"] + smooth_D)
    if not np.allclose(expected_D, divisors_D, rtol=1e-3):
        raise BundleError(f"{file.path} has divisors of rotary frequencies that are not Llama 3's.", hint=ORIGINAL)
    return parameters


def _write_tokenizer(file: GgufFile, folder: Path, say: Say) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, gguf_file=WEIGHTS)
    except Exception as error:
        raise BundleError(
            f"{file.path}: transformers cannot read its tokenizer: {first_line(error)}",
            hint="Put the model's own tokenizer.json and tokenizer_config.json beside the file.",
        ) from error
    _cut_like_training(file, tokenizer, say)
    tokenizer.save_pretrained(folder)


def _cut_like_training(file: GgufFile, tokenizer: Any, say: Say) -> None:
    """Cut texts by the rule that the file names, which transformers replaces by GPT-2's where it does not know it."""
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if file.value("tokenizer.ggml.model") != "gpt2":
        return
    rule = file.value("tokenizer.ggml.pre")
    if rule in DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif rule not in (*LIKE_GPT2, *GGUF_PRE_TOKENIZER_SPLITS):
        say(
            f"{file.path}: its rule for cutting texts, {rule!r}, is not known, and GPT-2's is used: tokens may not be "
            "those of the training. The model's own tokenizer.json and tokenizer_config.json beside the file are taken."
        )


def is_gguf(folder: Path) -> bool:
    """Return whether a folder is one that ``unpack`` wrote."""
    return (folder / WEIGHTS).is_file()
