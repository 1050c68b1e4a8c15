"""OpenVINO GenAI, in three ways.

``plain``; ``draft L``, its speculation with L tokens of a draft model; and ``prefixes``, its continuous batching of as
many prompts as are asked for, with its cache of prefixes.

optimum-intel converts the models. It does not work with the version of transformers that spectr is tested with, so an
older one lies in a folder for it alone. The law is read from the same graph by OpenVINO itself.
"""

# B rows, T tokens, V vocabulary.
from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from worker import Setup, Unsupported, run

CONVERTER = Path(sys.prefix).parent / "converter"
FORMATS = {
    "fp32": ["--weight-format", "fp32"],
    "int8": ["--weight-format", "int8"],
    "int4": ["--weight-format", "int4", "--group-size", "32", "--ratio", "1.0"],
}


def convert(setup: Setup, source: str, role: str, precision: str) -> Path:
    """Make the graph of a model, once for all plans and rows."""
    graph = setup.made("openvino", f"{role}-{precision}")
    if not graph.exists():
        part = graph.with_name(f"{graph.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino", "-m", source]
        run(*command, "--task", "text-generation-with-past", *FORMATS[precision], str(part), PYTHONPATH=str(CONVERTER))
        part.rename(graph)
    return graph


class OpenVino:
    """A pipeline of OpenVINO GenAI over the graph in a folder."""

    def __init__(self, graph: Path, draft: Path | None, drafted: int, exact: bool, **extra: Any) -> None:
        self._graph, self._drafted = graph, drafted
        # Where the processor has instructions for bfloat16, OpenVINO computes a model in float32 in it.
        self._properties = {"INFERENCE_PRECISION_HINT": "f32"} if exact else {}
        if draft is not None:
            extra["draft_model"] = openvino_genai.draft_model(str(draft), "CPU", **self._properties)
        self._pipeline = openvino_genai.LLMPipeline(str(graph), "CPU", **extra, **self._properties)

    def law(self, ids: list[int]) -> list[float]:
        """Read the text in one call."""
        model = openvino.Core().compile_model(str(self._graph / "openvino_model.xml"), "CPU", self._properties)
        ids_1T = np.array([ids], dtype=np.int64)
        inputs = {
            "input_ids": ids_1T,
            "attention_mask": np.ones_like(ids_1T),
            "position_ids": np.arange(len(ids), dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        names = {name for port in model.inputs for name in port.names}
        logits_TV = model({name: value for name, value in inputs.items() if name in names})["logits"][0].astype(float)
        return [
            float(logits_V[after] - np.logaddexp.reduce(logits_V))
            for logits_V, after in zip(logits_TV, ids[1:], strict=False)
        ]

    def decode(self, prompts: list[list[int]], tokens: int, seed: int) -> list[list[int]]:
        """Sample from the whole law."""
        config = openvino_genai.GenerationConfig(
            max_new_tokens=tokens, ignore_eos=True, do_sample=True, temperature=1.0, top_p=1.0, rng_seed=seed
        )
        if self._drafted:
            config.num_assistant_tokens = self._drafted
        ids_BT = np.array(prompts, dtype=np.int64)
        given = openvino_genai.TokenizedInputs(openvino.Tensor(ids_BT), openvino.Tensor(np.ones_like(ids_BT)))
        return [list(map(int, row)) for row in self._pipeline.generate(given, config).tokens]


def open_tool(setup: Setup) -> OpenVino:
    """Convert the models if need be, and open the pipeline."""
    graph, exact = convert(setup, setup.target, "target", setup.precision), setup.precision == "fp32"
    if setup.plan == "plain":
        return OpenVino(graph, None, 0, exact)
    if setup.plan == "prefixes":
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching, scheduler.max_num_seqs = True, setup.rows
        return OpenVino(graph, None, 0, exact, scheduler_config=scheduler)
    if setup.draft is None:
        raise Unsupported("there is no draft")
    draft = convert(setup, setup.draft, "draft", setup.draft_precision)
    return OpenVino(graph, draft, int(setup.plan.removeprefix("draft ")), exact)
