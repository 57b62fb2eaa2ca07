"""A zoo of supernets with random weights, to read and to spoil."""

import shutil

import pytest
from random_zoo import EMBEDDER, add

from supernetnas import Zoo


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A zoo with two single sources and a multi source; not to be written to."""
    zoo = Zoo.create(tmp_path_factory.mktemp("zoos") / "original", embedder_id=EMBEDDER)
    add(zoo, "birds", 1)
    add(zoo, "ants", 2, history=(), classes=None)
    add(zoo, "all-of-them", 3, kind="multi", signature=None)
    return zoo


@pytest.fixture
def zoo(original, tmp_path):
    """Return a copy of the zoo, for a test to spoil."""
    shutil.copytree(original.folder, tmp_path / "zoo")
    return Zoo.open(tmp_path / "zoo")
