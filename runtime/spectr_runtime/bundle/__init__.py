"""The bundle: the two models, their tokenizer and the manifest, as ``spectr-export`` writes them.

Opening one loads no tensor library. What is read from the models themselves is in ``weights``, ``stacks``, ``e4m3`` and
``compiled``.
"""

from spectr_runtime.bundle.bundle import Bundle
from spectr_runtime.bundle.manifest import ROLES, Limits, Manifest, ModelSpec, Role, Vocabulary

__all__ = ["ROLES", "Bundle", "Limits", "Manifest", "ModelSpec", "Role", "Vocabulary"]
