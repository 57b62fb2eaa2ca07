"""Choosing members of an elastic supernet for a target by linear probes, without training.

The features of every member that may be chosen are computed once, and a linear classifier of them
says, by leaving out each image in turn, what they are worth. Of members whose batch-norm statistics
the supernet keeps this takes a fraction of a second each.

At equal cost the shapes of members hardly matter, so there are few of them to compare; searching
the whole space would need statistics for whatever is found there, which a few hundred images of a
target cannot give. Where fewer pixels alone bring the cost down far enough, nothing is compared:
the whole network goes on from what it learned at all pixels, and was ahead of a member of another
shape on eight targets on average (`benchmarks/README.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...parameters import Constraint, Real, Whole
from ...search.evolution import Evolution
from ...search.latency import check_unit, measured_seconds
from ...search.limits import Limits
from ...search.loop import SearchLoop
from ...search.method import SearchMethod, SearchTask
from ...training.clock import Stopwatch
from ...training.devices import placed
from ...training.execution import fast_inference
from ...training.history import HistoryRow
from ...training.probes import linear_head, linear_probe, subset
from .costs import Costs
from .space import ElasticArchitecture
from .supernet import ElasticConfig, ElasticSupernet

__all__ = [
    "SEARCHES",
    "Front",
    "MemberSearch",
    "Members",
    "Probe",
    "RandomMember",
    "as_members",
    "choices",
    "to_compare",
]

_BATCH = 64
_MOST_PROBED = 1000  # images by which members are compared
_MOST_IN_HEADS = 4000  # images that the first classifiers of those taught are fitted to
_STEP = 4  # pixels between the sizes of the largest member
_NEARLY = 2 / 3  # of the dearest one's cost, that the largest at fewer pixels must have
_FRONT = 0.5  # most of the largest member's cost that the first member of a front may have


@dataclass(frozen=True)
class Members:
    """What can be chosen.

    Attributes
    ----------
    largest : ElasticArchitecture
        The whole network at the size of the images.
    costs : dict of ElasticArchitecture to Costs
        Of all members, and of the largest.
    limits : Limits
    build : callable or None
        Builds the network of a member, of random weights; needed where latency is limited.
    """

    largest: ElasticArchitecture
    costs: dict[ElasticArchitecture, Costs]
    limits: Limits = field(default_factory=Limits)
    build: Callable[[ElasticArchitecture], Any] | None = None

    def __post_init__(self) -> None:
        if not self.within(self.limits):
            nearest = min(self.costs.values(), key=self._excess)
            raise ValueError(
                "No member of the supernet keeps the limits: the nearest has "
                f"{nearest.macs:,} multiply-accumulates and {nearest.parameters:,} parameters; "
                f"the limits are max_macs={self.limits.max_macs} and "
                f"max_parameters={self.limits.max_parameters}."
            )

    def within(self, limits: Limits) -> list[ElasticArchitecture]:
        """Members that keep limits, the most expensive first."""
        found = [member for member, cost in self.costs.items() if limits.keep(*cost)]
        return sorted(found, key=lambda member: self.costs[member], reverse=True)

    def near(self, found: Sequence[ElasticArchitecture], share: float) -> list[ElasticArchitecture]:
        """Of members, the dearest first, those of at least a share of its cost."""
        least = share * self.costs[found[0]].macs
        return [member for member in found if self.costs[member].macs >= least]

    def is_whole(self, member: ElasticArchitecture) -> bool:
        """Whether it is the largest, at any size."""
        return member.stages == self.largest.stages

    def in_time(self, member: ElasticArchitecture) -> bool:
        """Whether a member keeps the limit on latency, if there is one, once it is built."""
        latency, device = self.limits.max_latency, torch.device(self.limits.device)
        if latency is None or latency.seconds is None or self.build is None:
            return True
        network = placed(self.build(member), device)
        side = self.largest.size  # of the images, which a network makes smaller itself
        shape = (network.config.input_channels, side, side)
        return measured_seconds([network], shape, latency, device)[0] <= latency.seconds

    def _excess(self, cost: Costs) -> tuple[float, Costs]:
        """How many times the limits a cost is."""
        most = (self.limits.max_macs, self.limits.max_parameters)
        return max(c / limit for c, limit in zip(cost, most, strict=True) if limit), cost


class MemberSearch(SearchLoop):
    """One pass over the images that compares members.

    Parameters
    ----------
    supernet : ElasticSupernet
        Left as it is.
    task : SearchTask
        With `Members` as its budget, or None where there is no choice.
    groups : sequence of sequence of ElasticArchitecture
        From each, the best is chosen; of the first, it is the architecture of the fit.
    taught : bool
        Whether the largest member is trained first, to teach what is chosen.

    Attributes
    ----------
    members : list of ElasticArchitecture
        Those to train, the teacher first.
    heads : list of tuple of torch.Tensor
        Weight and bias of a classifier for each.
    scores : dict of ElasticArchitecture to float
        Accuracy of a linear probe.
    deviation : torch.Tensor of shape (features,)
        Of the first member's features, where it teaches others.
    """

    supernet: ElasticSupernet

    def __init__(
        self,
        supernet: ElasticSupernet,
        task: SearchTask,
        groups: Sequence[Sequence[ElasticArchitecture]],
        taught: bool,
    ) -> None:
        super().__init__(supernet, 1, task.generator)
        self.train, self.groups, self.taught = task.train, groups, taught
        self.searches = any(len(group) > 1 for group in groups)
        self.class_weight = task.class_weight
        self.members: list[ElasticArchitecture] = []
        self.heads: list[tuple[Tensor, Tensor]] = []
        self.scores: dict[ElasticArchitecture, float] = {}
        self.chosen: list[ElasticArchitecture] = []
        self.deviation = torch.ones(supernet.config.space.backbone.features)

    def run_epoch(self) -> HistoryRow:
        """Compare the members, and fit a first classifier to the features of those taught."""
        watch = Stopwatch()
        labels = self.train.labels.cpu()
        repeated = (labels.bincount()[labels] > 1).nonzero()[:, 0]  # of classes to leave one out of
        probed = repeated[subset(labels[repeated], _MOST_PROBED, self.generator)]
        for member in dict.fromkeys(m for group in self.groups for m in group):
            self.scores[member] = self._score(member, probed)
        self.chosen = [max(group, key=self.scores.__getitem__) for group in self.groups if group]
        first = [self._largest()] if self.taught else []
        self.members = list(dict.fromkeys([*first, *self.chosen]))
        seen = subset(labels, _MOST_IN_HEADS, self.generator)
        n_classes, class_weight = self.supernet.config.n_classes, None
        if self.class_weight is not None:
            class_weight = self.class_weight.double().cpu().numpy()
        for place, member in enumerate(self.members):
            if len(self.members) > 1:
                features = self._features(member, seen)
                if place == 0:
                    self.deviation = torch.from_numpy(features.std(axis=0)).clamp(min=1e-3)
                else:
                    head = linear_head(features, labels[seen].numpy(), n_classes, class_weight)
                    self.heads.append(head)
            if member not in self.scores:
                self.scores[member] = self._score(member, probed)
        self.epoch += 1
        row: HistoryRow = {
            "stage": "search",
            "epoch": self.epoch,
            "validation_accuracy": self.scores[self.chosen[0]],
            "candidates": len({m for group in self.groups if len(group) > 1 for m in group}),
            "seconds": watch.seconds,
        }
        self.history.append(row)
        return row

    def derive(self, stopwatch: Stopwatch | None = None) -> ElasticArchitecture:
        """Return the best of the first group."""
        return self.chosen[0]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As `SearchLoop.state`, with what was chosen."""
        tensors, state = super().state()
        tensors["deviation"] = self.deviation
        for index, (weight, bias) in enumerate(self.heads):
            tensors |= {f"head.{index}.weight": weight, f"head.{index}.bias": bias}
        state["members"] = [member.to_dict() for member in self.members]
        state["chosen"] = [member.to_dict() for member in self.chosen]
        state["scores"] = [[member.to_dict(), score] for member, score in self.scores.items()]
        return tensors, state

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        super().load_state(tensors, state)
        read = ElasticArchitecture.from_dict
        self.members = [read(member) for member in state["members"]]
        self.chosen = [read(member) for member in state["chosen"]]
        self.scores = {read(member): score for member, score in state["scores"]}
        self.deviation = tensors["deviation"]
        self.heads = [
            (tensors[f"head.{index}.weight"], tensors[f"head.{index}.bias"])
            for index in range(len(self.members) - 1)
        ]

    def _largest(self) -> ElasticArchitecture:
        return self.supernet.config.space.largest.at(self.train.images.shape[-1])

    def _score(self, member: ElasticArchitecture, index: Tensor) -> float:
        """Accuracy of a linear probe; 0 where there is nothing to tell apart."""
        labels = self.train.labels.cpu()[index]
        if len(labels.unique()) < 2:
            return 0.0
        return linear_probe(self._features(member, index), labels.numpy())

    @torch.no_grad()
    def _features(self, member: ElasticArchitecture, index: Tensor) -> np.ndarray:
        """Pooled features (n, d) of a member."""
        self.supernet.eval()
        device = self.train.labels.device
        found = []
        for batch in index.split(_BATCH):
            with fast_inference(device).autocast(device):
                features = self.supernet.features(self.train.images.clean(batch), member)
            found.append(features.float().cpu())
        return torch.cat(found).numpy()


class _MemberMethod(SearchMethod):
    """A choice of members that takes one pass over the images."""

    @property
    def limited(self) -> bool:
        return True

    @property
    def n_epochs(self) -> int:
        return 1

    @property
    def validation_share(self) -> float:
        return 0.0

    def derive(
        self, search: MemberSearch, task: SearchTask, stopwatch: Stopwatch | None = None
    ) -> ElasticArchitecture:
        """Return the architecture."""
        return search.derive(stopwatch)


def as_members(search: Any, architecture: ElasticArchitecture) -> MemberSearch:
    """Return a search of members as it is, and of another the choice of what it has found.

    The supernet then keeps the statistics of the architecture on the images of the search.
    """
    if isinstance(search, MemberSearch):
        return search
    supernet, task = search.searched_supernet(), search.task
    whole = supernet.config.space.is_whole(architecture)
    if not whole and architecture not in supernet.config.members:
        supernet.add_member(architecture, task.train.images, search.generator)
    chosen = MemberSearch(supernet, task, [[architecture]], taught=not whole)
    chosen.run_epoch()
    return chosen


def choices(config: ElasticConfig, size: int) -> list[ElasticArchitecture]:
    """List what can be chosen for images of a side.

    The largest member, at that size and in steps at smaller ones, and those members that have
    statistics. None is of more pixels than the images have, unless all are.
    """
    sizes = sorted({member.size for member in config.members})
    most = max([size, *sizes[:1]])
    between = range(min([size, *sizes]), size, _STEP)
    whole = [config.space.largest.at(side) for side in {*between, size}]
    return [
        *sorted(whole, key=lambda member: -member.size),
        *(member for member in config.members if member.size <= most),
    ]


def _members(supernet: ElasticSupernet, task: SearchTask) -> Members:
    """What a search may choose from; without limits, what the supernet has."""
    if task.budget is not None:
        return task.budget
    size = task.train.images.shape[-1]
    costs = {member: supernet.costs(member) for member in choices(supernet.config, size)}
    return Members(supernet.config.space.largest.at(size), costs)


def _within(
    members: Members, supernet: ElasticSupernet, task: SearchTask
) -> list[ElasticArchitecture]:
    """Members that keep the limits, that on latency when they are built; dearest first."""
    within, latency = members.within(members.limits), task.limits.max_latency
    if latency is None or latency.seconds is None:
        return within
    networks = [supernet.network(member) for member in within]
    shape, device = task.train.images.shape, supernet.classifier.weight.device
    times = measured_seconds(networks, shape, latency, device)
    check_unit(latency, max(times))
    fast = [m for m, seconds in zip(within, times, strict=True) if seconds <= latency.seconds]
    if not fast:
        raise ValueError(
            f"max_latency={latency.seconds:g} cannot be met: of the members that keep the other "
            f"limits, the fastest takes {min(times):.3g} seconds for a batch of "
            f"{latency.batch_size}. Raise the limit."
        )
    return fast


def to_compare(
    within: Sequence[ElasticArchitecture], members: Members, least_share: float = 0.0
) -> list[ElasticArchitecture]:
    """Return those to compare: the largest at fewer pixels, or other members.

    Those within the limits are given, the dearest first. Others cost at least that share of it.
    """
    whole = next(filter(members.is_whole, within), None)
    if whole is not None and whole in members.near(within, _NEARLY):
        return [whole]
    return [member for member in members.near(within, least_share) if not members.is_whole(member)]


class _OneMember(_MemberMethod):
    """The largest member or, under limits, another one, which the largest teaches."""

    constraints: ClassVar[Mapping[str, Constraint]] = {}

    def start(self, supernet: ElasticSupernet, task: SearchTask) -> MemberSearch:
        """Begin the choice."""
        members = _members(supernet, task)
        within = _within(members, supernet, task)
        if members.largest in within:
            return MemberSearch(supernet, task, [[members.largest]], taught=False)
        return MemberSearch(supernet, task, [self.compared(within, members, task)], taught=True)

    def compared(
        self, within: list[ElasticArchitecture], members: Members, task: SearchTask
    ) -> list[ElasticArchitecture]:
        """Return those to compare of the members within the limits, the dearest first."""
        raise NotImplementedError


class Probe(_OneMember):
    """The largest member or, under limits, the one whose features a linear classifier does best on.

    Where the largest keeps the limits at fewer pixels, and costs two thirds of the most expensive
    member within them, it is taken without a comparison. Members that cost less than half of that
    one are left out. The largest is trained first and teaches the chosen one.
    """

    name = "probe"

    def compared(
        self, within: list[ElasticArchitecture], members: Members, task: SearchTask
    ) -> list[ElasticArchitecture]:
        """Return the largest at fewer pixels, or those of at least half of the dearest's cost."""
        return to_compare(within, members, 0.5)


class Front(_MemberMethod):
    """A few members along the front of accuracy against cost, which the largest teaches.

    Parameters
    ----------
    validation_fraction : float > 0 and < 1, default=0.2
        Share of each class that is not trained on, and that the accuracies of the front are
        measured on.
    n_members : int >= 1 and <= 8, default=3
        How many beside the largest: at most a half, a quarter and an eighth of its cost.
    """

    name = "front"
    constraints: ClassVar[Mapping[str, Constraint]] = {
        "validation_fraction": Real(0, 1),
        "n_members": Whole(1, 8),
    }

    def __init__(self, *, validation_fraction=0.2, n_members=3):
        self.validation_fraction = validation_fraction
        self.n_members = n_members

    @property
    def validation_share(self) -> float:
        return float(self.validation_fraction)

    @property
    def holds_out(self) -> bool:
        return True

    def start(self, supernet: ElasticSupernet, task: SearchTask) -> MemberSearch:
        """Begin the choice."""
        members = _members(supernet, task)
        within = _within(members, supernet, task)
        first = [members.largest] if members.largest in within else within
        groups, most = [to_compare(first, members)], members.costs[members.largest].macs
        for share in (_FRONT / 2**place for place in range(int(self.n_members))):
            group = [m for m in within if share / 2 < members.costs[m].macs / most <= share]
            groups.append(to_compare(group, members) if group else [])
        return MemberSearch(supernet, task, groups, taught=True)


class RandomMember(_OneMember):
    """A baseline: a member drawn at random, of three quarters of the dearest one's cost or more."""

    name = "random"

    def compared(
        self, within: list[ElasticArchitecture], members: Members, task: SearchTask
    ) -> list[ElasticArchitecture]:
        """Draw one of the members; the largest at fewer pixels only where there is no other."""
        shapes = [member for member in within if not members.is_whole(member)] or within
        near = members.near(shapes, 0.75)
        return [near[int(torch.randint(len(near), (), generator=task.generator))]]


SEARCHES = {
    "probe": Probe,
    "front": Front,
    "random": RandomMember,
    "evolution": partial(Evolution, score="probe", epochs=0),
}
"""Searches of elastic supernets by name."""
