"""How much faster do several workers pretrain a zoo than one? One thread each.

OMP_NUM_THREADS=1 python benchmarks/parallel.py --jobs 1 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import add_output, write_results

from supernetnas.pretraining.whole_zoo import Pretraining, SourceDataset, pretrain_zoo


def mean_colours(batch: torch.Tensor) -> torch.Tensor:
    """Embed an image by its mean colour."""
    return batch.float().mean((2, 3)) + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--datasets", type=int, default=4)
    parser.add_argument("--steps", type=int, default=30)
    add_output(parser, __file__)
    args = parser.parse_args()
    random = np.random.default_rng(0)
    datasets = [
        SourceDataset(
            f"set{i}",
            random.integers(0, 256, (600, 32, 32, 3), dtype=np.uint8),
            np.arange(600) % 10,
        )
        for i in range(args.datasets)
    ]
    rows = []
    print("| workers | seconds | speed-up |\n|---|---|---|", flush=True)
    for n_jobs in args.jobs:
        with tempfile.TemporaryDirectory() as out:
            start = time.perf_counter()
            pretrain_zoo(
                datasets,
                Path(out) / "zoo",
                pretraining=Pretraining(steps=args.steps, min_epochs=1),
                embedder=mean_colours,
                multi=False,
                device="cpu",
                n_jobs=n_jobs,
                n_threads=1,
            )
            rows.append({"jobs": n_jobs, "seconds": time.perf_counter() - start})
        speedup = rows[0]["seconds"] / rows[-1]["seconds"]
        print(f"| {n_jobs} | {rows[-1]['seconds']:.1f} | {speedup:.2f}x |", flush=True)
    write_results(args.out, rows=rows)


if __name__ == "__main__":
    main()
