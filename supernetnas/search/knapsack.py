"""The multiple-choice knapsack: one option of each group, of the largest value within limits.

Dynamic programming over the groups, which keeps every combination that no other beats in cost and
value (Nemhauser and Ullmann, "Discrete Dynamic Programming and Capital Allocation", 1969), finds
the optimum exactly.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Options", "best_choices"]


@dataclass(frozen=True)
class Options:
    """A group of options, of which one is to be chosen.

    Attributes
    ----------
    costs : ndarray of shape (n, units), int64
        What each option costs, in up to two units.
    values : ndarray of shape (n,)
        What each option is worth.
    choices : sequence
        What each option is.
    """

    costs: np.ndarray
    values: np.ndarray
    choices: Sequence[Any]


def best_choices(groups: Sequence[Options], room: np.ndarray) -> list[Any] | None:
    """Choose one option of each group so that the sum of the values is the largest.

    Parameters
    ----------
    groups : sequence of Options
    room : ndarray of shape (units,), int64
        Limit of the sum of the costs in each unit.

    Returns
    -------
    list or None
        The choice of each group; None if none keeps the limits.
    """
    least = [group.costs.min(0) for group in groups]
    costs, values = np.zeros((1, len(room)), np.int64), np.zeros(1)
    chosen: list[tuple[np.ndarray, np.ndarray]] = []
    for number, group in enumerate(groups):
        own = _undominated(group.costs, group.values)
        total = (costs[:, None] + group.costs[own]).reshape(-1, len(room))
        value = (values[:, None] + group.values[own]).reshape(-1)
        left = room - sum(least[number + 1 :], start=np.zeros_like(room))
        fitting = np.flatnonzero((total <= left).all(1))
        kept = fitting[_undominated(total[fitting], value[fitting])]
        costs, values = total[kept], value[kept]
        chosen.append((kept // len(own), own[kept % len(own)]))
        if not len(kept):
            return None
    position, choices = int(values.argmax()), []
    for group, (previous, option) in zip(reversed(groups), reversed(chosen), strict=True):
        choices.append(group.choices[option[position]])
        position = int(previous[position])
    return choices[::-1]


def _undominated(costs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Indices of the points that no other beats: nowhere dearer, and of no lower value."""
    if not len(values):
        return np.zeros(0, np.int64)
    # Equal points keep their order: of equal options the first is chosen, as without limits.
    order = np.lexsort((-values, *costs.T[::-1]))
    if costs.shape[1] < 2:
        best = np.maximum.accumulate(values[order])
        return order[np.concatenate([[True], best[1:] > best[:-1]])]
    kept: list[int] = []
    # Second cost, and best value up to it; both rising.
    stairs: list[float] = []
    heights: list[float] = []
    for index in order.tolist():
        second, value = costs[index, 1], values[index]
        place = bisect_right(stairs, second)
        if place and heights[place - 1] >= value:
            continue
        end = place
        while end < len(stairs) and heights[end] <= value:
            end += 1
        stairs[place:end], heights[place:end] = [second], [value]
        kept.append(index)
    return np.array(kept, np.int64)
