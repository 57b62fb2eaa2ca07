"""Fits with different parameters on the same splits, and which of their differences are noise.

Splits of one dataset share most of their images, so accuracies on them vary less than those on new
datasets would. The test and the intervals are therefore those of Nadeau and Bengio, "Inference for
the Generalization Error" (Machine Learning 52, 2003): a t-test over the splits, paired, whose
variance is (1 / n_splits + n_test / n_train) times that of the differences. Of several pairs,
Holm's procedure keeps the chance that any is called different by accident below one in twenty.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid, StratifiedShuffleSplit
from sklearn.utils import _safe_indexing, indexable

from .classifier import SupernetTransferClassifier
from .fitting.estimates import expected_seconds
from .fitting.progress import about
from .fitting.sources import checked
from .fitting.validation import check_parameters
from .parameters import (
    NOTHING,
    AnyOf,
    Constraint,
    Instance,
    ParameterError,
    Real,
    Whole,
    check_parameter,
)
from .storage.counting import counted

__all__ = ["Comparison", "compare"]

_LEVEL = 0.05
_CONSTRAINTS: dict[str, Constraint] = {
    "estimator": AnyOf(Instance(SupernetTransferClassifier, "SupernetTransferClassifier"), NOTHING),
    "repeats": Whole(2),
    "test_size": Real(0, 1),
    "random_state": Whole(0, 2**31),
}


@dataclass(frozen=True, eq=False)
class Comparison:
    """What candidates reached on the same splits.

    Attributes
    ----------
    names : tuple of str
        The parameters of each candidate.
    accuracies, seconds : ndarray of shape (n_candidates, n_splits)
        Of the test images of each split, and of the fit.
    n_train, n_test : int
        Images of a split.
    """

    names: tuple[str, ...]
    accuracies: np.ndarray
    seconds: np.ndarray
    n_train: int
    n_test: int
    _factor: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        factor = 1 / self.accuracies.shape[1] + self.n_test / self.n_train
        object.__setattr__(self, "_factor", factor)

    @property
    def intervals(self) -> np.ndarray:
        """Ends of the 95 % interval of each candidate's accuracy, of shape (n_candidates, 2)."""
        n_splits = self.accuracies.shape[1]
        deviation = np.sqrt(self._factor * self.accuracies.var(axis=1, ddof=1))
        half = stats.t.ppf(1 - _LEVEL / 2, n_splits - 1) * deviation
        mean = self.accuracies.mean(axis=1)
        return np.clip(np.stack([mean - half, mean + half], axis=1), 0, 1)

    @property
    def p_values(self) -> dict[tuple[str, str], float]:
        """Of each pair, the better one first: chance of such a difference by accident, adjusted."""
        found = {}
        for one, other in combinations(range(len(self.names)), 2):
            if self.accuracies[one].mean() < self.accuracies[other].mean():
                one, other = other, one
            difference = self.accuracies[one] - self.accuracies[other]
            found[self.names[one], self.names[other]] = self._p_value(difference)
        adjusted, least = {}, 0.0
        for rank, pair in enumerate(sorted(found, key=found.__getitem__)):
            least = max(least, min(1.0, (len(found) - rank) * found[pair]))
            adjusted[pair] = least
        return adjusted

    def _p_value(self, difference: np.ndarray) -> float:
        deviation = math.sqrt(self._factor * difference.var(ddof=1))
        if deviation < 1e-12:
            return 1.0 if abs(difference.mean()) < 1e-12 else 0.0
        return float(2 * stats.t.sf(abs(difference.mean()) / deviation, len(difference) - 1))

    @property
    def verdict(self) -> str:
        """Which candidates differ by more than noise, in words."""
        better = [pair for pair, p in self.p_values.items() if p < _LEVEL]
        if not better:
            return f"No difference beyond noise on {self.accuracies.shape[1]} splits."
        return " ".join(f"{one} is better than {other}." for one, other in better)

    def __str__(self) -> str:
        """Table of the candidates, the best first, and the verdict."""
        rows = [("candidate", "accuracy", "95 % interval", "seconds a fit")]
        for index in np.argsort(-self.accuracies.mean(axis=1), kind="stable"):
            low, high = self.intervals[index]
            mean, seconds = self.accuracies[index].mean(), self.seconds[index].mean()
            rows.append(
                (self.names[index], f"{mean:.3f}", f"{low:.3f} to {high:.3f}", f"{seconds:.1f}")
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows]
        return "\n".join([*(line.rstrip() for line in lines), self.verdict])


def compare(
    X,
    y,
    candidates: Sequence[str] | Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]],
    *,
    estimator: SupernetTransferClassifier | None = None,
    repeats: int = 5,
    test_size: float = 0.25,
    random_state: int = 0,
    verbose: bool = True,
) -> Comparison:
    """Fit with different parameters on the same splits, and say what their differences are worth.

    Parameters
    ----------
    X : array-like or sequence of images
        As for `SupernetTransferClassifier.fit`.
    y : array-like of shape (n,)
        Labels.
    candidates : sequence of str, or dict of str to sequence
        Strategies, such as ``["multi", "scratch"]``; or a grid of parameters as for
        `sklearn.model_selection.GridSearchCV`, such as ``{"search": ["sdarts", "none"]}``. At least
        two; ``random_state`` is none of them.
    estimator : SupernetTransferClassifier, optional
        With the parameters that all have in common; by default ``SupernetTransferClassifier()``.
    repeats : int, default=5
        Random splits, at least 2. Each candidate is fitted once on each, with the same seed.
    test_size : float, default=0.25
        Share of each class that a split measures accuracy on.
    random_state : int, default=0
        Seed of the splits and of the fits.
    verbose : bool, default=True
        Whether to tell, on the standard error, how many fits there will be and about how long they
        take (without the brief fits that may decide between starts), before the first of them, and
        what each reaches.

    Returns
    -------
    Comparison
        ``print`` shows it.

    Raises
    ------
    ValueError, TypeError
        If there are not two candidates, one has parameters that it may not have, or X and y do not
        suit; before the first fit.

    Notes
    -----
    Intervals and test are those of Nadeau and Bengio (2003), paired over the splits, with Holm's
    correction for all pairs. Few splits show large differences alone: "no difference beyond noise"
    does not mean that there is none.
    """
    given = {
        "estimator": estimator,
        "repeats": repeats,
        "test_size": test_size,
        "random_state": random_state,
    }
    for name, constraint in _CONSTRAINTS.items():
        check_parameter("compare", name, given[name], constraint)
    estimator = SupernetTransferClassifier() if estimator is None else estimator
    fits = _candidates(estimator, candidates)
    X, y = indexable(X, np.asarray(y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fits will warn
        for candidate in fits.values():
            checked(candidate, X, y)
    splitter = StratifiedShuffleSplit(repeats, test_size=test_size, random_state=random_state)
    splits = _checked_splits(splitter, y)
    if verbose:
        train = splits[0][0]
        _tell(_plan(fits, repeats, _safe_indexing(X, train), y[train]))
    accuracies, seconds = (np.zeros((len(fits), repeats)) for _ in range(2))
    for column, (train, test) in enumerate(splits):
        for row, (name, candidate) in enumerate(fits.items()):
            start = time.monotonic()
            clf = clone(candidate).set_params(random_state=random_state + column)
            clf.fit(_safe_indexing(X, train), y[train])
            seconds[row, column] = time.monotonic() - start
            accuracies[row, column] = clf.score(_safe_indexing(X, test), y[test])
            if verbose:
                _tell(f"split {column + 1}, {name}: accuracy {accuracies[row, column]:.3f}")
    return Comparison(tuple(fits), accuracies, seconds, len(splits[0][0]), len(splits[0][1]))


def _candidates(
    estimator: SupernetTransferClassifier, candidates: Any
) -> dict[str, SupernetTransferClassifier]:
    """Unfitted classifiers by their names."""
    grids = _grids(candidates)
    known = estimator.get_params(deep=False)
    for key in dict.fromkeys(key for grid in grids for key in grid):
        name = key.partition("__")[0] if isinstance(key, str) else key
        if name not in known:
            raise ValueError(
                f"candidates has the parameter {key!r}, but {type(estimator).__name__} has no "
                f"{name!r}. It has {', '.join(known)}."
            )
        if name == "random_state":
            raise ValueError(
                "candidates cannot differ in random_state: those of one split are fitted with the "
                "same seed. Pass repeats=... for more splits."
            )
    fits = {}
    for parameters in ParameterGrid(grids):
        name = ", ".join(f"{key}={value!r}" for key, value in parameters.items())
        try:
            fits[name] = clone(estimator).set_params(**parameters)
            check_parameters(fits[name])
        except (TypeError, ValueError) as error:
            raise ParameterError(f"The candidate {name}: {error}") from error
    if len(fits) < 2:
        raise ValueError(f"There must be at least two different candidates; got {candidates!r}.")
    return fits


def _grids(candidates: Any) -> list[Mapping[str, Sequence[Any]]]:
    """Return grids of parameters; refuse what is none, with what would be."""
    if isinstance(candidates, str):
        raise TypeError(f"candidates is one name, {candidates!r}. Pass a list of at least two.")
    grids = [candidates] if isinstance(candidates, Mapping) else candidates
    if isinstance(grids, Iterable):
        grids = list(grids)
        if grids and all(isinstance(one, str) for one in grids):
            grids = [{"strategy": grids}]
        if all(isinstance(grid, Mapping) for grid in grids):
            for key, values in ((key, grid[key]) for grid in grids for key in grid):
                if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
                    raise TypeError(
                        f"candidates[{key!r}] must be a list of values; got {values!r}. Of one "
                        f"value it is [{values!r}]."
                    )
                if not len(values):
                    raise ValueError(f"candidates[{key!r}] has no values.")
            return [dict(grid) for grid in grids]
    raise TypeError(
        "candidates must be names of strategies, such as ['multi', 'scratch'], or a dict of "
        "parameters to lists of their values, such as {'search': ['sdarts', 'none']}, or a list of "
        f"such dicts. Got {candidates!r}."
    )


def _checked_splits(splitter: StratifiedShuffleSplit, y: np.ndarray) -> list[tuple]:
    """Draw the splits; refuse those that a fit could not train on."""
    splits = list(splitter.split(np.zeros(len(y)), y))
    classes = np.unique(y)
    for train, _ in splits:
        rare = [c for c in classes if (y[train] == c).sum() < 2]
        if rare:
            raise ValueError(
                "A split leaves fewer than 2 images to train on of "
                f"{counted(len(rare), 'class', 'classes')}: "
                f"{', '.join(map(str, rare[:5]))}{', ...' if len(rare) > 5 else ''}. Pass more "
                "images of them, or a smaller test_size."
            )
    return splits


def _plan(
    fits: Mapping[str, SupernetTransferClassifier], repeats: int, X: Any, y: np.ndarray
) -> str:
    """Number of fits, and how long they are expected to take."""
    expected = [expected_seconds(clf, X, y) for clf in fits.values()]
    text = f"{len(fits) * repeats} fits, {len(fits)} on each of {repeats} splits"
    known = [seconds for seconds in expected if seconds is not None]
    if len(known) < len(expected):
        return text
    return f"{text}; about {about(repeats * sum(known))}"


def _tell(text: str) -> None:
    print(f"compare: {text}", file=sys.stderr, flush=True)
