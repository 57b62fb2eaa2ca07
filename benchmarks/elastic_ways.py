"""Which way of pretraining makes the best members of an elastic supernet in equal time?

    OMP_NUM_THREADS=1 python benchmarks/elastic_ways.py album/ more.npz --work ways/ \\
        --probe flowers5 gtsrb_signs plantvillage11

DATA and ``--probe`` are those of ``elastic_pretraining.py``. Each way starts from slices of
EfficientNet-Lite0 and trains the shared weights for ``--minutes`` of the processor's time, on the
same views of the same images in the same order. At the end the statistics of the same members are
recalibrated, and members at six costs are probed on the sets held out.

The ways:

- "members": the pretraining of the package. 18 fixed members in turn, three in each step, learn
  what the whole network sees at 128 pixels.
- "space": in each step the smallest member of the whole space and two that are drawn from it learn
  the same; input sizes from 48 to 96 pixels, as those of the 18 have.
- "blockwise": every stage of the members of a step learns to make of the whole network's input to
  it what the whole network makes of it, at the member's input size; see `Blockwise`.
- "blockwise, then members": half of the time for each.

Time is that of the training steps. It includes the whole network's activations that "blockwise"
needs at the members' sizes, but not its features at 128 pixels, which are kept in ``--work``: they
are computed once, before the first way. Ways that the results know already are not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import add_output, write_results
from elastic_pretraining import probe, standardised
from torch import Tensor
from torch.func import functional_call

from supernetnas.families.elastic import ElasticArchitecture, ElasticSupernet
from supernetnas.families.elastic.layers import Statistics, at_size
from supernetnas.families.elastic.lite0 import (
    LITE0_MEMBERS,
    LITE0_SHAPES,
    LITE0_SPACE,
    lite0_supernet,
)
from supernetnas.families.elastic.network import Trunk
from supernetnas.families.elastic.pretraining import ElasticPretraining, SharedTraining
from supernetnas.families.elastic.space import MIN_SIDE, Backbone
from supernetnas.images.augmentation import StandardisedImages
from supernetnas.images.datasets import SourceDataset, load_datasets
from supernetnas.pretraining.multi_dataset import MixedImages
from supernetnas.search.distillation import Distillation
from supernetnas.search.samplers import Sampler, Sandwich
from supernetnas.training.execution import fast_inference

Row = dict[str, Any]
Lesson = tuple[Sampler[ElasticArchitecture], Distillation[ElasticArchitecture]]

WAYS = ("members", "space", "blockwise", "blockwise, then members")
_PROBED = {name: ElasticArchitecture(64, LITE0_SHAPES[name]) for name in LITE0_SHAPES}
_SIZES = (48, 64, 80, 96)
_WARMUP = 50  # steps, of a few hundred


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="folders and .npz files of labelled images")
    parser.add_argument("--probe", nargs="+", default=[], help="names of the sets to hold out")
    parser.add_argument("--work", type=Path, required=True, help="for the teacher's features")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--minutes", type=float, default=12.0, help="of training, for each way")
    parser.add_argument("--side", type=int, default=64, help="that images are kept at, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    add_output(parser, __file__, "continued if it exists")
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
    out = arguments.out
    rows: list[Row] = json.loads(out.read_text())["rows"] if out.exists() else []

    def report(way: str, supernet: ElasticSupernet, **measured: Any) -> None:
        for name, member in _PROBED.items():
            macs = supernet.costs(member).macs - supernet.classifier.weight.numel()
            row = {"way": way, "seed": arguments.seed, "member": name}
            row |= {"mmacs": round(macs / 1e6, 2), **measured}
            row |= {k: probe(supernet, member, *target) for k, target in targets.items()}
            rows.append(row)
            print(*(f"{k}={v}" for k, v in row.items()), flush=True)
        write_results(out, images=len(images), minutes=arguments.minutes, rows=rows)

    for way in ("sliced", *arguments.ways):
        if any((row["way"], row["seed"]) == (way, arguments.seed) for row in rows):
            continue
        training = InTime(images, arguments.work / "teacher", arguments.seed)
        if way != "sliced":
            training.learn(_lessons(way, training), 60 * arguments.minutes)
        measured = {"steps": training.step, "seconds": round(training.seconds, 1)}
        report(way, training.recalibrated(_PROBED.values()), **measured)
    print(table(rows, list(targets)))


class InTime(SharedTraining):
    """A pretraining from slices of EfficientNet-Lite0 that ends when its time is over.

    The learning rate warms up and falls as in other pretrainings, by the share of the time.

    Attributes
    ----------
    seconds : float
        Of the processor, that the training has taken.
    """

    def __init__(self, images: StandardisedImages, folder: Path, seed: int) -> None:
        settings = ElasticPretraining(warmup=_WARMUP, seed=seed)
        supernet = lite0_supernet(members=LITE0_MEMBERS)
        super().__init__(supernet, images, folder, "efficientnet_lite0", settings)
        self.seconds, self._limit = 0.0, float("inf")

    @property
    def n_steps(self) -> int:
        """As many as the time is enough for, at the pace so far."""
        if not self.seconds:
            return self.step + 1
        return max(self.step + 1, round(self.step * self._limit / self.seconds))

    def learn(self, lessons: Sequence[Lesson], limit: float) -> None:
        """Train for so many seconds of the processor, an equal share for each lesson."""
        start, self._limit = time.process_time(), limit

        def after_step(training: SharedTraining) -> None:
            self.seconds = time.process_time() - start
            if self.seconds >= limit:
                raise _TimeIsOverError
            place = int(len(lessons) * self.seconds / limit)
            self.sampler, self.distillation = lessons[place]

        self.sampler, self.distillation = lessons[0]
        with contextlib.suppress(_TimeIsOverError):
            while True:
                self.run(after_step)


class _TimeIsOverError(Exception):
    """Ends a training within an epoch."""


@dataclass(frozen=True)
class Blockwise:
    """Every stage learns what a teacher's stage makes of the teacher's input to it.

    As in Li et al., "Block-wisely Supervised Neural Architecture Search with Knowledge
    Distillation" (CVPR 2020), section 3.2: no gradient goes from one stage to another. The
    teacher sees the images at the member's own size, so that activations have equal sizes.
    Stem, first stage and last convolution, of which there is one kind, stay the teacher's.
    Deviation: the squared distance is divided by the variance of what is to be learned, so that
    all stages count alike.

    Attributes
    ----------
    teacher : Trunk
        In evaluation mode.
    """

    teacher: Trunk

    def losses(
        self,
        supernet: ElasticSupernet,
        images: Tensor,
        targets: Tensor,
        architectures: Sequence[ElasticArchitecture],
    ) -> Iterator[Tensor]:
        """Yield the sum of all stages' losses for each architecture; targets are not used."""
        seen: dict[int, list[Tensor]] = {}
        for architecture in architectures:
            if architecture.size not in seen:
                seen[architecture.size] = self.activations(at_size(images, architecture.size))
            yield torch.stack(
                self.stage_losses(supernet, architecture, seen[architecture.size])
            ).sum()

    @torch.no_grad()
    def activations(self, images: Tensor) -> list[Tensor]:
        """What the teacher's stages give, from the first on."""
        with fast_inference(images.device).autocast(images.device):
            found = [self.teacher.up_to(1, images)]
            for stage in self.teacher.stages[1:]:
                found.append(stage(found[-1]))
        return [x.float() for x in found]

    @staticmethod
    def stage_losses(
        supernet: ElasticSupernet, architecture: ElasticArchitecture, taught: Sequence[Tensor]
    ) -> list[Tensor]:
        """Losses of all stages but the first.

        Parameters
        ----------
        supernet : ElasticSupernet
        architecture : ElasticArchitecture
        taught : sequence of torch.Tensor
            What the teacher's stages give, from the first on.
        """
        weights = supernet.slices(architecture)
        stages = _plain_stages(supernet.config.space.backbone, architecture.at(MIN_SIDE))
        losses = []
        for place, (stage, x, y) in enumerate(
            zip(stages[1:], taught[:-1], taught[1:], strict=True), start=1
        ):
            prefix = f"stages.{place}."
            own = {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}
            made = functional_call(stage, {**own, **Statistics(stage).buffers_by_name()}, (x,))
            losses.append(F.mse_loss(made, y) / y.var().clamp(min=1e-6))
        return losses


@lru_cache(maxsize=32)
def _plain_stages(backbone: Backbone, architecture: ElasticArchitecture) -> torch.nn.Sequential:
    """Stages of an architecture without weights, in training mode."""
    with torch.device("meta"):
        return Trunk(backbone, architecture, 3).stages.train()


def _lessons(way: str, training: SharedTraining) -> list[Lesson]:
    """What the members of a supernet learn, one thing after another."""
    members: Lesson = training.sampler, training.distillation
    sandwich = Sandwich(replace(LITE0_SPACE, sizes=_SIZES), 2, training.settings.seed)
    teacher = copy.deepcopy(training.supernet.largest).eval()
    blockwise: Lesson = training.sampler, Blockwise(teacher)
    return {
        "members": [members],
        # The largest, which comes first, teaches and stays as it is.
        "space": [(lambda step: sandwich(step)[1:], training.distillation)],
        "blockwise": [blockwise],
        "blockwise, then members": [blockwise, members],
    }[way]


def table(rows: Sequence[Row], targets: Sequence[str]) -> str:
    """Mean accuracies over the sets held out, as Markdown."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lines = [f"| member | {' | '.join(ways)} |", "|---" * (len(ways) + 1) + "|"]
    means: dict[str, list[float]] = {way: [] for way in ways}
    for name in _PROBED:
        for way in ways:
            own = [row for row in rows if (row["way"], row["member"]) == (way, name)]
            found = [row[target] for row in own for target in targets]
            means[way].append(sum(found) / max(len(found), 1))
        lines.append(f"| {name} | {' | '.join(f'{means[way][-1]:.4f}' for way in ways)} |")
    cells = " | ".join(f"{sum(means[way]) / len(means[way]):.4f}" for way in ways)
    return "\n".join([*lines, f"| mean | {cells} |"])


if __name__ == "__main__":
    main()
