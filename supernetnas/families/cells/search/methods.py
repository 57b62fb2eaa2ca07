"""The searches of cells as values: what the ``search`` of a fit can be.

Each names its paper where it is implemented; here are their parameters, by the names that users
write, and what follows from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ....parameters import NOTHING, AnyOf, Constraint, OneOf, Real, Whole
from ....search.method import SearchMethod, SearchTask
from ....search.stopping import EigenvalueRise, Plateau, Settled, StoppingRule
from ....training.batches import LabelledImages
from ....training.clock import Stopwatch
from ...evolutions import EVOLUTIONS
from ..genotype import Genotype
from ..supernet import CellSupernet
from .bilevel import BilevelSearch
from .budget import Budget
from .derivation import PerturbationDerivation
from .diagnostics import warn_of_collapse
from .dirichlet import DirichletSearch
from .eigenvalue import dominant_eigenvalue
from .gumbel import GumbelSearch
from .partial_channels import PartialChannelSearch
from .random_search import RandomChoice, SharedWeightsSearch, Unsearched
from .second_order import SecondOrderSearch
from .weight_training import SearchSettings

__all__ = [
    "DARTS",
    "GDAS",
    "PCDARTS",
    "SEARCHES",
    "AlphaSearch",
    "DrNAS",
    "NoSearch",
    "Radii",
    "RandomArchitecture",
    "RandomSearch",
    "SmoothDARTS",
    "make_search",
]

_EPOCHS: dict[str, Constraint] = {
    "epochs": Whole(0),
    "learning_rate": Real(),
    "validation_fraction": Real(0, 1),
    "patience": AnyOf(Whole(1), NOTHING),
}


class Radii:
    """First and limiting radius of a perturbation."""

    def allows(self, value: Any) -> bool:
        """Whether a parameter may have the value."""
        try:
            radii = np.asarray(value, dtype=float)
        except (TypeError, ValueError):
            return False
        fine = radii.shape == (2,) and bool(np.isfinite(radii).all())
        return fine and bool((radii >= 0).all())

    def __str__(self) -> str:
        return "two floats >= 0"


class _EpochSearch(SearchMethod):
    """A search that goes over the images in epochs."""

    epochs: int
    validation_fraction: float
    stopping: str
    patience: int | None

    @property
    def n_epochs(self) -> int:
        return int(self.epochs)

    @property
    def validation_share(self) -> float:
        return float(self.validation_fraction)

    def rule(self) -> StoppingRule:
        """What ends the search before its last epoch."""
        if self.stopping == "eigenvalue":
            return EigenvalueRise(dominant_eigenvalue)
        patience = None if self.patience is None else int(self.patience)
        return Settled(patience) if self.stopping == "settled" else Plateau(patience)


class AlphaSearch(_EpochSearch):
    """A search that trains alphas and weights in turn, and derives the genotype from the alphas."""

    budgets: ClassVar[bool] = False
    learning_rate: float
    alpha_learning_rate: float
    alpha_scale: float
    derivation: str
    derivation_epochs: int
    constraints: ClassVar[Mapping[str, Constraint]] = {
        **_EPOCHS,
        "alpha_learning_rate": Real(),
        "alpha_scale": Real(0, 1, "both"),
        "stopping": OneOf("plateau", "settled", "eigenvalue"),
        "derivation": OneOf("argmax", "perturbation"),
        "derivation_epochs": Whole(0),
    }

    def __init__(
        self,
        epochs=6,
        *,
        learning_rate=0.05,
        alpha_learning_rate=0.003,
        alpha_scale=1.0,
        validation_fraction=0.4,
        stopping="plateau",
        patience=3,
        derivation="argmax",
        derivation_epochs=1,
    ):
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.alpha_learning_rate = alpha_learning_rate
        self.alpha_scale = alpha_scale
        self.validation_fraction = validation_fraction
        self.stopping = stopping
        self.patience = patience
        self.derivation = derivation
        self.derivation_epochs = derivation_epochs

    @property
    def limited(self) -> bool:
        return self.budgets and self.derivation == "argmax"

    def settings(self, batch_size: int) -> SearchSettings:
        """Numbers of the search."""
        return SearchSettings(
            epochs=self.n_epochs,
            batch_size=batch_size,
            learning_rate=self.learning_rate,
            alpha_learning_rate=self.alpha_learning_rate,
            perturbation="none",
        )

    def start(self, supernet: CellSupernet, task: SearchTask) -> BilevelSearch:
        """Begin a search of a supernet, which will be changed in place."""
        if self.n_epochs:
            with torch.no_grad():
                for alphas in supernet.alpha_parameters():
                    alphas.mul_(self.alpha_scale)
        return make_search(
            self.name,
            *(supernet, task.train, task.validation),
            settings=self.settings(task.batch_size),
            generator=task.generator,
            class_weight=task.class_weight,
            budget=task.budget,
            stopping=self.rule(),
        )

    def derive(
        self, search: BilevelSearch, task: SearchTask, stopwatch: Stopwatch | None = None
    ) -> Genotype:
        """Choose the genotype, within the budget if there is one.

        Warns
        -----
        SearchCollapseWarning
            If the search has filled the normal cell with skip connections and they are kept.
        """
        if task.budget is None and self.derivation == "perturbation":
            return PerturbationDerivation(search, int(self.derivation_epochs)).run(stopwatch)
        if task.budget is None:
            genotype = search.derive(stopwatch)
        else:
            genotype = task.budget.derive(search.supernet.operation_weights())
        warn_of_collapse(search.supernet, genotype, within_budget=task.budget is not None)
        return genotype


class SmoothDARTS(AlphaSearch):
    """SmoothDARTS: alphas and weights in turn, the weights under perturbed operation weights.

    Parameters
    ----------
    epochs : int >= 0, default=6
        Most passes over the images. 0 derives the architecture from the source as it is.
    learning_rate : float > 0, default=0.05
        Peak learning rate of the weights.
    alpha_learning_rate : float > 0, default=0.003
        Of the alphas.
    alpha_scale : float >= 0 and <= 1, default=1.0
        What a source's alphas are multiplied by before the first epoch. Pretraining leaves them
        decided; less than 1 makes them softer, so that a short search can still change them, and 0
        forgets them.
    validation_fraction : float > 0 and < 1, default=0.4
        Share of each class that trains the alphas. Retraining uses all images.
    perturbation : {"random", "adversarial", "none"}, default="random"
        SDARTS-RS, SDARTS-ADV (some three times slower), or none, which is DARTS.
    perturbation_radius : two floats >= 0, default=(0.03, 0.3)
        First and limiting radius of the perturbation.
    stopping : {"plateau", "settled", "eigenvalue"}, default="plateau"
        What ends a search before its last epoch. "plateau": the validation accuracy has not risen
        for ``patience`` epochs; "settled": nor has the genotype changed in them; "eigenvalue": the
        alphas' dominant eigenvalue has risen (RobustDARTS), which takes back the epochs since. The
        latter is for searches of some thirty epochs and more.
    patience : int >= 1 or None, default=3
        Epochs that "plateau" and "settled" wait; None ends no search early.
    derivation : {"argmax", "perturbation"}, default="argmax"
        How the architecture is chosen from the searched supernet: by the largest weights, or by
        the loss of validation accuracy without each operation (DARTS-PT), which is as long as a
        search of some twenty epochs.
    derivation_epochs : int >= 0, default=1
        Passes over the images between two of the 17 choices of "perturbation".

    References
    ----------
    .. [1] X. Chen, C.-J. Hsieh, "Stabilizing Differentiable Architecture Search via
       Perturbation-based Regularization", ICML 2020.
    """

    name = "sdarts"
    budgets = True
    constraints: ClassVar[Mapping[str, Constraint]] = {
        **AlphaSearch.constraints,
        "perturbation": OneOf("random", "adversarial", "none"),
        "perturbation_radius": Radii(),
    }

    def __init__(
        self,
        epochs=6,
        *,
        learning_rate=0.05,
        alpha_learning_rate=0.003,
        alpha_scale=1.0,
        validation_fraction=0.4,
        perturbation="random",
        perturbation_radius=(0.03, 0.3),
        stopping="plateau",
        patience=3,
        derivation="argmax",
        derivation_epochs=1,
    ):
        super().__init__(
            epochs,
            learning_rate=learning_rate,
            alpha_learning_rate=alpha_learning_rate,
            alpha_scale=alpha_scale,
            validation_fraction=validation_fraction,
            stopping=stopping,
            patience=patience,
            derivation=derivation,
            derivation_epochs=derivation_epochs,
        )
        self.perturbation = perturbation
        self.perturbation_radius = perturbation_radius

    def settings(self, batch_size: int) -> SearchSettings:
        """Numbers of the search."""
        first, last = self.perturbation_radius
        return replace(
            super().settings(batch_size),
            perturbation=self.perturbation,
            perturbation_radius=(float(first), float(last)),
        )


class DARTS(AlphaSearch):
    """DARTS: alphas and weights in turn.

    Parameters
    ----------
    order : {1, 2}, default=1
        Whether the alphas' gradient looks one weight step ahead (second order).
    epochs, learning_rate, alpha_learning_rate, alpha_scale, validation_fraction
        Of `SmoothDARTS`.
    stopping, patience
        Of `SmoothDARTS`.
    derivation, derivation_epochs
        Of `SmoothDARTS`.

    References
    ----------
    .. [1] H. Liu, K. Simonyan, Y. Yang, "DARTS: Differentiable Architecture Search", ICLR
       2019.
    """

    constraints: ClassVar[Mapping[str, Constraint]] = {
        **AlphaSearch.constraints,
        "order": OneOf(1, 2),
    }

    def __init__(
        self,
        epochs=6,
        *,
        order=1,
        learning_rate=0.05,
        alpha_learning_rate=0.003,
        alpha_scale=1.0,
        validation_fraction=0.4,
        stopping="plateau",
        patience=3,
        derivation="argmax",
        derivation_epochs=1,
    ):
        super().__init__(
            epochs,
            learning_rate=learning_rate,
            alpha_learning_rate=alpha_learning_rate,
            alpha_scale=alpha_scale,
            validation_fraction=validation_fraction,
            stopping=stopping,
            patience=patience,
            derivation=derivation,
            derivation_epochs=derivation_epochs,
        )
        self.order = order

    @property
    def name(self) -> str:  # type: ignore[override]
        """What stands for it."""
        return "darts" if self.order == 1 else "darts2"

    @property
    def budgets(self) -> bool:  # type: ignore[override]
        """Whether it keeps limits on the cost of the network."""
        return self.order == 1


class PCDARTS(AlphaSearch):
    """PC-DARTS: operations see one in four channels, and edges have weights of their own.

    Parameters
    ----------
    epochs, learning_rate, alpha_learning_rate, alpha_scale, validation_fraction
        Of `SmoothDARTS`.
    stopping, patience
        Of `SmoothDARTS`.
    derivation, derivation_epochs
        Of `SmoothDARTS`.

    References
    ----------
    .. [1] Y. Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture
       Search", ICLR 2020.
    """

    name = "pc_darts"


class DrNAS(AlphaSearch):
    """DrNAS: operation weights are drawn from Dirichlet distributions, in two stages.

    Parameters
    ----------
    epochs, learning_rate, alpha_learning_rate, alpha_scale, validation_fraction
        Of `SmoothDARTS`.
    stopping, patience
        Of `SmoothDARTS`.
    derivation, derivation_epochs
        Of `SmoothDARTS`.

    References
    ----------
    .. [1] X. Chen et al., "DrNAS: Dirichlet Neural Architecture Search", ICLR
       2021.
    """

    name = "drnas"


class GDAS(AlphaSearch):
    """GDAS: each forward pass runs one operation per edge, drawn by the alphas.

    Parameters
    ----------
    epochs, learning_rate, alpha_learning_rate, alpha_scale, validation_fraction
        Of `SmoothDARTS`.
    stopping, patience
        Of `SmoothDARTS`.
    derivation, derivation_epochs
        Of `SmoothDARTS`.

    References
    ----------
    .. [1] X. Dong, Y. Yang, "Searching for A Robust Neural Architecture in Four GPU Hours", CVPR
       2019.
    """

    name = "gdas"
    budgets = True


class RandomSearch(_EpochSearch):
    """The best on validation data of random architectures, under weights that they have shared.

    Parameters
    ----------
    epochs : int >= 0, default=6
        Most passes over the images, each batch along a random architecture.
    learning_rate : float > 0, default=0.05
        Peak learning rate of the weights.
    validation_fraction : float > 0 and < 1, default=0.4
        Share of each class that architectures are compared on.
    n_candidates : int >= 1, default=50
        Architectures that are compared.
    stopping : {"plateau", "settled"}, default="plateau"
        As in `SmoothDARTS`; here both are the same, since no architecture is decided on before the
        end.
    patience : int >= 1 or None, default=3
        Epochs that the rule waits; None ends no search early.

    References
    ----------
    .. [1] L. Li, A. Talwalkar, "Random Search and Reproducibility for Neural Architecture Search",
       UAI 2019.
    """

    name = "random_search"
    along_paths = True
    constraints: ClassVar[Mapping[str, Constraint]] = {
        **_EPOCHS,
        "n_candidates": Whole(1),
        "stopping": OneOf("plateau", "settled"),
    }

    def __init__(
        self,
        epochs=6,
        *,
        learning_rate=0.05,
        validation_fraction=0.4,
        n_candidates=50,
        stopping="plateau",
        patience=3,
    ):
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.n_candidates = n_candidates
        self.stopping = stopping
        self.patience = patience

    def start(self, supernet: CellSupernet, task: SearchTask) -> SharedWeightsSearch:
        """Begin a search of a supernet, which will be changed in place."""
        settings = SearchSettings(
            epochs=self.n_epochs,
            batch_size=task.batch_size,
            learning_rate=self.learning_rate,
            perturbation="none",
        )
        search = SharedWeightsSearch(
            *(supernet, task.train, task.validation, settings, task.generator),
            class_weight=task.class_weight,
            stopping=self.rule(),
        )
        search.n_candidates = int(self.n_candidates)
        return search

    def derive(
        self, search: SharedWeightsSearch, task: SearchTask, stopwatch: Stopwatch | None = None
    ) -> Genotype:
        """Compare random genotypes."""
        return search.derive(stopwatch)


class RandomArchitecture(SearchMethod):
    """An architecture drawn at random, without any search: a baseline."""

    name = "random"

    @property
    def n_epochs(self) -> int:
        return 0

    @property
    def validation_share(self) -> float:
        return 0.4  # as the searches have it, so that what follows draws the same

    def start(self, supernet: CellSupernet, task: SearchTask) -> RandomChoice:
        """Return the search that does not change the supernet."""
        return RandomChoice(supernet, task.generator)

    def derive(
        self, search: RandomChoice, task: SearchTask, stopwatch: Stopwatch | None = None
    ) -> Genotype:
        """Draw the genotype."""
        return search.derive(stopwatch)


class NoSearch(SearchMethod):
    """The architecture that the source's alphas stand for, as they are.

    All images and all of the time are left to the retraining.
    """

    name = "none"

    @property
    def limited(self) -> bool:
        return True

    @property
    def n_epochs(self) -> int:
        return 0

    @property
    def validation_share(self) -> float:
        return 0.0

    def start(self, supernet: CellSupernet, task: SearchTask) -> Unsearched:
        """Return the search that does not change the supernet."""
        return Unsearched(supernet, 0, task.generator)

    def derive(
        self, search: Unsearched, task: SearchTask, stopwatch: Stopwatch | None = None
    ) -> Genotype:
        """Return the genotype, within the budget if there is one."""
        if task.budget is None:
            return search.derive(stopwatch)
        return task.budget.derive(search.supernet.operation_weights())


SEARCHES: dict[str, Callable[[], SearchMethod]] = {
    "sdarts": SmoothDARTS,
    "darts": DARTS,
    "darts2": lambda: DARTS(order=2),
    "pc_darts": PCDARTS,
    "drnas": DrNAS,
    "gdas": GDAS,
    "none": NoSearch,
    "random": RandomArchitecture,
    "random_search": RandomSearch,
    **EVOLUTIONS,
}
"""What makes the method that a name stands for."""

_LOOPS: dict[str, Callable[..., Any]] = {
    "sdarts": BilevelSearch,
    "darts": BilevelSearch,
    "darts2": SecondOrderSearch,
    "pc_darts": PartialChannelSearch,
    "drnas": DirichletSearch,
    "gdas": GumbelSearch,
    "random_search": SharedWeightsSearch,
}


def make_search(
    method: str,
    supernet: CellSupernet,
    train: LabelledImages,
    validation: LabelledImages,
    *,
    settings: SearchSettings,
    generator: torch.Generator,
    class_weight: Tensor | None = None,
    budget: Budget | None = None,
    stopping: StoppingRule | None = None,
) -> Any:
    """Build the search of a method.

    Parameters
    ----------
    method : str
        A key of `SEARCHES` but "random", "none" and the evolutions.
    supernet, train, validation, settings, generator, class_weight, stopping
        Of `WeightTraining`. The settings' perturbation counts for "sdarts" alone.
    budget : Budget, optional
        Of `BilevelSearch`.
    """
    if method != "sdarts":
        settings = replace(settings, perturbation="none")
    return _LOOPS[method](
        *(supernet, train, validation, settings, generator),
        class_weight=class_weight,
        stopping=stopping,
        **({} if budget is None else {"budget": budget}),
    )
