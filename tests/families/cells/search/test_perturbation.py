"""The perturbed operation weights of SmoothDARTS."""

import pytest
import torch
import torch.nn.functional as F

from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.search.bilevel import adversarial_perturbation, random_perturbation
from supernetnas.families.cells.search.perturbation import perturbation_radius, to_simplex
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.training.batch_norm import frozen_batch_norm
from supernetnas.training.seeds import seeded_modules


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def softmaxed(k, scale=1e-3, seed=0):
    return tuple(
        (scale * torch.randn(14, k, generator=seeded(seed + i))).softmax(1) for i in range(2)
    )


def everything(weights):
    return tuple(torch.ones_like(weight, dtype=torch.bool) for weight in weights)


def assert_on_simplex(weights):
    for weight in weights:
        assert weight.min() >= 0
        torch.testing.assert_close(weight.sum(1), torch.ones(len(weight)))


class TestRadius:
    def test_of_the_last_of_fifty_epochs(self):
        """0.03 + 0.27 * 49 / 50: the schedule never reaches 0.3."""
        assert perturbation_radius(49, 50, (0.03, 0.3)) == pytest.approx(0.2946)

    def test_of_the_first_epoch_and_halfway(self):
        assert perturbation_radius(0, 50, (0.03, 0.3)) == pytest.approx(0.03)
        assert perturbation_radius(25, 50, (0.03, 0.3)) == pytest.approx(0.165)


class TestSimplex:
    def test_clamps_and_divides(self):
        """Not the Euclidean projection, which would give [0.9, 0.1, 0] for the first row."""
        weights = torch.tensor([[1.2, 0.4, -0.3], [0.5, 0.25, 0.25], [2.0, 3.0, 0.0]])
        expected = torch.tensor([[1 / 1.4, 0.4 / 1.4, 0.0], [0.5, 0.25, 0.25], [0.5, 0.5, 0.0]])
        result = to_simplex(weights, torch.ones(3, 3, dtype=torch.bool))
        torch.testing.assert_close(result, expected)

    def test_nothing_left_takes_the_largest(self):
        weights = torch.tensor([[-0.3, -0.1, -0.2], [0.0, 0.0, 0.0]])
        result = to_simplex(weights, torch.ones(2, 3, dtype=torch.bool))
        assert result.tolist() == [[0, 1, 0], [1, 0, 0]]

    def test_what_is_no_operation_stays_zero(self):
        mask = torch.tensor([[True, True, False], [True, True, False]])
        weights = torch.tensor([[0.6, 0.6, 0.9], [-0.5, -0.4, 0.7]])
        assert to_simplex(weights, mask).tolist() == [[0.5, 0.5, 0], [0, 1, 0]]

    def test_a_sum_as_small_as_can_be(self):
        tiny = torch.finfo(torch.float32).tiny
        result = to_simplex(torch.tensor([[tiny, 0.0]]), torch.ones(1, 2, dtype=torch.bool))
        assert result.tolist() == [[1, 0]]


class TestRandom:
    @pytest.mark.parametrize("k", [2, 7])
    @pytest.mark.parametrize("radius", [0.03, 0.2946, 1.0])
    def test_by_definition(self, radius, k):
        weights = softmaxed(k)
        perturbed = random_perturbation(weights, everything(weights), radius, seeded(1))
        generator = seeded(1)
        for weight, result in zip(weights, perturbed, strict=True):
            noise = (torch.rand(weight.shape, generator=generator) - 0.5) * 2 * radius
            raw = (weight + noise).clamp(0, 1)
            torch.testing.assert_close(result, raw / raw.sum(1, keepdim=True))
        assert_on_simplex(perturbed)

    def test_noise_is_uniform_within_the_radius(self):
        """Of two operations at 1/2 each, the noise is not clamped: its quotient stays."""
        weights = (torch.full((20000, 2), 0.5),)
        (perturbed,) = random_perturbation(weights, everything(weights), 0.2, seeded())
        share = perturbed[:, 0]
        assert share.min() > 0.3 / 1.0 - 1e-6
        assert share.max() < 0.7 / 1.0 + 1e-6
        # Five standard errors of the mean; its density is symmetric about one half.
        assert abs(share.mean() - 0.5) < 5 * share.std() / 20000**0.5
        assert share.std() > 0.05

    def test_draws_anew_and_repeats_with_its_generator_only(self):
        weights, state = softmaxed(4), torch.get_rng_state()
        masks, generator = everything(weights), seeded()
        first, second = (random_perturbation(weights, masks, 0.1, generator) for _ in range(2))
        again = random_perturbation(weights, masks, 0.1, seeded())
        assert not torch.equal(first[0], second[0])
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
        assert not torch.equal(first[0], first[1])
        assert torch.equal(torch.get_rng_state(), state)

    def test_masked_entries_stay_zero(self):
        mask = torch.ones(14, 3, dtype=torch.bool)
        mask[::2, 2] = False
        weights = tuple(
            torch.zeros(14, 3).masked_fill(~mask, -torch.inf).softmax(1) for _ in range(2)
        )
        perturbed = random_perturbation(weights, (mask, mask), 0.5, seeded())
        assert_on_simplex(perturbed)
        for weight in perturbed:
            assert weight[~mask].abs().max() == 0

    def test_no_radius_changes_nothing(self):
        weights = softmaxed(3)
        perturbed = random_perturbation(weights, everything(weights), 0.0, seeded())
        torch.testing.assert_close(perturbed, weights)


@pytest.fixture
def problem():
    """A tiny supernet, a batch, and its loss as a function of the operation weights."""
    with seeded_modules(0):
        supernet = CellSupernet(SupernetConfig("s3", 4, 3, (8, 8), 3, 3))
    images = torch.randn(8, 3, 8, 8, generator=seeded(3))
    labels = torch.arange(8) % 3
    supernet(images)

    def loss(weights):
        return F.cross_entropy(supernet(images, weights), labels)

    weights = tuple(weight.detach() for weight in supernet.operation_weights())
    return supernet, loss, weights, supernet.operation_masks()


def reference_attack(loss, weights, masks, radius, generator, steps=7):
    """Projected gradient ascent, row by row: the authors' code in this package's normalisation."""

    def clip(weight):
        result = weight.clamp(0, 1)
        for row, original in zip(result, weight, strict=True):
            if row.sum() == 0:
                row[original.argmax()] = 1
            row /= row.sum()
        return result

    delta = [(2 * torch.rand(w.shape, generator=generator) - 1) * radius for w in weights]
    points = [clip(w + d) for w, d in zip(weights, delta, strict=True)]
    for _ in range(steps):
        points = [p.detach().clone().requires_grad_() for p in points]
        loss(tuple(points)).backward()
        with torch.no_grad():
            points = [
                clip(w + torch.clamp(p + 2 * radius / steps * p.grad.sign() - w, -radius, radius))
                for p, w in zip(points, weights, strict=True)
            ]
    with torch.no_grad():
        return points if loss(tuple(points)) > loss(weights) else list(weights)


class TestAdversarial:
    @pytest.mark.parametrize("radius", [0.03, 0.2946])
    def test_equals_a_plain_loop(self, problem, radius):
        supernet, loss, weights, masks = problem
        with frozen_batch_norm(supernet):
            attacked = adversarial_perturbation(loss, weights, masks, radius, seeded(2))
            expected = reference_attack(loss, weights, masks, radius, seeded(2))
        for actual, wanted, clean in zip(attacked, expected, weights, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)
            assert (actual - clean).abs().max() > radius / 2

    def test_raises_the_loss_more_than_chance_does(self, problem):
        """The sign matters: an attack that descends ends below the clean loss."""
        supernet, loss, weights, masks = problem
        with torch.no_grad(), frozen_batch_norm(supernet):
            clean = loss(weights)
            chance = [
                loss(random_perturbation(weights, masks, 0.2, seeded(seed))) for seed in range(10)
            ]
        for seed in range(3):
            with frozen_batch_norm(supernet):
                attacked = adversarial_perturbation(loss, weights, masks, 0.2, seeded(seed))
                assert loss(attacked) > clean
                assert loss(attacked) > max(chance)
            assert_on_simplex(attacked)

    def test_the_perturbed_forward_differs_from_the_clean_one(self, problem):
        supernet, loss, weights, masks = problem
        images = torch.randn(4, 3, 8, 8, generator=seeded(1))
        clean = supernet(images, weights)
        for perturbed in (
            random_perturbation(weights, masks, 0.1, seeded()),
            adversarial_perturbation(loss, weights, masks, 0.1, seeded()),
        ):
            assert (supernet(images, perturbed) - clean).abs().max() > 1e-3

    def test_an_attack_that_fails_is_dropped(self):
        """At the loss's maximum every other point is worse for the attacker."""
        weights = softmaxed(2)

        def loss(point):
            return -sum((p - w).square().sum() for p, w in zip(point, weights, strict=True))

        attacked = adversarial_perturbation(loss, weights, everything(weights), 0.1, seeded())
        assert all(torch.equal(a, w) for a, w in zip(attacked, weights, strict=True))

    def test_a_linear_loss_is_driven_to_the_edge(self):
        """Its gradient's sign is constant, so seven steps of 2/7 radius cross the whole ball."""
        weights = (torch.full((14, 2), 0.5),) * 2
        attacked = adversarial_perturbation(
            lambda point: point[0][:, 0].sum() - point[0][:, 1].sum() + 0 * point[1].sum(),
            weights,
            everything(weights),
            0.2,
            seeded(),
        )
        torch.testing.assert_close(attacked[0], torch.tensor([[0.7, 0.3]]).repeat(14, 1))

    def test_it_changes_nothing_else(self, problem):
        supernet, loss, weights, masks = problem
        before = {name: value.clone() for name, value in supernet.state_dict().items()}
        given, state = [weight.clone() for weight in weights], torch.get_rng_state()
        with frozen_batch_norm(supernet):
            adversarial_perturbation(loss, weights, masks, 0.2, seeded())
        for name, value in supernet.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert all(parameter.grad is None for parameter in supernet.parameters())
        assert all(torch.equal(a, b) for a, b in zip(given, weights, strict=True))
        assert torch.equal(torch.get_rng_state(), state)

    def test_result_is_a_constant(self, problem):
        _, loss, weights, masks = problem
        attacked = adversarial_perturbation(loss, weights, masks, 0.2, seeded())
        assert not any(weight.requires_grad for weight in attacked)

    @pytest.mark.parametrize("n_cells", [1, 2])
    def test_without_a_normal_cell(self, n_cells):
        with seeded_modules(0):
            supernet = CellSupernet(SupernetConfig("s2", 4, n_cells, (8, 8), 3, 3))
        images, labels = torch.randn(4, 3, 8, 8, generator=seeded(1)), torch.tensor([0, 1, 2, 0])
        weights = tuple(weight.detach() for weight in supernet.operation_weights())
        attacked = adversarial_perturbation(
            lambda point: F.cross_entropy(supernet(images, point), labels),
            weights,
            supernet.operation_masks(),
            0.1,
            seeded(),
        )
        assert_on_simplex(attacked)
