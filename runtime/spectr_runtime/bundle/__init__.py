"""The bundle: a target, usually a draft, their tokenizer and the manifest, as ``spectr-export`` writes them.

The modules:

    layout       the names of the files and folders
    manifest     the contents of ``spectr.json``
    spec         the sizes of a model in it
    tokens       which tokens a draft's logits are for
    bundle       opening a bundle
    integrity    the checks of its files and graphs
    checks       the checks of records that were read from JSON
    weights      reading weights, and decoding quantised ones
    stacks       the layout of a mixture's experts
    e4m3         rounding to the eight-bit numbers of fp8 models
    rows         rounding rows to the integers of int8 models
    compiled     the record of a TensorRT engine
    engines      the TensorRT engines in a bundle, and which of them fits a machine

Opening a bundle loads no tensor library; ``weights``, ``tokens``, ``stacks``, ``e4m3`` and ``rows`` do, and
are not imported here.
"""

from spectr_runtime.bundle.bundle import Bundle
from spectr_runtime.bundle.manifest import ROLES, Limits, Manifest, Role, Vocabulary
from spectr_runtime.bundle.spec import Features, Head, ModelSpec

__all__ = ["ROLES", "Bundle", "Features", "Head", "Limits", "Manifest", "ModelSpec", "Role", "Vocabulary"]
