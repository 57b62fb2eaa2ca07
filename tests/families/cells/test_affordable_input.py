"""How many pixels the networks of cells see under a limit."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import tiny_classifier
from tiny_cells import build

from supernetnas import Retraining
from supernetnas.families.base import NetworkInput, get_family
from supernetnas.families.cells.costs import network_cost
from supernetnas.search.costs import count_macs
from supernetnas.search.limits import Limits

CELLS, CLASSES = get_family("cells"), 3
SEEN = NetworkInput((32, 32), 3)


@pytest.fixture(scope="module")
def supernet():
    return build(side=32)


def macs(supernet, size):
    config = supernet.config
    cost = network_cost("s1", config.init_channels, config.n_cells, (3, *size), CLASSES)
    return cost.of(supernet.genotype())[0]


def inputs(supernet, limits, seen=SEEN):
    config = CELLS.adapted(supernet.config, seen, CLASSES)
    return CELLS.inputs_within(seen, config, CLASSES, limits)


def affordable(supernet, limits, seen=SEEN):
    return CELLS.suited_input(inputs(supernet, limits, seen), supernet, limits)


def test_as_many_as_the_genotype_keeps_the_limit_with(supernet):
    sides = [32, 28, 24, 20, 16]
    costs = [macs(supernet, (side, side)) for side in sides]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == 5
    for place, (side, cost) in enumerate(zip(sides, costs, strict=True)):
        assert affordable(supernet, Limits(max_macs=cost)) == replace(SEEN, size=(side, side))
        if place < 4:
            fewer = sides[place + 1]
            assert affordable(supernet, Limits(max_macs=cost - 1)).size == (fewer, fewer)


def test_a_half_of_the_side_is_the_least(supernet):
    """Beyond that other operations make the network cheaper."""
    least = macs(supernet, (16, 16))
    found = affordable(supernet, Limits(max_macs=least - 1))
    assert found.size == (16, 16)
    budget = CELLS.budget(supernet.config, found, CLASSES, Limits(max_macs=least - 1))
    other = budget.derive(supernet.operation_weights())
    assert other != supernet.genotype()
    assert budget.cost.of(other)[0] < least


@pytest.mark.parametrize(
    "size, smaller",
    [((8, 8), (8, 8)), ((12, 12), (8, 8)), ((32, 16), (28, 16)), ((32, 24), (28, 24))],
)
def test_shapes_stay_but_for_rounding(supernet, size, smaller):
    limits = Limits(max_macs=macs(supernet, size) - 1)
    assert affordable(supernet, limits, NetworkInput(size, 3)).size == smaller


def test_other_limits_do_not_shrink(supernet):
    """Parameters are as many at every size; the genotype that keeps them is the one that counts."""
    cost = network_cost("s1", 4, 3, (3, 32, 32), CLASSES)
    most = cost.of(supernet.genotype())[1] - 1
    assert affordable(supernet, Limits(max_parameters=most)) == SEEN
    budget = CELLS.budget(supernet.config, SEEN, CLASSES, Limits(max_parameters=most))
    smaller = cost.of(budget.derive(supernet.operation_weights()))[0]
    assert smaller < macs(supernet, (32, 32))
    assert affordable(supernet, Limits(smaller, most)) == SEEN
    assert affordable(supernet, Limits(smaller - 1, most)).size == (28, 28)


def test_the_shorter_side_keeps_a_half_too(supernet):
    found = inputs(supernet, Limits(max_macs=10**9), NetworkInput((20, 32), 3))
    assert [each.size for each in found] == [(20, 32), (20, 28), (16, 24), (16, 20), (12, 16)]


def test_what_any_genotype_keeps_them_with(supernet):
    with pytest.raises(ValueError, match="cannot be met") as refused:
        CELLS.budget(supernet.config, SEEN, CLASSES, Limits(max_macs=1))
    least = int(str(refused.value).split(" multiply")[0].split()[-1])
    assert macs(supernet, (28, 28)) > least
    for limit, most in ((least, 32), (least - 1, 28)):
        sides = [each.size[0] for each in inputs(supernet, Limits(max_macs=limit))]
        assert sides == list(range(most, 15, -4))
    assert inputs(supernet, Limits(max_parameters=10**6)) == [SEEN]


def test_a_limit_that_no_size_keeps(supernet):
    with pytest.raises(ValueError, match="max_macs=7 cannot be met"):
        inputs(supernet, Limits(max_macs=7))


class TestFit:
    X, y = (
        np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8),
        np.arange(40) % 4,
    )

    def fit(self, zoo, image_size="auto", **limits):
        clf = tiny_classifier(zoo, "both", search="none", image_size=image_size)
        return clf.set_params(**limits).fit(self.X, self.y)

    def test_the_genotype_stays(self, tiny_zoo, caplog):
        free = self.fit(tiny_zoo)
        most = free.n_macs_ - 1
        with caplog.at_level("INFO", "supernetnas"):
            clf = self.fit(tiny_zoo, max_macs=most)
        assert (free.image_size_, clf.image_size_) == ((16, 16), (12, 12))
        assert clf.genotype_ == free.genotype_
        assert count_macs(clf.network_, (3, 12, 12)) == clf.n_macs_ <= most
        assert f"see 12x12 pixels instead of 16x16, because of max_macs={most}" in caplog.text
        assert clf.predict(self.X).shape == (40,)

    @pytest.mark.parametrize("retraining, epochs", [(None, 53), (Retraining(2), 2)])
    def test_the_time_that_is_saved_goes_to_the_retraining(self, tiny_zoo, retraining, epochs):
        """Of 16x16 and of 12x12 pixels, 30 epochs of the one are 53.3 of the other."""
        most = self.fit(tiny_zoo).n_macs_ - 1
        clf = self.fit(tiny_zoo, max_macs=most, retraining=retraining)
        assert [row["stage"] for row in clf.history_] == ["retrain"] * epochs

    def test_estimates_count_it(self, tiny_zoo, monkeypatch):
        seen = []
        monkeypatch.setattr(
            "supernetnas.classifier.expect_search", lambda *args: seen.append(args[5])
        )
        most = self.fit(tiny_zoo).n_macs_ - 1
        parameters = {"retraining": None, "preset": "quick", "verbose": 1, "search": "sdarts"}
        clf = self.fit(tiny_zoo, max_macs=most, search__epochs=1, **parameters)
        n_epochs = sum(row["stage"] == "retrain" for row in clf.history_)
        assert seen == [n_epochs] == [18]  # 17.8

    def test_a_size_that_was_asked_for_stays(self, tiny_zoo):
        free = self.fit(tiny_zoo, image_size=16)
        clf = self.fit(tiny_zoo, image_size=16, max_macs=free.n_macs_ - 1)
        assert clf.image_size_ == (16, 16) and clf.genotype_ != free.genotype_

    def test_what_only_fewer_pixels_keep_is_not_refused(self, tiny_zoo):
        with pytest.raises(ValueError, match="smaller image_size") as refused:
            self.fit(tiny_zoo, image_size=16, max_macs=1)
        least = int(str(refused.value).split(" multiply")[0].split()[-1])
        clf = self.fit(tiny_zoo, max_macs=least - 1)
        assert clf.image_size_ < (16, 16) and clf.n_macs_ < least
