"""What parameters may be: constraints that stand once, beside the parameter.

Validation, the documentation's tables and the command line read them from a class's
``constraints``. The text of a constraint is the type as a docstring has it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from sklearn.base import BaseEstimator

__all__ = [
    "FLAG",
    "NOTHING",
    "AnyOf",
    "Constraint",
    "Instance",
    "OneOf",
    "ParameterError",
    "Parameters",
    "Real",
    "Whole",
    "check_parameter",
]


_INFINITE = 2.0**128  # where float32, in which torch computes, ends


class ParameterError(ValueError, TypeError):
    """A parameter is something that it may not be."""


class Constraint(Protocol):
    """What a parameter may be; its text completes "must be"."""

    def allows(self, value: Any) -> bool:
        """Whether a parameter may have the value."""


@dataclass(frozen=True)
class Whole:
    """A whole number; a bool is none.

    Attributes
    ----------
    least, most : int or None
        Smallest and largest value; None is no end.
    even : bool
    """

    least: int
    most: int | None = None
    even: bool = False

    def allows(self, value: Any) -> bool:
        """Whether a parameter may have the value."""
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)
        if not whole or value < self.least or (self.most is not None and value > self.most):
            return False
        return not (self.even and value % 2)

    def __str__(self) -> str:
        most = "" if self.most is None else f" and <= {self.most}"
        return f"{'even ' if self.even else ''}int >= {self.least}{most}"


@dataclass(frozen=True)
class Real:
    """A finite number between two ends.

    Attributes
    ----------
    low, high : float
    closed : {"neither", "low", "high", "both"}
        Which of the ends are allowed; an end at infinity never is.
    """

    low: float = 0.0
    high: float = math.inf
    closed: str = "neither"

    def allows(self, value: Any) -> bool:
        """Whether a parameter may have the value."""
        if not isinstance(value, numbers.Real) or isinstance(value, bool | np.bool_):
            return False
        try:
            number = float(value)
        except OverflowError:  # of an int of hundreds of digits
            return False
        low = self.low <= number if self.closed in ("low", "both") else self.low < number
        high = number <= self.high if self.closed in ("high", "both") else number < self.high
        return low and high and abs(number) < _INFINITE

    def __str__(self) -> str:
        low = f"{'>=' if self.closed in ('low', 'both') else '>'} {self.low:g}"
        if math.isinf(self.high):
            return f"float {low}"
        return f"float {low} and {'<=' if self.closed in ('high', 'both') else '<'} {self.high:g}"


@dataclass(frozen=True, init=False)
class OneOf:
    """One of some names or numbers."""

    values: tuple[str | int, ...]

    def __init__(self, *values: str | int) -> None:
        object.__setattr__(self, "values", values)

    def allows(self, value: Any) -> bool:
        """Whether a parameter may have the value."""
        # A bool is no number, though it equals one; names and numbers may be NumPy's.
        kinds = str, numbers.Integral
        plain = isinstance(value, kinds) and not isinstance(value, bool | np.bool_)
        return plain and any(value == one for one in self.values)

    def __str__(self) -> str:
        listed = ", ".join(f'"{one}"' if isinstance(one, str) else str(one) for one in self.values)
        return listed if len(self.values) == 1 else f"{{{listed}}}"


@dataclass(frozen=True)
class Instance:
    """An object of a class, which a docstring calls by a name."""

    kind: type | tuple[type, ...]
    name: str

    def allows(self, value: Any) -> bool:
        """Whether a parameter may have the value."""
        return isinstance(value, self.kind)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, init=False)
class AnyOf:
    """Whatever one of some constraints allows."""

    choices: tuple[Constraint, ...]

    def __init__(self, *choices: Constraint) -> None:
        object.__setattr__(self, "choices", choices)

    def allows(self, value: Any) -> bool:
        """Whether a parameter may have the value."""
        return any(choice.allows(value) for choice in self.choices)

    def __str__(self) -> str:
        *most, last = map(str, self.choices)
        return f"{', '.join(most)} or {last}"


FLAG = Instance((bool, np.bool_), "bool")
NOTHING = Instance(type(None), "None")


def check_parameter(owner: str, name: str, value: Any, constraint: Constraint) -> None:
    """Refuse a value that a parameter may not have.

    Parameters
    ----------
    owner : str
        Name of the class that has the parameter.
    name : str
        Of the parameter, as its user writes it.
    value : object
    constraint : Constraint

    Raises
    ------
    ParameterError
        Naming the parameter, what it may be, and what it is.
    """
    if not constraint.allows(value):
        raise ParameterError(
            f"The {name!r} parameter of {owner} must be {constraint}. Got {value!r} instead."
        )


class Parameters(BaseEstimator):
    """A few parameters that belong together, as an estimator that has nothing to fit.

    Attributes
    ----------
    constraints : mapping of str to Constraint
        What each parameter of the constructor may be.
    """

    constraints: ClassVar[Mapping[str, Constraint]] = {}

    def check(self) -> None:
        """Refuse parameters that may not be; subclasses add what concerns several of them.

        Raises
        ------
        ParameterError
            Naming the parameter, what it may be, and what it is.
        """
        for name, value in self.get_params(deep=False).items():
            if name in self.constraints:  # those that a subclass adds it may check itself
                check_parameter(type(self).__name__, name, value, self.constraints[name])
            if isinstance(value, Parameters):
                value.check()

    def __eq__(self, other: object) -> bool:
        """Whether the other is of the same class and has the same parameters."""
        if type(self) is not type(other):
            return NotImplemented
        mine, others = self.get_params(), other.get_params()
        if mine.keys() != others.keys():  # where one has parts that the other lacks
            return False
        return all(np.array_equal(mine[name], others[name]) for name in mine)

    __hash__ = None  # type: ignore[assignment]  # parameters can be set
