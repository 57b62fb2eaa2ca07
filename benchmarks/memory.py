"""Does memory grow with the number of images? Peak of `fit` and of pretraining from files.

Each measurement is a process of its own: its peak resident memory, next to that of a process that
only imports. The files are small pictures; of the larger sets most are links to the same thousand.

    python benchmarks/memory.py --images 1000 10000 100000
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import add_output, write_results
from PIL import Image

N_CLASSES, SIDE, DISTINCT = 10, 32, 1000


def write_images(folder: Path, n: int) -> None:
    """Write class folders with ``n`` pictures in all."""
    random = np.random.default_rng(0)
    classes = [folder / f"class{label}" for label in range(N_CLASSES)]
    for path in classes:
        path.mkdir(parents=True)
    distinct = []
    for number in range(n):
        path = classes[number % N_CLASSES] / f"{number:06d}.png"
        if number < DISTINCT:
            pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            pixels[: 3 * (number % N_CLASSES + 1)] //= 2
            Image.fromarray(pixels).save(path)
            distinct.append(path)
        else:
            os.link(distinct[number % DISTINCT], path)


def fit(folder: Path) -> None:
    """Fit a small network for one epoch each of search and retraining."""
    from supernetnas import DARTS, Cells, Retraining, SupernetTransferClassifier, load_images

    SupernetTransferClassifier(
        "scratch",
        family=Cells(init_channels=2, n_cells=1),
        search=DARTS(epochs=1),
        retraining=Retraining(epochs=1),
        batch_size=256,
        device="cpu",
        random_state=0,
    ).fit(*load_images(folder))


def pretrain(folder: Path) -> None:
    """Pretrain a zoo of one small source for one epoch."""
    from supernetnas.families.cells.family import Cells
    from supernetnas.families.cells.search.weight_training import SearchSettings
    from supernetnas.images.datasets import load_datasets
    from supernetnas.pretraining.whole_zoo import Pretraining, pretrain_zoo

    def mean_colours(batch):
        return batch.float().mean((2, 3)) + 1

    pretraining = Pretraining(
        Cells(init_channels=2, n_cells=1),
        image_side=SIDE,
        steps=1,
        min_epochs=1,
        settings=SearchSettings(batch_size=256, perturbation="none"),
    )
    with tempfile.TemporaryDirectory() as out:
        pretrain_zoo(
            load_datasets([folder]),
            Path(out) / "zoo",
            pretraining=pretraining,
            embedder=mean_colours,
            multi=False,
            device="cpu",
        )


def nothing(folder: Path) -> None:
    """Import what the others import."""
    import supernetnas.classifier
    import supernetnas.pretraining.whole_zoo  # noqa: F401


TASKS = {"import": nothing, "fit": fit, "pretrain": pretrain}


def measure(task: str, folder: Path) -> tuple[float, float]:
    """Run a task in a process of its own; returns its peak in MiB, and seconds."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "--run", task, str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1]), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    add_output(parser, __file__)
    parser.add_argument("--run", nargs=2, metavar=("TASK", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        TASKS[args.run[0]](Path(args.run[1]))
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(kibibytes / (2**20 if sys.platform == "darwin" else 2**10))
        return
    rows = []
    print("| images | import, MiB | fit, MiB | pretrain, MiB |\n|---|---|---|---|", flush=True)
    for n in args.images:
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder) / "pictures", n)
            found = {task: measure(task, Path(folder) / "pictures") for task in TASKS}
        rows.append(
            {
                "images": n,
                **{
                    task: dict(zip(("mib", "seconds"), r, strict=True)) for task, r in found.items()
                },
            }
        )
        peaks = " | ".join(f"{mib:.0f}" for mib, _ in found.values())
        print(f"| {n:,} | {peaks} |", flush=True)
    write_results(args.out, rows=rows)


if __name__ == "__main__":
    main()
