"""Limits on multiply-accumulates and parameters: expected cost, and the guarantee."""

import itertools

import numpy as np
import pytest
import torch
from tiny import patterns, tiny_classifier

from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.costs import network_cost
from supernetnas.families.cells.genotype import Genotype
from supernetnas.families.cells.search.bilevel import BilevelSearch
from supernetnas.families.cells.search.budget import Budget
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.families.cells.space import CellKind, edge_index, edges_into, get_space
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.images.augmentation import ImageTensors
from supernetnas.training.batches import LabelledImages
from supernetnas.training.seeds import seeded_modules

SPACES = ["s1", "s2", "s3", "s4", "darts"]
COST = network_cost("s1", 4, 3, (3, 8, 8), 5)


def random_weights(space, seed=0):
    """Softmaxed random alphas; zero where an edge has no operation."""
    generator, offers = torch.Generator().manual_seed(seed), get_space(space)
    weights = []
    for kind in CellKind:
        alphas = torch.randn(14, offers.width, generator=generator, dtype=torch.float64)
        for alpha, names in zip(alphas, offers.edges(kind), strict=True):
            alpha[len(names) :] = -torch.inf
        weights.append(alphas.softmax(1))
    return tuple(weights)


def score(genotype, weights):
    total = 0.0
    for kind, rows in zip(CellKind, weights, strict=True):
        edges = get_space(genotype.space).edges(kind)
        for position, node in enumerate(genotype.nodes(kind)):
            for name, state in node:
                edge = edge_index(position, state)
                total += float(rows[edge, edges[edge].index(name)])
    return total


def darts_genotype(space, weights):
    supernet = CellSupernet(SupernetConfig(space, 2, 3, (8, 8), 3, 2)).double()
    for alpha, rows in zip(supernet.alpha_parameters(), weights, strict=True):
        alpha.data = rows.log().clamp(min=-100)
    return supernet.genotype()


class TestGuarantee:
    @pytest.mark.parametrize("space", SPACES)
    def test_without_need_it_is_the_rule_of_darts(self, space):
        cost = network_cost(space, 4, 3, (3, 8, 8), 5)
        for seed in range(5):
            weights = random_weights(space, seed)
            expected = darts_genotype(space, weights)
            macs, parameters = cost.of(expected)
            for limits in ((macs, None), (None, parameters), (macs, parameters), (10**12, None)):
                assert Budget(cost, *limits).derive(weights) == expected

    def test_against_all_genotypes(self):
        """Only 2 nodes of each cell vary, by weights of the others that decide them."""
        weights = random_weights("s1", 3)
        best = darts_genotype("s1", weights)
        macs, parameters = COST.of(best)
        everything = all_genotypes("s1", best)
        costs = np.array([COST.of(genotype) for genotype in everything])
        scores = np.array([score(genotype, weights) for genotype in everything])
        # Nothing outside these can win: leaving the best choice of a fixed node costs 10.
        for kind, rows in zip(CellKind, weights, strict=True):
            for position in FIXED:
                for name, state in best.nodes(kind)[position]:
                    edge = edge_index(position, state)
                    rows[edge, get_space("s1").edges(kind)[edge].index(name)] += 10
        for share_m, share_p in itertools.product((0.8, 0.9, 0.95, None), repeat=2):
            limits = (
                None if share_m is None else int(share_m * macs),
                None if share_p is None else int(share_p * parameters),
            )
            if limits == (None, None):
                continue
            allowed = np.all([c <= x for c, x in zip(costs.T, limits, strict=True) if x], axis=0)
            assert 0 < allowed.sum() < len(allowed)
            found = Budget(COST, *limits).derive(weights)
            assert found in everything
            index = everything.index(found)
            assert allowed[index]
            assert scores[index] == pytest.approx(scores[allowed].max(), rel=1e-12)

    @pytest.mark.parametrize("space", ["s1", "s3", "darts"])
    def test_the_limit_is_kept_and_more_is_never_worse(self, space):
        cost, weights = network_cost(space, 4, 3, (3, 8, 8), 5), random_weights(space)
        macs, parameters = cost.of(darts_genotype(space, weights))
        last = -np.inf
        for share in (0.75, 0.8, 0.85, 0.9, 0.95, 1.0):
            limits = int(share * macs), int(share * parameters)
            try:
                found = Budget(cost, *limits).derive(weights)
            except ValueError:
                continue
            assert all(c <= limit for c, limit in zip(cost.of(found), limits, strict=True))
            assert score(found, weights) >= last
            last = score(found, weights)
        assert last == pytest.approx(score(darts_genotype(space, weights), weights))


FIXED = (2, 3)


def all_genotypes(space, best):
    """Every genotype of a space whose last two nodes are those of ``best``."""
    cells = []
    for kind in CellKind:
        edges, fixed, nodes = get_space(space).edges(kind), best.nodes(kind), []
        for node in range(4):
            if node in FIXED:
                nodes.append([fixed[node]])
                continue
            nodes.append(
                [
                    ((a, i), (b, j))
                    for i, j in itertools.combinations(range(node + 2), 2)
                    for a in edges[edge_index(node, i)]
                    for b in edges[edge_index(node, j)]
                ]
            )
        cells.append(list(itertools.product(*nodes)))
    return [Genotype(space, *pair) for pair in itertools.product(*cells)]


class TestErrors:
    def test_the_smallest_cost_is_named(self):
        def least(unit):
            return COST.fixed[unit] + sum(
                min(
                    min(costs[i, : len(edges[i])]) + min(costs[j, : len(edges[j])])
                    for i, j in itertools.combinations(edges_into(node), 2)
                )
                for edges, costs in (
                    (get_space("s1").edges(kind), COST.edges[kind][..., unit]) for kind in CellKind
                )
                for node in range(4)
            )

        with pytest.raises(ValueError, match=f"max_macs=10 .* has {least(0)} multiply-accum"):
            Budget(COST, max_macs=10)
        with pytest.raises(ValueError, match=f"max_parameters=9 .* has {least(1)} parameters"):
            Budget(COST, max_parameters=9)
        Budget(COST, least(0)), Budget(COST, None, least(1))
        with pytest.raises(ValueError, match="max_macs"):
            Budget(COST, least(0) - 1)

    def test_limits_that_exclude_each_other(self):
        """Of two operations one has fewer products, the other fewer weights."""
        cost = network_cost("s2", 4, 3, (3, 8, 8), 5)
        edges = tuple(costs.copy() for costs in cost.edges)
        for costs in edges:
            costs[:, 0], costs[:, 1] = (0, 10), (10, 0)
        crossed = type(cost)("s2", np.zeros(2, np.int64), edges)
        Budget(crossed, max_macs=80, max_parameters=80)
        with pytest.raises(ValueError, match=r"together: .* within max_macs has 100 parameters"):
            Budget(crossed, max_macs=60, max_parameters=99)


class TestExpectation:
    @pytest.mark.parametrize("space", ["s1", "s3"])
    def test_it_is_the_mean_over_draws(self, space):
        """Every pair of edges of a node alike; operations by their weights without none."""
        cost, weights = network_cost(space, 4, 3, (3, 8, 8), 5), random_weights(space)
        expected = cost.fixed.astype(float)
        for kind, rows in zip(CellKind, weights, strict=True):
            edges = get_space(space).edges(kind)
            for node in range(4):
                pairs = list(itertools.combinations(range(node + 2), 2))
                for state in itertools.chain.from_iterable(pairs):
                    edge = edge_index(node, state)
                    valid = [i for i, name in enumerate(edges[edge]) if name != "none"]
                    share = rows[edge, valid] / rows[edge, valid].sum()
                    expected += share.numpy() @ cost.edges[kind][edge, valid] / len(pairs)
        found = Budget(cost, 10**9).expected_cost(weights)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)

    def test_gradient(self):
        budget = Budget(COST, 60_000, 2_600)
        weights = tuple(w.requires_grad_() for w in random_weights("s1"))
        assert budget.penalty(weights).item() > 0
        assert torch.autograd.gradcheck(lambda *w: budget.penalty(w), weights)

    def test_nothing_below_the_limit(self):
        budget = Budget(COST, 10**9, 10**9)
        weights = tuple(w.requires_grad_() for w in random_weights("s1"))
        penalty = budget.penalty(weights)
        assert penalty.item() == 0
        assert all(not g.any() for g in torch.autograd.grad(penalty, weights))


def test_the_alpha_step_lowers_the_expected_cost():
    pixels = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    data = LabelledImages(ImageTensors(pixels, torch.zeros(3), torch.ones(3)), torch.arange(12) % 3)
    cost = network_cost("s2", 4, 3, (3, 8, 8), 3)
    ends = []
    for budget in (None, Budget(cost, None, 3000)):
        with seeded_modules(0):
            supernet = CellSupernet(SupernetConfig("s2", 4, 3, (8, 8), 3, 3))
        settings = SearchSettings(epochs=4, batch_size=6, alpha_learning_rate=0.1)
        search = BilevelSearch(
            supernet, data, data, settings, torch.Generator().manual_seed(0), budget=budget
        )
        search.run()
        ends.append(Budget(cost, 10**9).expected_cost(supernet.operation_weights()))
    assert ends[1][1] < 0.9 * ends[0][1]


IMAGES, LABELS = patterns()


def test_a_fit_keeps_its_budget(tiny_zoo):
    free = tiny_classifier(tiny_zoo, "multi", retraining__epochs=1).fit(IMAGES, LABELS)
    limits = {"max_macs": int(0.9 * free.n_macs_), "max_parameters": int(0.92 * free.n_parameters_)}
    clf = tiny_classifier(tiny_zoo, "multi", retraining__epochs=1, **limits).fit(IMAGES, LABELS)
    assert clf.n_macs_ <= limits["max_macs"]
    assert clf.n_parameters_ <= limits["max_parameters"]
    assert clf.genotype_ != free.genotype_
    assert clf.inherited_ > 0.5


@pytest.mark.parametrize("strategy", ["ot", "multi", "scratch"])
def test_a_budget_that_cannot_be_met_is_refused_early(tiny_zoo, strategy, monkeypatch):
    monkeypatch.setattr("supernetnas.fitting.sources.select_sources", None)
    clf = tiny_classifier(tiny_zoo, strategy, max_macs=100)
    with pytest.raises(
        ValueError, match=r"max_macs=100 cannot be met: the smallest .* has \d+ mul"
    ):
        clf.fit(IMAGES, LABELS)


@pytest.mark.parametrize("value", [0, -3, 1.5, "small"])
def test_bad_limits(value):
    with pytest.raises((TypeError, ValueError), match="max_parameters"):
        tiny_classifier(max_parameters=value).fit(IMAGES, LABELS)
