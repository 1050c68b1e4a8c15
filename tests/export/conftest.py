"""Fixtures: tiny models with their graphs, and a bundle, each made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import Exported, save_pair, tiny_model

from spectr_export.build import build
from spectr_export.graph.export import export_graph
from spectr_export.original.model import measure_spec
from spectr_export.preparation import BuildOptions
from spectr_export.storing.save import save_model


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Return a function that exports the model of a family and returns its folder with its graph."""
    made: dict[str, Exported] = {}

    def export(family: str) -> Exported:
        if family not in made:
            folder, model = tmp_path_factory.mktemp(family), tiny_model(family)
            spec = measure_spec(model)
            save_model(model, folder)
            export_graph(folder, spec)
            made[family] = Exported(folder, model, spec)
        return made[family]

    return export


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of a target and of a draft."""
    return save_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def bundle_path(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the pair; a test that changes the bundle copies it first."""
    target, draft = pair
    output = tmp_path_factory.mktemp("bundles") / "tiny.bundle"
    build(BuildOptions(str(target), str(draft)), output, say=lambda line: None)
    return output
