"""Which supernet a fit starts from, where there is a choice.

Every start is judged by what its features are worth before anything is trained: the accuracy of a
linear classifier of them on some of the images, each left out in turn. Near ties can be raced;
where the network that a limit allows is one whose features say little, so are others.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..families.base import Family, NetworkInput
from ..families.warm_start import starting_supernet
from ..images.augmentation import StandardisedImages
from ..images.preprocessing import Preprocessing
from ..images.stored_pixels import decode
from ..search.limits import Limits
from ..training.batch_norm import recalibrate_batch_norm
from ..training.clock import Stopwatch
from ..training.devices import placed
from ..training.execution import FLOAT32, Execution, fast_inference
from ..training.probes import linear_probe, subset
from ..zoo.source import Source
from .checkpoints import StageCheckpoint
from .validation import TrainingData

__all__ = ["Start", "choose_start", "possible_starts"]

logger = logging.getLogger(__name__)

_MOST_IMAGES = 400  # that starts are compared on
_NEAR = 1.0  # standard errors of a difference between which starts are raced
_LEAST_UNTOLD = 300  # images; of fewer, those that a race holds out tell less than any probes
_MOST_TIMES_EPOCHS = 2.0
_BATCH = 64


@dataclass(frozen=True)
class Start:
    """What a fit may start from.

    Attributes
    ----------
    source : Source or None
        None for random weights.
    family : Family
    seen : NetworkInput
        What its networks see.
    times_epochs : float
        How many times the usual epochs their retraining has, for the time that fewer pixels save.
    """

    source: Source | None
    family: Family
    seen: NetworkInput
    times_epochs: float = 1.0


def possible_starts(
    sources: Sequence[Source | None],
    family_of: Callable[[Source | None], Family],
    data: TrainingData,
    image_size: Any,
    limits: Limits,
    execution: Execution = FLOAT32,
    *,
    loads: bool = True,
) -> list[Start]:
    """List the starts from sources, each at the size that its family wants.

    Parameters
    ----------
    sources : sequence of Source or None
    family_of : callable
        From a source to its family; ValueError if the fit cannot start from it.
    data : TrainingData
    image_size : int, tuple of int or "auto"
        What the user wants.
    limits : Limits
    execution : Execution
        How networks are to be trained.
    loads : bool
        Whether limits may load the weights of sources, to suit the size to them.

    Returns
    -------
    list of Start
        Without those whose networks cannot be of that size, be run like that, or keep the limits.

    Raises
    ------
    ValueError
        If none is left; says what keeps each from being one.
    """
    images = data.images
    starts, errors = [], []
    for source in sources:
        config = None if source is None else source.config
        try:
            family = family_of(source)
            family.check_execution(execution)
            seen = family.input(images.typical_size, images.channels, image_size, config)
            start = Start(source, family, seen)
            if limits and image_size == "auto":
                start = _affordable(start, len(data.classes), limits, loads)
            _budget(start, len(data.classes), limits)
        except ValueError as error:
            errors.append(error)
            continue
        starts.append(start)
    if not starts:
        raise type(errors[0])(" ".join(dict.fromkeys(map(str, errors))))
    return starts


def choose_start(
    starts: Sequence[Start],
    data: TrainingData,
    limits: Limits,
    device: torch.device,
    seed: int,
    checkpoint: StageCheckpoint | None = None,
    resize: str = "squeeze",
    race: Callable[[Start], float | None] | None = None,
) -> tuple[Start, list[dict[str, Any]]]:
    """Choose the start whose features tell the classes apart best.

    Equal ones are told apart by their order. The two best are raced if their accuracies are nearer
    than the standard error of the difference, were they independent. From 300 images on, a start to
    which the limits leave a network of which `Family.probes_tell` is false is raced in any case,
    against the best of the others.

    Parameters
    ----------
    starts : sequence of Start
        At least one.
    data : TrainingData
    limits : Limits
    device : torch.device
    seed : int
    checkpoint : StageCheckpoint, optional
        Keeps the comparison, for a fit that goes on to start from the same.
    resize : {"squeeze", "crop", "pad"}
        How images become as large as the network sees them.
    race : callable, optional
        Returns the accuracy of a brief fit from a start, or None if it cannot be had.

    Returns
    -------
    start : Start
    scores : list of dict
        ``source``, ``family``, ``image_size``, ``accuracy`` and ``seconds`` of each start, and
        ``race_accuracy`` of those that were raced; empty where there is no choice.
    """
    if len(starts) == 1:
        return starts[0], []
    checkpoint = checkpoint or StageCheckpoint()
    saved = checkpoint.load()
    scores: list[dict[str, Any]] = [] if saved is None else saved[1]["scores"]
    names = [_named(start) for start in starts]
    if names != [{name: row[name] for name in names[0]} for row in scores]:
        scores = _compared(starts, names, data, limits, device, seed, resize)
        if race is not None:
            _race(race, starts, scores, data, limits)
        checkpoint.save({}, {"scores": scores})
    best = max(range(len(starts)), key=lambda place: _rank(scores[place]))
    brief = _told(scores, "race_accuracy")
    logger.info(
        "starting from %s at %s pixels; linear probes: %s%s",
        scores[best]["source"],
        "x".join(map(str, scores[best]["image_size"])),
        _told(scores, "accuracy"),
        brief and f"; brief fits: {brief}",
    )
    return starts[best], scores


def _race(
    race: Callable[[Start], float | None],
    starts: Sequence[Start],
    scores: list[dict[str, Any]],
    data: TrainingData,
    limits: Limits,
) -> None:
    """Add what the two best reach in brief fits, if probes do not tell which is better."""
    order = sorted(range(len(starts)), key=lambda place: scores[place]["accuracy"], reverse=True)
    rivals, n_images = order[:2], min(len(data.labels), _MOST_IMAGES)
    untold = [
        place
        for place in order
        if n_images >= _LEAST_UNTOLD
        and not starts[place].family.probes_tell(_budget(starts[place], len(data.classes), limits))
    ]
    if untold:  # whatever its probe says, against the best of the others
        rivals = sorted([untold[0], next(p for p in order if p != untold[0])], key=order.index)
    else:
        first, second = (scores[place]["accuracy"] for place in rivals)
        error = math.sqrt((first * (1 - first) + second * (1 - second)) / n_images)
        if first - second > _NEAR * error:
            return
    logger.info(
        "racing %s and %s: linear probes do not tell which is better",
        *(scores[place]["source"] for place in rivals),
    )
    for place in rivals:
        watch = Stopwatch()
        accuracy = race(starts[place])
        if accuracy is None:
            return
        scores[place]["race_accuracy"] = accuracy
        scores[place]["seconds"] += watch.seconds


def _affordable(start: Start, n_classes: int, limits: Limits, loads: bool) -> Start:
    """The start at the size that suits it within limits; ValueError if there is none."""
    family, seen = start.family, start.seen
    inputs = family.inputs_within(seen, _config(start, n_classes), n_classes, limits)
    found = inputs[0]
    if start.source is not None and len(inputs) > 1:
        # Without the weights it is known what can be kept: if anything, then with the fewest.
        found = inputs[-1]
        if loads:
            found = family.suited_input(inputs, _supernet(start, n_classes, 0), limits)
    if loads and found != seen:
        logger.info(
            "networks of the family %r see %s pixels instead of %s, because of %s",
            *(family.name, *("x".join(map(str, each.size)) for each in (found, seen)), limits),
        )
    saved = math.prod(seen.size) / math.prod(found.size)
    return replace(start, seen=found, times_epochs=min(saved, _MOST_TIMES_EPOCHS))


def _supernet(start: Start, n_classes: int, seed: int) -> Any:
    """The supernet that a fit from a start begins with."""
    source = start.source
    state = None if source is None else (source.config, source.state_dict())
    return starting_supernet(start.family, start.seen, n_classes, seed, state)


def _budget(start: Start, n_classes: int, limits: Limits) -> Any:
    """What a fit from a start keeps the limits with; ValueError if nothing does."""
    return start.family.budget(_config(start, n_classes), start.seen, n_classes, limits)


def _config(start: Start, n_classes: int) -> Any:
    """Configuration of the supernet of a start."""
    if start.source is None:
        return start.family.config(start.seen, n_classes)
    return start.family.adapted(start.source.config, start.seen, n_classes)


def _rank(row: dict[str, Any]) -> tuple[float, float]:
    """What the best start has most of: raced ones come before all others."""
    return row.get("race_accuracy", -1.0), row["accuracy"]


def _told(scores: Sequence[dict[str, Any]], name: str) -> str:
    return ", ".join(
        f"{row['source']} at {row['image_size'][0]}: {row[name]:.3f}"
        for row in scores
        if name in row
    )


def _named(start: Start) -> dict[str, Any]:
    return {
        "source": "scratch" if start.source is None else start.source.name,
        "family": start.family.name,
        "image_size": list(start.seen.size),
    }


def _compared(
    starts: Sequence[Start],
    names: Sequence[dict[str, Any]],
    data: TrainingData,
    limits: Limits,
    device: torch.device,
    seed: int,
    resize: str,
) -> list[dict[str, Any]]:
    """Name, accuracy and seconds of each start."""
    labels = torch.from_numpy(data.labels)
    index = subset(labels, _MOST_IMAGES, torch.Generator().manual_seed(seed))
    chosen = data.images.take(index.numpy())
    scores = []
    for start, name in zip(starts, names, strict=True):
        watch = Stopwatch()
        # Anew for each: what is resized twice is blurred.
        pixels = decode(chosen, *start.seen.size, resize=resize)
        seen = Preprocessing.of(pixels).standardised_by(start.seen.mean, start.seen.std)
        images = seen.on_device(pixels, device)
        features = _features(start, images, len(data.classes), limits, device, seed)
        accuracy = linear_probe(features.numpy(), labels[index].numpy())
        scores.append({**name, "accuracy": accuracy, "seconds": watch.seconds})
    return scores


@torch.no_grad()
def _features(
    start: Start,
    images: StandardisedImages,
    n_classes: int,
    limits: Limits,
    device: torch.device,
    seed: int,
) -> Tensor:
    """Pooled features of the images, by a network that a start may lead to, before training."""
    family, supernet = start.family, _supernet(start, n_classes, seed)
    budget = family.budget(supernet.config, start.seen, n_classes, limits)
    module: Any = placed(family.probed(supernet, budget, start.seen), device)
    if not family.keeps_statistics:
        generator = torch.Generator().manual_seed(seed)
        recalibrate_batch_norm(module, images, generator=generator)
    module.eval()
    found = []
    for index in torch.arange(len(images)).split(_BATCH):
        with fast_inference(device).autocast(device):
            found.append(module.features(images.clean(index)).float().cpu())
    return torch.cat(found)
