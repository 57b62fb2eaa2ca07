"""Accuracies of members of a supernet, several at once.

A member is scored on held-out images after its batch norms have been given the statistics of its
own activations on training images: reset, and averaged over batches with equal weights, as in Guo
et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling" (ECCV 2020), section
3.4; there the average is exponential.

What a layer computes, and so the statistics of its activations, depends on the layers before it
alone. Members are therefore walked together as a tree of their first parts, and what several have
in common is computed once, with the same result as one member after another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..training.batches import LabelledImages, balanced_batches
from ..training.execution import FLOAT32, Execution
from ..training.probes import linear_probe
from .protocols import Architecture, Evolvable, Step

__all__ = ["Score", "Scorer"]

A = TypeVar("A", bound=Architecture)

_RECALIBRATION_BATCH = 64
_BATCH = 256


class Score(NamedTuple):
    """What a member is worth.

    Attributes
    ----------
    accuracy : float
    loss : float
        By which equal accuracies are told apart.
    """

    accuracy: float
    loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """The larger, the better."""
        return self.accuracy, -self.loss


@dataclass
class _Node:
    """A part with what comes before it, and the statistics of its batch norms there."""

    module: nn.Module
    children: dict[object, _Node] = field(default_factory=dict)
    members: list[int] = field(default_factory=list)  # that end here

    def __post_init__(self) -> None:
        self.norms = [
            m
            for m in self.module.modules()
            if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None
        ]
        self._statistics = [
            tuple(torch.full_like(t, start) for t, start in ((mean, 0.0), (variance, 1.0)))
            for mean, variance in map(_running, self.norms)
        ]

    def run(self, x: Tensor, momentum: float | None = None) -> Tensor:
        """Output; with a momentum, that of the batch's own statistics, which are averaged."""
        for norm, (mean, variance) in zip(self.norms, self._statistics, strict=True):
            norm.running_mean, norm.running_var = mean, variance
            norm.training = momentum is not None
            norm.momentum = momentum
        return self.module(x)


class Scorer(Generic[A]):
    """Scores members of a supernet as it is at the time.

    Parameters
    ----------
    supernet : Evolvable
        Left as it is.
    train, validation : LabelledImages
        Images for the statistics of batch norms, and images to compare on.
    seed : int
        Of the training images that are drawn for the statistics: the same for every member.
    n_recalibration : int
        How many, about.
    probe : bool
        Whether a member counts by a linear model of its features, each validation image left out
        in turn; else by its own classifier.
    execution : Execution
        What members compute in.
    """

    def __init__(
        self,
        supernet: Evolvable[A],
        train: LabelledImages,
        validation: LabelledImages,
        *,
        seed: int,
        n_recalibration: int = 1280,
        probe: bool = False,
        execution: Execution = FLOAT32,
    ) -> None:
        self.supernet, self.train, self.validation = supernet, train, validation
        self.seed, self.n_recalibration, self.probe = seed, n_recalibration, probe
        self.execution = execution

    @torch.no_grad()
    def __call__(self, architectures: Sequence[A]) -> list[Score]:
        """Return the score of each architecture."""
        if not architectures:
            return []
        roots: dict[object, _Node] = {}
        for place, architecture in enumerate(architectures):
            steps = self.supernet.steps(architecture)
            _grow(roots, steps[:-1] if self.probe else steps, place)
        device = self.validation.labels.device
        with _left_as_they_are(roots.values()), self.execution.autocast(device):
            for count, index in enumerate(self._recalibration_batches()):
                _recalibrate(roots.values(), self.train.images.clean(index), 1 / (count + 1))
            if self.probe:
                return self._probed(roots, len(architectures))
            return self._classified(roots, len(architectures))

    def _recalibration_batches(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        device = self.train.images.index_device
        batches = balanced_batches(len(self.train), _RECALIBRATION_BATCH, generator, device)
        return batches[: max(1, round(self.n_recalibration / _RECALIBRATION_BATCH))]

    def _classified(self, roots: dict[object, _Node], n: int) -> list[Score]:
        device = self.validation.labels.device
        losses, hits = torch.zeros(n, device=device), torch.zeros(n, device=device)
        for index in torch.arange(len(self.validation)).split(_BATCH):
            labels = self.validation.labels_at(index)
            for members, scores in _outputs(roots.values(), self.validation.images.clean(index)):
                scores = scores.float()
                losses[members] += F.cross_entropy(scores, labels, reduction="sum")
                hits[members] += (scores.argmax(1) == labels).sum()
        total = len(self.validation)
        return [
            Score(hit / total, loss / total)
            for hit, loss in zip(hits.tolist(), losses.tolist(), strict=True)
        ]

    def _probed(self, roots: dict[object, _Node], n: int) -> list[Score]:
        labels = self.validation.labels.cpu()
        index = (labels.bincount()[labels] > 1).nonzero()[:, 0]  # of classes to leave one out of
        if len(labels[index].unique()) < 2:
            return [Score(0.0, 1.0)] * n
        features: list[list[Tensor]] = [[] for _ in range(n)]
        for batch in index.split(_BATCH):
            for members, output in _outputs(roots.values(), self.validation.images.clean(batch)):
                for member in members:
                    features[member].append(output.float().cpu())
        return [_probe(torch.cat(f), labels[index]) for f in features]


def _probe(features: Tensor, labels: Tensor) -> Score:
    if not features.isfinite().all():
        return Score(0.0, torch.inf)
    accuracy = linear_probe(features.numpy(), labels.numpy())
    return Score(accuracy, 1 - accuracy)


def _running(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var


def _grow(nodes: dict[object, _Node], steps: Sequence[Step], member: int) -> None:
    """Add the parts of a member to a tree."""
    for step in steps:
        if step.key not in nodes:
            nodes[step.key] = _Node(step.module)
        node = nodes[step.key]
        nodes = node.children
    node.members.append(member)


def _recalibrate(nodes: Iterable[_Node], x: Tensor, momentum: float) -> None:
    for _ in _walk(nodes, x, momentum):
        pass


def _outputs(nodes: Iterable[_Node], x: Tensor) -> Iterator[tuple[list[int], Tensor]]:
    """Yield members with their output."""
    for node, output in _walk(nodes, x):
        if node.members:
            yield node.members, output


def _walk(
    nodes: Iterable[_Node], x: Tensor, momentum: float | None = None
) -> Iterator[tuple[_Node, Tensor]]:
    """Run a tree, and yield its nodes with their output; it may be deeper than calls can be."""
    waiting = [(node, x) for node in reversed([*nodes])]
    while waiting:
        node, x = waiting.pop()
        output = node.run(x, momentum)
        yield node, output
        waiting += [(child, output) for child in reversed(node.children.values())]


def _all(nodes: Iterable[_Node]) -> Iterator[_Node]:
    waiting = [*nodes]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.children.values()


@contextlib.contextmanager
def _left_as_they_are(nodes: Iterable[_Node]) -> Iterator[None]:
    """Put modules into evaluation mode, and modes and statistics back afterwards."""
    modules = {m: m.training for node in _all(nodes) for m in node.module.modules()}
    norms = {
        norm: (norm.running_mean, norm.running_var, norm.num_batches_tracked, norm.momentum)
        for node in _all(nodes)
        for norm in node.norms
    }
    for module in modules:
        module.training = False
    for norm in norms:
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for module, training in modules.items():
            module.training = training
        for norm, state in norms.items():
            norm.running_mean, norm.running_var, norm.num_batches_tracked, norm.momentum = state
