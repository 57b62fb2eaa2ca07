"""How good are the members of an elastic supernet as its pretraining goes on?

    python benchmarks/elastic_pretraining.py album/ more.npz --work pretraining/ \\
        --probe flowers5 plantvillage11 gtsrb_signs

DATA are folders of class folders, ``.npz`` files with X and y, or folders of such files. The sets
named by ``--probe`` are held out; all others pretrain the weights that the members of
EfficientNet-Lite0's elastic supernet share. Before the first epoch, after every ``--every``-th and
after the last, members at seven costs are recalibrated and probed: the accuracy of a ridge
classifier of their features on each set held out, each image left out in turn. EfficientNet-Lite0
itself stands beside them.

Everything is kept in ``--work``: checkpoint, the teacher's features, ``probes.csv``, and at the end
``shared.safetensors``, the weights in float16. An interrupted run goes on there. A file ``stop`` in
it ends the run after the epoch.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from common import add_output, write_results

from supernetnas.families.elastic import ElasticArchitecture, ElasticSupernet
from supernetnas.families.elastic.family import Elastic
from supernetnas.families.elastic.lite0 import (
    LITE0_MEMBERS,
    LITE0_SHAPES,
    LITE0_SPACE,
    lite0_supernet,
)
from supernetnas.families.elastic.pretraining import (
    ElasticPretraining,
    SharedTraining,
    pretrain_shared,
)
from supernetnas.images.augmentation import StandardisedImages
from supernetnas.images.datasets import SourceDataset, load_datasets
from supernetnas.pretraining.data import PretrainingData
from supernetnas.pretraining.multi_dataset import MixedImages
from supernetnas.storage.files import write_atomic
from supernetnas.storage.formats import dump_csv, parse_csv
from supernetnas.training.probes import linear_probe
from supernetnas.zoo.weights import dump_supernet

_PROBED = {
    f"{shape} @{size}": ElasticArchitecture(size, LITE0_SHAPES[shape])
    for shape, size in (*((name, 64) for name in LITE0_SHAPES), ("expansion 4, shallow", 96))
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="folders and .npz files of labelled images")
    parser.add_argument("--probe", nargs="+", default=[], help="names of the sets to hold out")
    parser.add_argument("--work", type=Path, required=True, help="continued if it exists")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--every", type=int, default=1, help="epochs from probe to probe")
    parser.add_argument("--side", type=int, default=64, help="that images are kept at, in pixels")
    parser.add_argument("--divergence", choices=("kl", "adaptive"), default="kl")
    add_output(parser, __file__, "where the probes of all epochs are written")
    arguments = parser.parse_args()

    datasets = {dataset.name: dataset for dataset in load_datasets(arguments.data)}
    if unknown := set(arguments.probe) - datasets.keys():
        parser.error(f"--probe: no set is called {', '.join(sorted(unknown))}")
    probed = [datasets.pop(name) for name in arguments.probe]
    run(list(datasets.values()), probed, arguments)


def run(
    datasets: list[SourceDataset], probed: list[SourceDataset], arguments: argparse.Namespace
) -> None:
    images = MixedImages([standardised(dataset, arguments.side) for dataset in datasets])
    targets = {d.name: (standardised(d, arguments.side), d.labels) for d in probed}
    print(f"{len(images)} images of {len(datasets)} sets; probed: {', '.join(targets)}", flush=True)
    arguments.work.mkdir(parents=True, exist_ok=True)
    table = arguments.work / "probes.csv"
    rows = parse_csv(table.read_bytes(), name=str(table)) if table.exists() else []

    def report(
        supernet: ElasticSupernet, member: ElasticArchitecture, name: str, epoch: int, loss: float
    ) -> None:
        macs = supernet.costs(member).macs - supernet.classifier.weight.numel()
        row = {"epoch": epoch, "member": name, "mmacs": round(macs / 1e6, 2), "loss": loss}
        row |= {k: probe(supernet, member, *target) for k, target in targets.items()}
        rows.append(row)
        write_atomic(table, dump_csv(rows))
        print("  ".join(f"{v:.4f}" if isinstance(v, float) else f"{v}" for v in row.values()))

    def report_members(supernet: ElasticSupernet, epoch: int, loss: float = float("nan")) -> None:
        for name, member in _PROBED.items():
            report(supernet, member, name, epoch, loss)

    def on_epoch(training: SharedTraining) -> bool:
        if training.epoch % arguments.every == 0 or training.epoch == training.epochs:
            now = training.recalibrated(_PROBED.values())
            report_members(now, training.epoch, training.loss)
        print(f"epoch {training.epoch}: {time.monotonic() - start:.0f} s", flush=True)
        return (arguments.work / "stop").exists()

    start = time.monotonic()
    supernet = lite0_supernet(members=LITE0_MEMBERS)
    settings = ElasticPretraining(epochs=arguments.epochs, divergence=arguments.divergence)
    if not rows:
        supernet.recalibrate(images, _PROBED.values(), generator=torch.Generator().manual_seed(0))
        for size in (64, 96):
            whole = LITE0_SPACE.largest.at(size)
            report(supernet, whole, f"EfficientNet-Lite0 @{size}", 0, float("nan"))
        report_members(supernet, 0)
    training = pretrain_shared(
        supernet,
        images,
        arguments.work,
        identity="efficientnet_lite0",
        settings=settings,
        on_epoch=on_epoch,
    )
    config, state = Elastic().stored(training.recalibrated())
    write_atomic(arguments.work / "shared.safetensors", dump_supernet(state, config, "float16"))
    write_results(arguments.out, epochs=arguments.epochs, images=len(images), probes=rows)


def standardised(dataset: SourceDataset, side: int) -> StandardisedImages:
    """Images of a dataset as EfficientNet-Lite0 wants them."""
    seen = Elastic().input((side, side), 3, side)
    return PretrainingData.read(dataset).whole(seen, torch.device("cpu"))


@torch.inference_mode()
def probe(
    supernet: ElasticSupernet,
    member: ElasticArchitecture,
    images: StandardisedImages,
    labels: np.ndarray,
) -> float:
    supernet.eval()
    batches = torch.arange(len(images)).split(64)
    features = torch.cat([supernet.features(images.clean(batch), member) for batch in batches])
    return round(linear_probe(features.numpy(), labels), 4)


if __name__ == "__main__":
    main()
