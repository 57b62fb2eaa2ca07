"""The multiple-choice knapsack against its definition."""

import itertools

import numpy as np
import pytest

from supernetnas.search.knapsack import Options, _undominated, best_choices


@pytest.mark.parametrize("n_costs", [1, 2])
def test_dominance_against_its_definition(n_costs):
    random = np.random.default_rng(0)
    for n in (0, 1, 2, 30, 200):
        costs, values = random.integers(0, 12, (n, n_costs)), random.integers(0, 9, n) / 8
        kept = _undominated(costs, values)
        points = [(*c, -v) for c, v in zip(costs.tolist(), values.tolist(), strict=True)]
        beaten = {p for p in points for q in points if q != p and all(map(np.less_equal, q, p))}
        assert sorted(points[i] for i in kept) == sorted(set(points) - beaten)


@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_all_combinations(units, seed):
    """Every group has as many options as its number plus two; values are sums of eighths."""
    random = np.random.default_rng(seed)
    groups = [
        Options(
            random.integers(0, 20, (n, units)),
            random.integers(0, 40, n) / 8,
            [(number, option) for option in range(n)],
        )
        for number, n in enumerate((2, 3, 4, 5))
    ]
    costs, values = {}, {}
    for combination in itertools.product(*(group.choices for group in groups)):
        costs[combination] = sum(groups[g].costs[option] for g, option in combination)
        values[combination] = sum(groups[g].values[option] for g, option in combination)
    infeasible = 0
    for share in (0.1, 0.3, 0.5, 0.8, 1.0):
        room = np.array([int(share * 20 * len(groups) / 2)] * units)
        allowed = [c for c in costs if (costs[c] <= room).all()]
        found = best_choices(groups, room)
        if not allowed:
            assert found is None
            infeasible += 1
            continue
        assert tuple(found) in allowed
        assert values[tuple(found)] == max(values[c] for c in allowed)
    assert infeasible < 5


def test_nothing_fits():
    group = Options(np.array([[3], [4]]), np.array([1.0, 2.0]), "ab")
    assert best_choices([group, group], np.array([5])) is None
    assert sorted(best_choices([group, group], np.array([7]))) == ["a", "b"]
