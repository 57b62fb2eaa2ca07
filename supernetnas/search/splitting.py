"""Supernets that are split in their training, so that fewer architectures share each weight.

Zhao et al., "Few-shot Neural Architecture Search" (ICML 2021): once a supernet has been trained,
one layer is split into a sub-supernet for each of its choices. Each inherits all weights and goes
on training on architectures that have its choice, and an architecture is scored by the one that it
belongs to.

Hu et al., "Generalizing Few-Shot NAS with Gradient Matching" (ICLR 2022): the choices of a layer
are kept together whose gradients at the shared weights agree. Of two architectures that differ in
this layer alone, the cosine of the gradients of everything else, on one batch, says how far they
do; its mean over batches, each with random other layers, is the weight of an edge between the two
choices. The minimal cut of that graph makes two groups, and the layer is split whose cut is the
least.

Deviations. There is one split, of one layer. A cut is compared with those of other layers by the
mean of its edges, not their sum: layers may have different numbers of choices. Sub-supernets
inherit their weights, as in the first paper; those of cells start anew in the second. They take
turns, batch by batch, so that a training that is cut short has trained all of them equally.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..parameters import AnyOf, Constraint, OneOf, ParameterError, Parameters, Whole
from ..training.batch_norm import frozen_batch_norm
from .costs import Costs
from .distillation import Distillation
from .limits import Limits
from .protocols import Architecture, PathSupernet, Space, Step

__all__ = ["Groups", "Split", "SplitSupernet", "gradient_similarities", "min_cut"]

A = TypeVar("A", bound=Architecture)

Groups = Sequence[Sequence[int]]
"""The choices of a gene, each in one group."""

_LEAST = 2  # choices of a group, where there are four or more, as in the authors' code


class Split(Parameters):
    """The supernet is split at one layer during its training.

    Each part inherits the weights and goes on training on architectures that have one of its
    choices in that layer. The network of a fit inherits the weights of the part that it belongs to.

    Parameters
    ----------
    layer : int >= 0 or "auto", default="auto"
        Which layer, the first being 0: of other families than paths, which gene of their space.
        With "auto", that whose parts agree least, by their gradients.
    by : {"gradients", "choices"}, default="gradients"
        Whether there are two parts, of choices whose gradients agree most, or one for each choice.
    epochs : int >= 1, default=10
        Passes over the images after the split, of which the parts train on one batch after the
        other in turn.
    n_batches : int >= 1, default=5
        Batches that gradients are compared on, each with random other layers.

    References
    ----------
    .. [1] Yiyang Zhao et al., "Few-shot Neural Architecture Search", ICML 2021.
    .. [2] Shoukang Hu et al., "Generalizing Few-Shot NAS with Gradient Matching", ICLR 2022.
    """

    constraints: ClassVar[dict[str, Constraint]] = {
        "layer": AnyOf(Whole(0), OneOf("auto")),
        "by": OneOf("gradients", "choices"),
        "epochs": Whole(1),
        "n_batches": Whole(1),
    }

    def __init__(self, layer="auto", *, by="gradients", epochs=10, n_batches=5):
        self.layer = layer
        self.by = by
        self.epochs = epochs
        self.n_batches = n_batches

    def candidates(self, space: Space[Any]) -> list[int]:
        """Return the genes of a space that may be split.

        Raises
        ------
        ParameterError
            If there is none.
        """
        free = [gene for gene, n in enumerate(space.genes) if n > 1]
        if not free:
            raise ParameterError(
                "Split has nothing to split: every layer of this space has one choice. Leave split "
                "out, or take another space."
            )
        if self.layer == "auto":
            return free
        if self.layer not in free:
            there = "one choice there" if self.layer < len(space.genes) else "none of that number"
            raise ParameterError(
                f"The 'layer' parameter of Split is {self.layer}, and this space has {there}. "
                f'Layers that can be split are {_listed(free)}; or leave it to "auto".'
            )
        return [int(self.layer)]

    def choose(
        self,
        supernet: nn.Module,
        space: Space[A],
        distillation: Distillation[A],
        batches: Iterable[tuple[Tensor, Tensor]],
        generator: torch.Generator,
    ) -> tuple[int, Groups]:
        """Choose what to split, and into what.

        Parameters
        ----------
        supernet : torch.nn.Module
            A `PathSupernet`; left as it is.
        space : Space
        distillation : Distillation
            Whose losses have the gradients.
        batches : iterable of tuple of torch.Tensor
            Images and targets; ``n_batches`` are taken, where gradients are compared.
        generator : torch.Generator
            What architectures are drawn from.

        Returns
        -------
        gene : int
        groups : sequence of sequence of int
            Of its choices.
        """
        genes = self.candidates(space)
        every = {gene: [(choice,) for choice in range(space.genes[gene])] for gene in genes}
        if self.by == "choices" and len(genes) == 1:
            return genes[0], every[genes[0]]
        taken = (batch for _, batch in zip(range(int(self.n_batches)), batches, strict=False))
        found = gradient_similarities(supernet, space, genes, distillation, taken, generator)
        groups = every if self.by == "choices" else {gene: min_cut(m) for gene, m in found.items()}
        gene = min(genes, key=lambda gene: _between(found[gene], groups[gene]))
        return gene, groups[gene]


class SplitSupernet(nn.Module, Generic[A]):
    """Sub-supernets of the groups of a gene's choices, each with all weights of the supernet.

    Parameters
    ----------
    supernet : torch.nn.Module
        An `Evolvable`, of which each part is a copy.
    space : Space
        Of the supernet.
    gene : int
    groups : sequence of sequence of int

    Attributes
    ----------
    parts : torch.nn.ModuleList
        The sub-supernets.
    """

    def __init__(self, supernet: nn.Module, space: Space[A], gene: int, groups: Groups) -> None:
        super().__init__()
        self.space, self.gene, self.groups = space, gene, [tuple(group) for group in groups]
        if sorted(choice for group in groups for choice in group) != [*range(space.genes[gene])]:
            raise ValueError(
                f"Every choice of a gene belongs to one group; gene {gene} has "
                f"{space.genes[gene]} choices, and the groups are {groups!r:.200}."
            )
        supernet.zero_grad(set_to_none=True)  # gradients would be copied, too
        self.parts = nn.ModuleList(copy.deepcopy(supernet) for _ in groups)

    def group(self, architecture: A) -> int:
        """Return the number of the part that an architecture belongs to."""
        choice = self.space.encode(architecture)[self.gene]
        return next(place for place, group in enumerate(self.groups) if choice in group)

    def part(self, architecture: A | None) -> Any:
        """Return the sub-supernet of an architecture; of None, the first."""
        return self.parts[0 if architecture is None else self.group(architecture)]

    def forward(self, images: Tensor, architecture: A | None = None) -> Tensor:
        """Class scores of an architecture."""
        return self.part(architecture)(images, architecture)

    def features(self, images: Tensor, architecture: A | None = None) -> Tensor:
        """Pooled features of an architecture, before the classifier."""
        return self.part(architecture).features(images, architecture)

    def steps(self, architecture: A) -> Sequence[Step]:
        """Return the parts of a member; those of different sub-supernets do different work."""
        number = self.group(architecture)
        steps = self.part(architecture).steps(architecture)
        return [Step((number, key), module) for key, module in steps]

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained."""
        parts: list[Any] = [*self.parts]
        return (parameter for part in parts for parameter in part.weight_parameters())

    def space_for(self, shape: tuple[int, ...]) -> Space[A]:
        """Return what there is to choose from."""
        return self.space

    def costs(self, architecture: A) -> Costs:
        """Multiply-accumulates for one image, and parameters, of a member's network."""
        return self.part(architecture).costs(architecture)

    def cheapest(self, limits: Limits) -> A:
        """Return a member that keeps limits."""
        return self.part(None).cheapest(limits)

    def network(self, architecture: A) -> nn.Module:
        """Return a member's plain network, with a copy of its weights."""
        return self.part(architecture).network(architecture)


def gradient_similarities(
    supernet: nn.Module,
    space: Space[A],
    genes: Sequence[int],
    distillation: Distillation[A],
    batches: Iterable[tuple[Tensor, Tensor]],
    generator: torch.Generator,
) -> dict[int, np.ndarray]:
    """Say how far the choices of genes agree on how shared weights are to change.

    For each batch an architecture is drawn. Of each gene its choices are put in place, one after
    the other, and the gradients of the loss compared by their cosines, at the weights that the
    networks of all choices have.

    Parameters
    ----------
    supernet : torch.nn.Module
        A `PathSupernet`; left as it is.
    space : Space
    genes : sequence of int
    distillation : Distillation
        Whose losses have the gradients.
    batches : iterable of tuple of torch.Tensor
        Images and targets.
    generator : torch.Generator
        What architectures are drawn from.

    Returns
    -------
    dict of int to ndarray of shape (choices, choices)
        For each gene, mean cosines over the batches.
    """
    weights = [p for p in supernet.parameters() if p.requires_grad]
    sums = {gene: np.zeros((space.genes[gene],) * 2) for gene in genes}
    path_supernet, training, count = cast("PathSupernet[A]", supernet), supernet.training, 0

    def gradient(batch: tuple[Tensor, Tensor], code: Sequence[int]) -> Sequence[Tensor | None]:
        (loss,) = distillation.losses(path_supernet, *batch, [space.decode(code)])
        return torch.autograd.grad(loss, weights, allow_unused=True)

    supernet.train()
    with frozen_batch_norm(supernet):
        for batch in batches:
            drawn = tuple(int(torch.randint(n, (), generator=generator)) for n in space.genes)
            own = gradient(batch, drawn)
            for gene in genes:
                before, chosen, after = drawn[:gene], drawn[gene], drawn[gene + 1 :]
                sums[gene] += _cosines(
                    [
                        own if choice == chosen else gradient(batch, (*before, choice, *after))
                        for choice in range(space.genes[gene])
                    ]
                )
            count += 1
    supernet.train(training)
    return {gene: total / max(count, 1) for gene, total in sums.items()}


def min_cut(similarities: np.ndarray) -> Groups:
    """Divide choices into the two groups between which the sum of similarities is least.

    Of four choices and more, each group has two at least.

    Parameters
    ----------
    similarities : ndarray of shape (n, n)
        Symmetric; n is 2 at least.

    Returns
    -------
    tuple of two tuple of int
        The first has choice 0.

    Examples
    --------
    >>> import numpy as np
    >>> alike = np.array([[1, 0.1, 0.9], [0.1, 1, 0.2], [0.9, 0.2, 1]])
    >>> min_cut(alike)
    ((0, 2), (1,))
    """
    n = len(similarities)
    options = []
    for size in range(min(_LEAST, n // 2), n // 2 + 1):
        for group in combinations(range(n), size):
            others = tuple(choice for choice in range(n) if choice not in group)
            options.append((group, others) if 0 in group else (others, group))
    return min(options, key=lambda pair: similarities[np.ix_(*pair)].sum())


def _between(similarities: np.ndarray, groups: Groups) -> float:
    """Mean similarity of choices of different groups."""
    pairs = [similarities[np.ix_(*pair)].ravel() for pair in combinations(groups, 2)]
    return float(np.concatenate(pairs).mean())


def _cosines(gradients: Sequence[Sequence[Tensor | None]]) -> np.ndarray:
    """Cosines of gradients with each other, at the weights that all of them have."""
    rows: list[list[Tensor]] = [[] for _ in gradients]
    for of_one_weight in zip(*gradients, strict=True):
        present = [g.flatten() for g in of_one_weight if g is not None]
        if len(present) == len(rows):
            for row, gradient in zip(rows, present, strict=True):
                row.append(gradient)
    unit = F.normalize(torch.stack([torch.cat(row) for row in rows]).double(), dim=1)
    return (unit @ unit.T).cpu().numpy()


def _listed(places: Sequence[int]) -> str:
    """Numbers for people: those in a row as the first and the last."""
    if len(places) > 2 and list(places) == [*range(places[0], places[-1] + 1)]:
        return f"{places[0]} to {places[-1]}"
    return ", ".join(map(str, places))
