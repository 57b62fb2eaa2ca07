"""A zoo of supernets with random weights, as it is written and as it lies on the disk."""

import json

import numpy as np
import torch

from supernetnas.distance.signature import Basis, DatasetSignature
from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.supernet import CellSupernet

CONFIG = SupernetConfig(
    space="s1", init_channels=2, n_cells=3, image_size=(8, 8), input_channels=3, n_classes=4
)
EMBEDDER = "random-projection:0123456789ab:8x8"
PROVENANCE = {
    "dataset": "Four things | <b>",
    "upstream": "Kaggle\nthings",
    "licence": "CC0 1.0",
    "source": "github a/b @ 0123abc",
    "n_images": 40,
}
METRICS = {"accuracy": 0.875, "epochs": 3, "note": "short"}
HISTORY = [{"stage": "search", "epoch": 0, "loss": 1.5}, {"stage": "search", "epoch": 1}]


def make_state(seed=0, config=CONFIG):
    """State of a supernet with batch-norm statistics other than 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        supernet = CellSupernet(config)
        supernet(torch.randn(4, config.input_channels, *config.image_size))
    return supernet.state_dict()


def make_signature(seed=0, embedder_id=EMBEDDER):
    random = np.random.default_rng(seed)
    labels = np.repeat(["a", "b", "c", "d"], 10)
    features = random.standard_normal((40, 6)).astype(np.float32) + 1
    return DatasetSignature.from_features(features, labels, embedder_id=embedder_id)


def make_basis(seed=0):
    return Basis(np.random.default_rng(seed).standard_normal((3, 6)).astype(np.float16))


def add(zoo, name, seed=0, **changes):
    arguments = {
        "config": CONFIG,
        "state_dict": make_state(seed),
        "signature": make_signature(seed),
        "provenance": PROVENANCE,
        "metrics": METRICS,
        "history": HISTORY,
        "classes": ["alder", "birch", "cedar", "dogwood"],
    }
    return zoo.add(name, **{**arguments, **changes})


def read_index(zoo):
    return json.loads((zoo.folder / "index.json").read_text())


def write_index(zoo, index):
    (zoo.folder / "index.json").write_text(json.dumps(index))


def snapshot(folder):
    """Every file with its content, but the lock and the hidden."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
