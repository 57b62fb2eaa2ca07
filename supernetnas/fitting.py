"""What the stages of a fit share, and the search among several sources."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .augmentation import Augmentation
from .checkpoint import FitCheckpoints
from .preprocessing import Preprocessing
from .progress import Progress
from .search.bilevel import BilevelSearch, SearchSettings
from .search.budget import Budget
from .search.methods import make_search
from .spaces.genotype import Genotype
from .stored_pixels import StoredPixels
from .supernets.cell import CellSupernet
from .training import (
    LabelledImages,
    Stopwatch,
    recalibrate_batch_norm,
    stratified_split,
)

__all__ = [
    "DERIVATION",
    "Candidate",
    "Run",
    "Target",
    "derivation_state",
    "restore_derivation",
    "search_best",
]

DERIVATION = "derive"
"""Name of the checkpoint that holds what was derived; once it is there, nothing is searched."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """The images that a network is searched for, decoded and resized.

    Attributes
    ----------
    pixels : torch.Tensor or StoredPixels of shape (n, c, h, w), uint8 or float32
    labels : torch.Tensor of shape (n,), int64
        Class indices.
    n_classes : int
    class_weight : torch.Tensor of shape (n_classes,) or None
        On the device.
    preprocessing : Preprocessing
    augmentation : Augmentation
    device : torch.device
        Where networks are trained.
    """

    pixels: Tensor | StoredPixels
    labels: Tensor
    n_classes: int
    class_weight: Tensor | None
    preprocessing: Preprocessing
    augmentation: Augmentation
    device: torch.device

    def part(self, index: Tensor | slice = slice(None)) -> LabelledImages:
        """Put the images at ``index``, by default all, on the device."""
        images = self.preprocessing.on_device(self.pixels[index], self.device, self.augmentation)
        return LabelledImages(images, self.labels[index].to(self.device))


@dataclass(frozen=True)
class Run:
    """Randomness, clock, display and checkpoints of a fit."""

    generator: torch.Generator
    watch: Stopwatch
    progress: Progress
    checkpoints: FitCheckpoints

    def draw_seed(self) -> int:
        """Draw the seed of something that has its own source of randomness."""
        return int(torch.randint(2**31 - 1, (), generator=self.generator))

    def recalibrate(self, module: nn.Module, train: LabelledImages, batch_size: int) -> None:
        """Give a module the batch-norm statistics of the images."""
        recalibrate_batch_norm(
            module, train.images, batch_size=batch_size, generator=self.generator
        )


@dataclass(frozen=True)
class Candidate:
    """A supernet to search from.

    Attributes
    ----------
    name : str
        Of its source.
    supernet : CellSupernet
    pretrained : bool
    budget : Budget or None
        What the derived network may cost.
    """

    name: str
    supernet: CellSupernet
    pretrained: bool
    budget: Budget | None = None


def derivation_state(
    search: BilevelSearch, genotype: Genotype
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `restore_derivation` needs to find a search as the derivation left it."""
    tensors = {f"supernet.{key}": value for key, value in search.supernet.state_dict().items()}
    tensors["generator"] = search.generator.get_state()
    return tensors, {"genotype": genotype.to_dict(), "history": search.history}


def restore_derivation(
    search: BilevelSearch, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Genotype:
    """Return the genotype that was derived, and leave the search as it was then."""
    search.supernet.load_state_dict(
        {key.removeprefix("supernet."): value for key, value in tensors.items() if "." in key}
    )
    search.generator.set_state(tensors["generator"])
    search.history = state["history"]
    return Genotype.from_dict(state["genotype"])


def search_best(
    candidates: Sequence[Candidate],
    target: Target,
    settings: SearchSettings,
    validation_fraction: float,
    run: Run,
    time_limit: float | None = None,
    *,
    method: str = "sdarts",
    stopping: str = "plateau",
) -> tuple[Candidate, BilevelSearch]:
    """Search from every candidate and return the best on validation data.

    Parameters
    ----------
    candidates : sequence of Candidate
        At least one; the supernets are changed in place.
    target : Target
        Split class by class, once for all candidates.
    settings : SearchSettings
    validation_fraction : float
        Share of each class that trains the alphas.
    run : Run
    time_limit : float, optional
        Seconds of the run's clock at which searching ends. What is left is shared equally by the
        candidates to come; the first is searched for an epoch at least, and those that no time is
        left for are passed over.
    method, stopping : str
        Of `supernetnas.search.make_search`.

    Returns
    -------
    candidate : Candidate
    search : BilevelSearch
    """
    run.checkpoints.check_start((c.name, c.supernet) for c in candidates)
    searching = not run.checkpoints.stage(DERIVATION).exists()
    first, second = stratified_split(target.labels, validation_fraction, run.generator)
    train, validation = target.part(first), target.part(second)
    best: tuple[Candidate, BilevelSearch] | None = None
    for position, candidate in enumerate(candidates):
        watch = Stopwatch()
        if time_limit is not None:
            left = time_limit - run.watch.seconds
            if best is not None and left <= 0:
                logger.warning("No time for %d of the sources.", len(candidates) - position)
                break
            watch = Stopwatch(max(left, 0.0) / (len(candidates) - position))
        if candidate.pretrained:
            run.recalibrate(candidate.supernet, train, settings.batch_size)
        search = make_search(
            method,
            stopping,
            candidate.supernet,
            train,
            validation,
            settings=settings,
            generator=run.generator,
            class_weight=target.class_weight,
            budget=candidate.budget,
        )
        search.rate_name = "search_learning_rate"
        checkpoint = run.checkpoints.stage(f"search-{position}")
        saved = checkpoint.load()
        if saved is None and not searching:
            break  # passed over for want of time
        if saved is not None:
            search.restore(*saved)
            watch.start -= sum(row["seconds"] for row in search.history)
            logger.info("going on with the search after epoch %d", search.epoch)
        with run.progress.stage(f"search from {candidate.name}", settings.epochs) as advance:

            def on_epoch(search, advance=advance, checkpoint=checkpoint) -> None:
                checkpoint.save(*search.checkpoint())
                advance(search.history[-1])

            for row in search.history:
                advance(row)
            if searching:
                search.run(stopwatch=watch, on_epoch=on_epoch)
        if best is None or search.validation_accuracy > best[1].validation_accuracy:
            best = candidate, search
    if best is None:
        raise ValueError("There is no candidate to search from.")
    return best
