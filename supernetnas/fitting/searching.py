"""The stages of a fit from the selected sources to an architecture."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..families.base import Family, NetworkInput
from ..families.warm_start import starting_supernet
from ..search.limits import Limits
from ..search.method import SearchMethod, SearchTask
from ..search.protocols import Architecture, Search
from ..training.batches import stratified_split
from ..training.clock import Stopwatch
from ..training.execution import FLOAT32, Execution
from ..training.history import HistoryRow
from ..zoo.source import Source
from .run import Run
from .target import Target

__all__ = ["Candidate", "Found", "candidates_of", "derive", "search_best"]

_DERIVATION = "derive"
"""Name of the checkpoint that holds what was derived; once it is there, nothing is searched."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A supernet to search from.

    Attributes
    ----------
    name : str
        Of its source.
    record : dict or None
        What its source is: hash of its weights, and what they were trained on.
    supernet : torch.nn.Module
    pretrained : bool
    recalibrated : bool
        Whether its batch norms are given the statistics of the target's images.
    before : Architecture
        What the fit's architecture is compared with, see `Family.unsearched`.
    budget : object or None
        What keeps the limits on the derived network's cost.
    limits : Limits
    evolvable : Evolvable or None
        The supernet as one whose members are run one at a time.
    execution : Execution
        What its members compute in where they are run one at a time.
    """

    name: str
    record: dict[str, Any] | None
    supernet: Any
    pretrained: bool
    recalibrated: bool
    before: Architecture
    budget: Any = None
    limits: Limits = field(default_factory=Limits)
    evolvable: Any = None
    execution: Execution = FLOAT32


@dataclass(frozen=True)
class Found:
    """The best search, and what it was started from and worked on.

    Attributes
    ----------
    start : Candidate
    search : Search
    task : SearchTask
    compared_on : torch.Tensor of int64
        Positions, among the target's images, of those that architectures were compared on.
    """

    start: Candidate
    search: Search
    task: SearchTask
    compared_on: Tensor

    @property
    def history(self) -> list[HistoryRow]:
        """Rows of the search; none where there was but one architecture."""
        return self.search.history if self.search.searches else []


def candidates_of(
    sources: Sequence[Source],
    family: Family,
    seen: NetworkInput,
    target: Target,
    limits: Limits,
    execution: Execution,
    run: Run,
    along_paths: Execution = FLOAT32,
) -> list[Candidate]:
    """Build the supernets to search, all before the first search, so bad files show early.

    Parameters
    ----------
    sources : sequence of Source
        Without any, the supernet starts from random weights, with the sizes of the family.
    family : Family
    seen : NetworkInput
    target : Target
    limits : Limits
    execution : Execution
        How supernets are run as a whole.
    run : Run
    along_paths : Execution
        What their members compute in where they are run one at a time.
    """
    starts: list[tuple[str, dict[str, Any] | None, tuple[Any, Mapping[str, Tensor]] | None]]
    starts = [
        (
            source.name,
            {"weights_sha256": source.weights_sha256, "trained_on": source.trained_on},
            (source.config, source.state_dict()),
        )
        for source in sources
    ]
    candidates = []
    for name, record, source in starts or [("scratch", None, None)]:
        supernet = starting_supernet(family, seen, target.n_classes, run.draw_seed(), source)
        budget = family.budget(supernet.config, seen, target.n_classes, limits)
        before = family.unsearched(supernet, budget, seen)
        supernet.place(target.device, execution)
        pretrained = source is not None
        recalibrated = pretrained and not family.keeps_statistics
        evolvable = family.evolvable(supernet, seen, target.n_classes)
        candidates.append(
            Candidate(
                *(name, record, supernet, pretrained, recalibrated, before, budget, limits),
                *(evolvable, along_paths),
            )
        )
    return candidates


def search_best(
    candidates: Sequence[Candidate],
    target: Target,
    method: SearchMethod,
    batch_size: int,
    run: Run,
    time_limit: float | None = None,
) -> Found:
    """Search from every candidate and return the best on validation data.

    Parameters
    ----------
    candidates : sequence of Candidate
        At least one; the supernets are changed in place.
    target : Target
        Split class by class, once for all candidates.
    method : SearchMethod
    batch_size : int
    run : Run
    time_limit : float, optional
        Seconds of the run's clock at which searching ends. What is left is shared equally by the
        candidates to come; the first is searched for an epoch at least, and those that no time is
        left for are passed over.
    """
    run.checkpoints.check_start((c.name, c.supernet) for c in candidates)
    searching = not run.checkpoints.stage(_DERIVATION).exists()
    if method.validation_share:
        first, second = stratified_split(target.labels, method.validation_share, run.generator)
        train, validation = target.part(first), target.part(second)
    else:
        train = validation = target.part()
        second = torch.arange(len(target.labels))
    best: Found | None = None
    for position, candidate in enumerate(candidates):
        watch = Stopwatch()
        if time_limit is not None:
            left = time_limit - run.watch.seconds
            if best is not None and left <= 0:
                logger.warning("No time for %d of the sources.", len(candidates) - position)
                break
            watch = Stopwatch(max(left, 0.0) / (len(candidates) - position))
        if candidate.recalibrated:
            run.recalibrate(candidate.supernet, train, batch_size)
        task = SearchTask(
            *(train, validation, batch_size, run.generator, target.class_weight),
            *(candidate.budget, candidate.limits, candidate.evolvable, candidate.execution),
        )
        search = method.start(candidate.supernet, task)
        checkpoint = run.checkpoints.stage(f"search-{position}")
        saved = checkpoint.load()
        if saved is None and not searching and method.n_epochs:
            break  # passed over for want of time
        if saved is not None:
            search.load_state(*saved)
            watch.start -= sum(row["seconds"] for row in search.history)
            if searching:  # a warning, so that whoever calls the command again sees it
                logger.warning("the search goes on from epoch %d", search.epoch + 1)
        stage = f"search from {candidate.name}"
        shown = stage if search.searches else f"probe of {candidate.name}"
        with run.progress.stage(stage, method.n_epochs, shown) as advance:

            def on_epoch(search, advance=advance, checkpoint=checkpoint) -> None:
                checkpoint.save(*search.state())
                advance(search.history[-1])

            for row in search.history:
                advance(row)
            if searching:
                search.run(stopwatch=watch, on_epoch=on_epoch)
        if best is None or search.validation_accuracy > best.search.validation_accuracy:
            best = Found(candidate, search, task, second)
    if best is None:
        raise ValueError("There is no candidate to search from.")
    return best


def derive(
    found: Found, method: SearchMethod, family: Family, run: Run, time_limit: float | None = None
) -> Architecture:
    """Choose the architecture; a fit that goes on takes the one that it has chosen before.

    Parameters
    ----------
    found : Found
    method : SearchMethod
    family : Family
    run : Run
    time_limit : float, optional
        Seconds of the run's clock at which a choice that takes long is cut short.
    """
    search, checkpoint = found.search, run.checkpoints.stage(_DERIVATION)
    if (saved := checkpoint.load()) is not None:
        return _restored(search, family, *saved)
    watch = None if time_limit is None else Stopwatch(time_limit - run.watch.seconds)
    architecture = method.derive(search, found.task, watch)
    tensors = {f"supernet.{key}": value for key, value in search.supernet.state_dict().items()}
    tensors["generator"] = search.generator.get_state()
    checkpoint.save(tensors, {"architecture": architecture.to_dict(), "history": search.history})
    return architecture


def _restored(
    search: Search, family: Family, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Architecture:
    """Return the architecture that was derived, and leave the search as it was then."""
    search.supernet.load_state_dict(
        {key.removeprefix("supernet."): value for key, value in tensors.items() if "." in key}
    )
    search.generator.set_state(tensors["generator"])
    search.history = state["history"]
    return family.read_architecture(state["architecture"])
