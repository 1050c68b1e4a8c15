"""Records what the library ``speculators`` computes with tiny heads of EAGLE-3.

``tests/export/test_recorded_heads.py`` holds our heads to it.

The library wants other versions of its requirements than spectr, so it runs in an environment of its own::

    python -m venv ENV
    ENV/bin/pip install torch==2.13.0 speculators==0.9.0
    TORCHDYNAMO_DISABLE=1 ENV/bin/python tests/recorded/record_eagle3.py

For each case a folder is written with the head as the library saves it and ``recorded.safetensors``: the inputs, and
for each of some steps the logits and the states that are fed back. In step 0 every token is read with the target's
features. In the later ones each place is a draft of its own: it sees the text up to this place, and its own earlier
steps.
"""

# T tokens of the text, F width of the features, N tokens that the head scores, E hidden size.
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from speculators.config import SpeculatorsConfig, VerifierConfig
from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig
from speculators.proposals.greedy import GreedyTokenProposalConfig
from transformers import LlamaConfig, Qwen3Config

FOLDER = Path(__file__).parent / "eagle3"
LENGTH, STEPS, LAYERS = 9, 3, [0, 2, 4]
SIZES: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
}
LOGITS = 20
CASES: dict[str, tuple[type[Any], dict[str, bool]]] = {
    "plain": (LlamaConfig, {"norm_before_residual": False}),
    "normed": (LlamaConfig, {"norm_before_residual": True, "norm_before_fc": True}),
    "qwen3": (Qwen3Config, {"norm_before_residual": True, "fc_norm": True, "norm_output": True}),
}


def make(family: type[Any], choices: dict[str, bool], generator: torch.Generator) -> Eagle3DraftModel:
    """Make a head with random weights that scores some tokens in no particular pattern."""
    layer = family(**SIZES)
    layer._attn_implementation = "eager"
    config = Eagle3SpeculatorConfig(
        transformer_layer_config=layer,
        draft_vocab_size=LOGITS,
        eagle_aux_hidden_state_layer_ids=LAYERS,
        speculators_config=SpeculatorsConfig(
            algorithm="eagle3",
            proposal_methods=[GreedyTokenProposalConfig(speculative_tokens=STEPS)],
            default_proposal_method="greedy",
            verifier=VerifierConfig(name_or_path=None, architectures=["LlamaForCausalLM"]),
        ),
        **choices,
    )
    model = Eagle3DraftModel(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(float(parameter.dim() == 1), 0.3, generator=generator)
    tokens_N = torch.randperm(SIZES["vocab_size"], generator=generator)[:LOGITS].sort().values
    scored_V = torch.zeros(SIZES["vocab_size"], dtype=torch.bool)
    scored_V[tokens_N] = True
    model.load_vocab_mappings(scored_V, tokens_N - torch.arange(LOGITS))
    return model


@torch.no_grad()
def record(model: Eagle3DraftModel, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Run a head on a random text and return inputs and outputs."""
    features_1TF = torch.randn((1, LENGTH, len(LAYERS) * SIZES["hidden_size"]), generator=generator)
    ids_1T = torch.randint(SIZES["vocab_size"], (1, LENGTH), generator=generator)
    logits_STN: list[torch.Tensor] = []
    states_STE: list[torch.Tensor] = []
    normed_STE: list[torch.Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, into=into: into.append(output[0].clone()))
        for module, into in ((model.lm_head, logits_STN), (model.layers[0], states_STE), (model.norm, normed_STE))
    ]
    model(features_1TF, ids_1T, torch.zeros((1, LENGTH), dtype=torch.int64), ttt_steps=STEPS)
    for hook in hooks:
        hook.remove()
    fed_back = normed_STE if model.config.norm_output else states_STE
    return {
        "features": features_1TF[0].contiguous(),
        "ids": ids_1T[0].contiguous(),
        "logits": torch.stack(logits_STN),
        "states": torch.stack(fed_back),
    }


def main() -> None:
    """Write the folders of all cases."""
    for seed, (name, (family, choices)) in enumerate(CASES.items()):
        generator = torch.Generator().manual_seed(seed)
        model = make(family, choices, generator)
        model.save_pretrained(FOLDER / name)
        (FOLDER / name / "config.py").unlink()  # the library's own source
        save_file(record(model, generator), FOLDER / name / "recorded.safetensors")


if __name__ == "__main__":
    main()
