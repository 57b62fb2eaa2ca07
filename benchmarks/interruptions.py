"""Is anything lost when pretraining is killed? `kill -9` at random moments, again and again.

A zoo is pretrained by two worker processes. At a random moment all its processes are killed; what
is there then is checked, and the same call is made again, until the zoo is finished. It must be
the zoo of a call that was left alone, bit for bit. POSIX only.

    OMP_NUM_THREADS=1 python benchmarks/interruptions.py --kills 20
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
import traceback
from pathlib import Path

import joblib
import numpy as np
import torch
from common import add_output, write_results

from supernetnas.families.cells.family import Cells
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.pretraining.whole_zoo import Pretraining, SourceDataset, pretrain_zoo
from supernetnas.storage.files import sha256
from supernetnas.training.checkpoints import load_checkpoint
from supernetnas.zoo import Zoo
from supernetnas.zoo.entries import INDEX

PRETRAINING = Pretraining(
    Cells(init_channels=2, n_cells=3),
    image_side=8,
    steps=1,
    min_epochs=4,
    multi_epochs=4,
    settings=SearchSettings(batch_size=16),
)


def mean_colours(batch: torch.Tensor) -> torch.Tensor:
    """Embed an image by its mean colour."""
    return batch.float().mean((2, 3)) + 1


def datasets(n: int = 4) -> list[SourceDataset]:
    """Make small datasets of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, 60, 8, 8, 3), dtype=np.uint8)
    return [SourceDataset(f"set{i}", part, np.arange(60) % 3) for i, part in enumerate(pixels)]


def start(folder: Path) -> int:
    """Pretrain a zoo in a process group of its own; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    status = 1
    try:
        # Workers are forked, which takes no time: moments are then moments of the work.
        with joblib.parallel_config(backend="multiprocessing"):
            pretrain_zoo(
                datasets(),
                folder,
                pretraining=PRETRAINING,
                embedder=mean_colours,
                device="cpu",
                n_jobs=2,
                n_threads=1,
            )
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finished(pid: int, seconds: float) -> bool:
    """Whether a process ends by itself within so many seconds; otherwise it is killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if status:
                raise SystemExit("The pretraining failed by itself.")
            return True
        time.sleep(0.002)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


class Witness:
    """Remembers what was finished and compares."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, str] = {}
        self.epochs: dict[str, int] = {}

    def look(self) -> None:
        """Fail if something that was there is gone, changed or damaged."""
        for path in (self.folder / ".pretraining").glob("*.ckpt"):
            epoch = load_checkpoint(path)[1]["epoch"]
            if epoch < self.epochs.get(path.stem, 0):
                raise SystemExit(f"{path.stem} went back to epoch {epoch}.")
            self.epochs[path.stem] = epoch
        if not (self.folder / INDEX).exists():
            if self.files:
                raise SystemExit("The zoo is gone.")
            return
        zoo = Zoo.open(self.folder)
        problems = [p for p in zoo.verify() if "interrupted write" not in p]
        # A folder that was renamed into place before the index names it belongs to nobody yet.
        problems = [p for p in problems if "does not belong to the zoo" not in p]
        if problems:
            raise SystemExit("\n".join(problems))
        for name, digest in self.files.items():
            if name not in zoo or digest != sha256(self.folder / name / "supernet.safetensors"):
                raise SystemExit(f"{name} was lost or changed.")
        self.files = {n: sha256(self.folder / n / "supernet.safetensors") for n in zoo}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    add_output(parser, __file__)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        reference = Witness(Path(root) / "reference")
        begin = time.monotonic()
        finished(start(reference.folder), 3600)
        duration = time.monotonic() - begin
        reference.look()
        print(f"left alone: {len(reference.files)} sources in {duration:.1f} s", flush=True)
        kills = zoos = 0
        while kills < args.kills:
            witness = Witness(Path(root) / f"zoo{zoos}")
            while not finished(start(witness.folder), draw.uniform(0, duration)):
                kills += 1
                witness.look()
                done = ", ".join(f"{k} {v}" for k, v in sorted(witness.epochs.items()))
                print(
                    f"kill {kills}: {len(witness.files)} sources in the zoo; epochs: {done}",
                    flush=True,
                )
            witness.look()
            if witness.files != reference.files:
                raise SystemExit("The zoo differs from the one that was left alone.")
            zoos += 1
            print(f"zoo {zoos} is finished and the same", flush=True)
    print(f"{kills} kills, {zoos} zoos finished, nothing lost")
    row = {"kills": kills, "zoos": zoos, "lost": 0, "seconds_alone": duration}
    write_results(args.out, rows=[row])


if __name__ == "__main__":
    main()
