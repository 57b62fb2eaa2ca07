"""The dataset distance against closed forms, independent solvers and its own invariances."""

import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning

from supernetnas.distance import transport
from supernetnas.distance.label_distances import (
    RowProducts,
    _cross_traces_of_rows,
    cross_traces,
    cross_traces_on_device,
    label_distances,
)
from supernetnas.distance.measures import (
    covariance_factor,
    grouped_by_class,
    measure,
    row_weights,
    stratified_sample,
)
from supernetnas.distance.otdd import Settings, distances_to_many, otdd


def blobs(n_classes=3, per_class=6, d=5, shift=0.0, seed=0):
    """Features whose classes differ in mean and covariance, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), per_class)
    means = rng.normal(size=(n_classes, d))
    scales = rng.uniform(0.3, 1.5, size=(n_classes, d))
    features = means[labels] + scales[labels] * rng.normal(size=(len(labels), d)) + shift
    return features, labels


def gaussian(mean, covariance, n, seed):
    """Rows (n, d) whose sample mean and unbiased covariance are exactly the given ones."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(x.T)))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def bures(m, s, m2, s2):
    root = sqrtm(s)
    return ((m - m2) ** 2).sum() + np.trace(s + s2 - 2 * sqrtm(root @ s2 @ root)).real


def reference_cost(xa, ya, xb, yb, lambda_x=1.0, lambda_y=1.0):
    """The ground cost from its definition, pair by pair of classes."""
    costs = lambda_x * cdist(xa, xb, "sqeuclidean")
    for c in np.unique(ya):
        for c2 in np.unique(yb):
            p, q = xa[ya == c], xb[yb == c2]
            w = bures(p.mean(0), np.cov(p.T), q.mean(0), np.cov(q.T))
            costs[np.ix_(ya == c, yb == c2)] += lambda_y * w
    return costs / 2


def linear_program(costs):
    """Optimal transport of uniform weights, by a general solver."""
    n, m = costs.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    marginals = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    result = linprog(costs.ravel(), A_eq=np.vstack([rows, columns]), b_eq=marginals)
    assert result.success
    return result.fun


def log_sinkhorn(costs, reg, iterations=500):
    """OT_eps = min <plan, costs> + eps KL(plan | a x b), iterated in the log domain."""
    n, m = costs.shape
    f, g = np.zeros(n), np.zeros(m)
    for _ in range(iterations):
        f = -reg * logsumexp((g - costs) / reg - np.log(m), axis=1)
        g = -reg * logsumexp((f[:, None] - costs) / reg - np.log(n), axis=0)
    return f.mean() + g.mean()


# ------------------------------------------------------------------------------------ closed forms


def test_two_constant_sets():
    labels = np.repeat([0, 1], 4)
    ones, twos = np.ones((8, 6)), np.full((8, 6), 2.0)
    result = otdd(ones, labels, twos, labels, normalize="none")
    assert result.distance == pytest.approx(6.0, rel=1e-12)  # (6 + 6) / 2: features, labels
    for weights, expected in ({"lambda_y": 0}, 3.0), ({"lambda_x": 0}, 3.0), ({"lambda_x": 3}, 12):
        distance = otdd(ones, labels, twos, labels, normalize="none", **weights).distance
        assert distance == pytest.approx(expected, rel=1e-12)


def test_one_dimensional_gaussians():
    """In one dimension W = (m - m')^2 + (s - s')^2."""
    a = gaussian(np.array([1.0]), np.array([[4.0]]), 30, seed=0)
    b = gaussian(np.array([-2.0]), np.array([[0.25]]), 20, seed=1)
    result = otdd(a, np.zeros(30), b, np.zeros(20), normalize="none")
    np.testing.assert_allclose(result.label_distances, [[9 + 1.5**2]], rtol=1e-12)


@pytest.mark.parametrize(("n", "n2"), [(40, 25), (4, 25), (4, 4)])
def test_gaussians_with_known_moments(n, n2):
    rng = np.random.default_rng(0)
    d = 3
    roots = rng.normal(size=(2, d, d))
    covariances = roots @ roots.swapaxes(1, 2) + 0.1 * np.eye(d)
    means = rng.normal(size=(2, d))
    a = gaussian(means[0], covariances[0], n, seed=1)
    b = gaussian(means[1], covariances[1], n2, seed=2)
    found = otdd(a, np.zeros(n), b, np.zeros(n2), normalize="none").label_distances
    expected = bures(means[0], covariances[0], means[1], covariances[1])
    np.testing.assert_allclose(found, [[expected]], rtol=1e-10)


def test_diagonal_and_means():
    (xa, ya), (xb, yb) = blobs(2, 8, 3, seed=1), blobs(3, 7, 3, seed=2)
    diagonal = otdd(xa, ya, xb, yb, normalize="none", label_distance="diagonal").label_distances
    means = otdd(xa, ya, xb, yb, normalize="none", label_distance="means").label_distances
    for c in range(2):
        for c2 in range(3):
            p, q = xa[ya == c], xb[yb == c2]
            between_means = ((p.mean(0) - q.mean(0)) ** 2).sum()
            between_deviations = ((p.std(0, ddof=1) - q.std(0, ddof=1)) ** 2).sum()
            np.testing.assert_allclose(means[c, c2], between_means, rtol=1e-10)
            np.testing.assert_allclose(
                diagonal[c, c2], between_means + between_deviations, rtol=1e-10
            )


def test_exact_label_distances():
    """Against an assignment: sets of equal size are matched one to one."""
    (xa, ya), (xb, yb) = blobs(2, 7, 3, seed=1), blobs(3, 7, 3, seed=2)
    found = otdd(xa, ya, xb, yb, normalize="none", label_distance="exact")
    for c in range(2):
        for c2 in range(3):
            costs = cdist(xa[ya == c], xb[yb == c2], "sqeuclidean")
            expected = costs[linear_sum_assignment(costs)].mean()
            assert found.label_distances[c, c2] == pytest.approx(expected, rel=1e-10)
    # With these labels, transport by rows is no dearer than transport of whole classes.
    of_classes = linear_program(found.label_distances)
    assert found.distance <= of_classes * (1 + 1e-9)
    # The Gaussian distance is a lower bound (Gelbrich), up to the n - 1 of its covariances.
    gaussian = otdd(xa, ya, xb, yb, normalize="none").label_distances
    assert (found.label_distances > gaussian * 6 / 7 * 0.9).all()


def test_a_label_distance_that_is_not_solved_is_an_error(monkeypatch):
    monkeypatch.setattr(transport, "_LP_ITERATIONS", 1)
    (xa, ya), (xb, yb) = blobs(2, 30, 3, seed=1), blobs(3, 20, 3, seed=2)
    with pytest.raises(RuntimeError, match="not solved"):
        otdd(xa, ya, xb, yb, normalize="none", label_distance="exact", n_samples=None)


def test_singular_covariances():
    """40 rows in 512 dimensions: the root exists, and equals the one within the rows' span."""
    rng = np.random.default_rng(0)
    span = np.linalg.qr(rng.normal(size=(512, 60)))[0].T
    small_a = rng.normal(size=(40, 60))
    small_b = rng.normal(size=(40, 60)) * np.linspace(0.1, 2, 60)
    y = np.zeros(40)
    found = otdd(small_a @ span, y, small_b @ span, y, normalize="none").label_distances[0, 0]
    # An eigenvalue route to the same root, with the rounding that squaring costs.
    s, s2 = np.cov(small_a.T), np.cov(small_b.T)
    values, vectors = np.linalg.eigh(s)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ s2 @ root).clip(0)).sum()
    between_means = ((small_a.mean(0) - small_b.mean(0)) ** 2).sum()
    expected = between_means + np.trace(s + s2) - 2 * cross
    assert found == pytest.approx(expected, rel=1e-6)


def test_against_another_linear_program():
    for seed in range(3):
        xa, ya = blobs(2, 6, 3, seed=seed)
        xb, yb = blobs(3, 5, 3, seed=seed + 10)
        found = otdd(xa, ya, xb, yb, normalize="none", lambda_x=0.7, lambda_y=1.3).distance
        expected = linear_program(reference_cost(xa, ya, xb, yb, 0.7, 1.3))
        assert found == pytest.approx(expected, rel=1e-6)


def test_normalised_rows_against_another_linear_program():
    (xa, ya), (xb, yb) = blobs(2, 6, 3, seed=1), blobs(2, 5, 3, seed=2)
    expected = linear_program(
        reference_cost(
            xa / np.linalg.norm(xa, axis=1)[:, None],
            ya,
            xb / np.linalg.norm(xb, axis=1)[:, None],
            yb,
        )
    )
    result = otdd(xa, ya, xb, yb)
    assert result.distance == pytest.approx(expected, rel=1e-6)
    assert result.similarity == pytest.approx(1 - expected / 4, rel=1e-6)


# ------------------------------------------------------------------------------------- invariances


def test_distance_to_itself_is_zero():
    x, y = blobs(4, 7, 10)
    order = np.random.default_rng(0).permutation(len(x))
    result = otdd(x, y, x[order], y[order])
    assert result.distance == pytest.approx(0, abs=1e-12)
    assert result.similarity == pytest.approx(1)
    np.testing.assert_allclose(result.class_coupling, np.eye(4) / 4, atol=1e-12)


def test_symmetry():
    (xa, ya), (xb, yb) = blobs(3, 9, 6, seed=1), blobs(4, 5, 6, seed=2)
    there, back = otdd(xa, ya, xb, yb), otdd(xb, yb, xa, ya)
    assert there.distance == pytest.approx(back.distance, rel=1e-10)
    np.testing.assert_allclose(there.label_distances, back.label_distances.T, atol=1e-12)


def test_invariances():
    (xa, ya), (xb, yb) = blobs(3, 9, 6, seed=1), blobs(4, 5, 6, seed=2)
    expected = otdd(xa, ya, xb, yb, normalize="none").distance
    order = np.random.default_rng(0).permutation(len(xa))
    shuffled = otdd(xa[order], ya[order], xb, yb, normalize="none").distance
    renamed = otdd(xa, np.array(["z", "-1", "k"])[ya], xb, 7 - 5 * yb, normalize="none").distance
    shifted = otdd(xa + 100, ya, xb + 100, yb, normalize="none").distance
    scaled = otdd(3 * xa, ya, 3 * xb, yb, normalize="none").distance
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    rotated = otdd(xa @ rotation, ya, xb @ rotation, yb, normalize="none").distance
    assert shuffled == pytest.approx(expected, rel=1e-10)
    assert renamed == pytest.approx(expected, rel=1e-10)
    assert shifted == pytest.approx(expected, rel=1e-9)
    assert scaled == pytest.approx(9 * expected, rel=1e-10)
    assert rotated == pytest.approx(expected, rel=1e-10)
    assert otdd(3 * xa, ya, 0.1 * xb, yb).distance == pytest.approx(otdd(xa, ya, xb, yb).distance)


def test_bounds():
    (xa, ya), (xb, yb) = blobs(3, 9, 6, seed=1), blobs(4, 5, 6, seed=2)
    result = otdd(xa, ya, xb, yb, normalize="none")
    assert 0 < result.distance <= reference_cost(xa, ya, xb, yb).mean()
    assert result.similarity is None
    nonnegative = otdd(np.abs(xa), ya, np.abs(xb), yb)
    assert nonnegative.similarity == pytest.approx(1 - nonnegative.distance / 2)


# ------------------------------------------------------------------------------------- the result


def test_coupling_and_its_sums():
    (xa, ya), (xb, yb) = blobs(3, 4, 5, seed=1), blobs(2, 5, 5, seed=2)
    xa, ya = xa[:-2], ya[:-2]  # uneven classes
    names = np.array(["ant", "bee", "cat"])
    result = otdd(xa, names[ya], xb, yb + 5, return_coupling=True)
    assert result.classes_a == ("ant", "bee", "cat")
    assert result.classes_b == (5, 6)
    np.testing.assert_allclose(result.class_coupling.sum(axis=1), [0.4, 0.4, 0.2])
    np.testing.assert_allclose(result.class_coupling.sum(axis=0), [0.5, 0.5])
    for c in range(3):
        for c2 in range(2):
            block = result.coupling[np.ix_(ya[result.rows_a] == c, yb[result.rows_b] == c2)]
            assert result.class_coupling[c, c2] == pytest.approx(block.sum())
    assert otdd(xa, ya, xb, yb).coupling is None


# ---------------------------------------------------------------------------------------- sampling


def test_sample_is_stratified():
    counts = np.array([1, 50, 10, 139])
    sample = stratified_sample(counts, 40)
    codes = np.repeat(np.arange(4), counts)
    assert len(set(sample)) == 40
    np.testing.assert_allclose(np.bincount(codes[sample]), 40 * counts / 200, atol=1)
    assert np.bincount(codes[sample]).min() >= 1
    weights = row_weights(counts, codes[sample])
    np.testing.assert_allclose(np.bincount(codes[sample], weights), counts / 200)
    assert len(stratified_sample(counts, None)) == len(stratified_sample(counts, 500)) == 200


def test_groups_are_shuffled_and_seeded():
    codes = np.random.default_rng(0).integers(0, 3, 60)
    order = grouped_by_class(codes, 0)
    assert sorted(order) == list(range(60))
    assert (np.diff(codes[order]) >= 0).all()
    assert (grouped_by_class(codes, 0) == order).all()
    assert (grouped_by_class(codes, 1) != order).any()


def test_class_statistics_use_all_rows():
    (xa, ya), (xb, yb) = blobs(3, 30, 5, seed=1), blobs(3, 30, 5, seed=2)
    few, every = (otdd(xa, ya, xb, yb, n_samples=n, return_coupling=True) for n in (12, None))
    assert few.coupling.shape == (12, 12)
    np.testing.assert_array_equal(few.label_distances, every.label_distances)
    assert few.distance == pytest.approx(every.distance, rel=0.3)
    again = otdd(xa, ya, xb, yb, n_samples=12, random_state=1)
    assert again.distance != few.distance


def test_covariance_factor():
    rng = np.random.default_rng(0)
    for n, d in ((30, 4), (4, 30), (1, 3)):
        rows = rng.normal(size=(n, d))
        factor = covariance_factor(rows)
        expected = np.cov(rows.T) if n > 1 else np.zeros((d, d))
        np.testing.assert_allclose(factor.T @ factor, expected, atol=1e-12)
        assert len(factor) == min(n, d)


def test_classes_of_uneven_sizes():
    """Blocks of decompositions are grouped by size; each pair must still find its place."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [5, 2, 5, 9])
    a = measure(rng.normal(size=(21, 6)), labels, normalize="none")
    b = measure(rng.normal(size=(21, 6)), labels, normalize="none")
    found = label_distances(a, b)
    for i in range(4):
        for j in range(4):
            cross = np.linalg.norm(a.factors[i] @ b.factors[j].T, "nuc")
            expected = (
                ((a.means[i] - b.means[j]) ** 2).sum() + a.traces[i] + b.traces[j] - 2 * cross
            )
            assert found[i, j] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_label_distances_from_the_products_of_all_rows(offset):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), [5, 2, 5, 9, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class of one row
        a = measure(rng.normal(size=(22, 16)), labels, normalize="none")
        b = measure(rng.normal(size=(22, 16)) + offset, labels[::-1], normalize="none")
    assert a.complete and b.complete
    products = RowProducts.of(a.rows, b.rows)
    found = label_distances(a, b, products=products)
    np.testing.assert_allclose(found, label_distances(a, b), rtol=1e-12, atol=1e-9)
    counts = [np.bincount(m.codes) for m in (a, b)]
    np.testing.assert_allclose(
        _cross_traces_of_rows(products.inner, *counts),
        cross_traces(a.factors, b.factors),
        rtol=1e-9,
        atol=1e-9,
    )
    # Products that would be wrong for samples and for factors of fewer rows are not used.
    few = measure(*blobs(3, 9, 5, seed=1), n_samples=12)
    flat = measure(*blobs(3, 9, 5, seed=1))
    assert not few.complete and not flat.complete
    for m in (few, flat):
        other = measure(*blobs(3, 9, 5, seed=2))
        found = label_distances(m, other, products=RowProducts.of(m.rows, other.rows))
        np.testing.assert_array_equal(found, label_distances(m, other))


def test_an_assignment_is_the_linear_program_of_equal_weights(monkeypatch):
    rng = np.random.default_rng(0)
    costs, weights = rng.uniform(size=(40, 40)), np.full(40, 1 / 40)
    value, plan = transport.exact(weights, weights, costs)
    monkeypatch.setattr(transport, "linear_sum_assignment", None)  # is not used in what follows
    uneven = weights + np.linspace(-1e-10, 1e-10, 40)
    general, general_plan = transport.exact(uneven, weights, costs)
    assert value == pytest.approx(general, rel=1e-7)
    np.testing.assert_allclose(plan, general_plan, atol=1e-8)
    assert value == pytest.approx((plan * costs).sum(), rel=1e-12)
    np.testing.assert_allclose(plan.sum(0), weights)
    np.testing.assert_allclose(plan.sum(1), weights)


# ---------------------------------------------------------------------------------------- entropic


def test_entropic_against_the_log_domain():
    (xa, ya), (xb, yb) = blobs(2, 6, 3, seed=1), blobs(3, 5, 3, seed=2)
    reg = 0.2
    costs, costs_a, costs_b = (
        reference_cost(*p, *q)
        for p, q in (
            ((xa, ya), (xb, yb)),
            ((xa, ya), (xa, ya)),
            ((xb, yb), (xb, yb)),
        )
    )
    biased = otdd(xa, ya, xb, yb, normalize="none", reg=reg, debiased=False)
    assert biased.distance == pytest.approx(log_sinkhorn(costs, reg), rel=1e-4)
    debiased = otdd(xa, ya, xb, yb, normalize="none", reg=reg).distance
    selves = log_sinkhorn(costs_a, reg) + log_sinkhorn(costs_b, reg)
    assert debiased == pytest.approx(log_sinkhorn(costs, reg) - selves / 2, rel=1e-4)
    np.testing.assert_allclose(biased.class_coupling.sum(), 1)


def test_paper_preset():
    (xa, ya), (xb, yb) = blobs(2, 6, 3, seed=1), blobs(3, 5, 3, seed=2)
    paper = otdd(xa, ya, xb, yb, preset="paper")
    assert paper.distance == otdd(xa, ya, xb, yb, normalize="none", reg=0.1).distance
    assert paper.similarity is None
    assert otdd(xa, ya, xa, ya, preset="paper").distance == pytest.approx(0, abs=1e-3)


def test_small_regularisation_reaches_the_linear_program():
    """Costs in the hundreds at reg = 0.1: plain Sinkhorn underflows."""
    (xa, ya), (xb, yb) = blobs(4, 20, 8, seed=1), blobs(3, 25, 8, seed=2, shift=1.0)
    xa, xb = 10 * xa, 10 * xb
    exact = otdd(xa, ya, xb, yb, normalize="none").distance
    assert exact > 500
    assert otdd(xa, ya, xb, yb, preset="paper").distance == pytest.approx(exact, rel=1e-3)


def test_regularisation_relative_to_the_median_cost():
    (xa, ya), (xb, yb) = blobs(2, 6, 3, seed=1), blobs(3, 5, 3, seed=2)
    median = np.median(reference_cost(xa, ya, xb, yb))
    relative = otdd(xa, ya, xb, yb, normalize="none", reg=0.05, reg_unit="median").distance
    absolute = otdd(xa, ya, xb, yb, normalize="none", reg=0.05 * median).distance
    assert relative == pytest.approx(absolute, rel=1e-6)
    scaled = otdd(9 * xa, ya, 9 * xb, yb, normalize="none", reg=0.05, reg_unit="median").distance
    assert scaled == pytest.approx(81 * relative, rel=1e-6)
    same = np.ones((6, 2)), np.repeat([0, 1], 3)
    with pytest.raises(ValueError, match="half of the costs are 0"):
        otdd(*same, *same, normalize="none", reg=0.05, reg_unit="median")


def test_entropic_invariances():
    (xa, ya), (xb, yb) = blobs(3, 6, 4, seed=1), blobs(2, 8, 4, seed=2)
    expected = otdd(xa, ya, xb, yb, reg=0.05).distance
    order = np.random.default_rng(0).permutation(len(xa))
    assert otdd(xb, yb, xa, ya, reg=0.05).distance == pytest.approx(expected, rel=1e-4)
    assert otdd(xa[order], -ya[order], xb, yb, reg=0.05).distance == pytest.approx(
        expected, rel=1e-4
    )
    assert otdd(xa, ya, xa[order], ya[order], reg=0.05).distance == pytest.approx(0, abs=1e-6)


def test_self_terms_are_kept(monkeypatch):
    (xa, ya), (xb, yb) = blobs(2, 6, 3, seed=1), blobs(3, 5, 3, seed=2)
    a, b = measure(xa, ya), measure(xb, yb)
    settings = Settings(reg=0.1)
    first = distances_to_many(a, [b], settings)[0].distance
    assert len(a.self_terms) == len(b.self_terms) == 1
    solved = []
    monkeypatch.setattr(
        "supernetnas.distance.otdd.entropic",
        lambda *args: solved.append(args) or transport.entropic(*args),
    )
    assert distances_to_many(a, [b], settings)[0].distance == first
    assert len(solved) == 1
    other = distances_to_many(a, [b], Settings(reg=0.1, lambda_y=0.5))[0].distance
    assert other == pytest.approx(otdd(xa, ya, xb, yb, reg=0.1, lambda_y=0.5).distance)


def test_unconverged_entropic_problem_warns(monkeypatch):
    monkeypatch.setattr(transport, "_NEWTON_STEPS", 1)
    (xa, ya), (xb, yb) = blobs(2, 6, 3, seed=1), blobs(3, 5, 3, seed=2)
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        otdd(xa, ya, xb, yb, normalize="none", reg=0.01)


def test_unsolved_linear_program_raises(monkeypatch):
    monkeypatch.setattr(transport, "_LP_ITERATIONS", 1)
    (xa, ya), (xb, yb) = blobs(2, 6, 3, seed=1), blobs(3, 5, 3, seed=2)
    with pytest.raises(RuntimeError, match="not solved"):
        otdd(xa, ya, xb, yb)


# ----------------------------------------------------------------------------------- one to many


@pytest.mark.parametrize("n_jobs", [None, 1, 3])
def test_one_to_many(n_jobs):
    target = measure(*blobs(3, 8, 12, seed=0))
    others = [measure(*blobs(n, m, 12, seed=n)) for n, m in ((2, 9), (4, 5), (1, 30))]
    found = distances_to_many(target, others, Settings(), n_jobs=n_jobs)
    for result, n in zip(found, (2, 4, 1), strict=True):
        m = {2: 9, 4: 5, 1: 30}[n]
        alone = otdd(*blobs(3, 8, 12, seed=0), *blobs(n, m, 12, seed=n))
        assert result.distance == alone.distance
        np.testing.assert_array_equal(result.label_distances, alone.label_distances)
    assert distances_to_many(target, [], Settings()) == []


def test_batches_of_a_device(monkeypatch):
    """What a GPU would compute, here on the CPU: eigenvalues of Gram matrices."""
    rng = np.random.default_rng(0)
    a = [rng.normal(size=(n, 9)) for n in (5, 2, 5, 12)]
    b = [rng.normal(size=(n, 9)) for n in (4, 4, 1, 9, 5)]
    b.append(np.zeros((4, 9)))
    expected = [[np.linalg.norm(p @ q.T, "nuc") for q in b] for p in a]
    np.testing.assert_allclose(cross_traces(a, b), expected, atol=1e-10)
    np.testing.assert_allclose(cross_traces_on_device(a, b, "cpu"), expected, atol=1e-5)
    monkeypatch.setattr("supernetnas.distance.label_distances._BLOCK", 1)
    np.testing.assert_allclose(cross_traces_on_device(a, b, "cpu"), expected, atol=1e-5)
    np.testing.assert_allclose(cross_traces(a, a), cross_traces(a, list(a)), atol=1e-10)


@pytest.mark.gpu
def test_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    target = measure(*blobs(3, 8, 12, seed=0))
    others = [measure(*blobs(n, 9, 12, seed=n)) for n in (2, 4, 1)]
    there = distances_to_many(target, others, Settings(), device="cuda")
    here = distances_to_many(target, others, Settings())
    for one, other in zip(there, here, strict=True):
        assert one.distance == pytest.approx(other.distance, rel=1e-6)


# ------------------------------------------------------------------------------ degenerate datasets


def few_shot(d, n_classes=4, per_class=40, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), per_class)
    return np.maximum(rng.normal(size=(len(labels), d)) + labels[:, None] / 2, 0), labels


DEGENERATE = {
    "one row": (np.array([[1.0, 2.0, 3.0]]), [0]),
    "a row of each class": (np.random.default_rng(0).normal(size=(4, 3)), [0, 1, 2, 3]),
    "two rows of each class": (np.random.default_rng(1).normal(size=(4, 3)), [0, 0, 1, 1]),
    "one class": (np.random.default_rng(2).normal(size=(9, 3)), [7] * 9),
    "constant": (np.full((6, 3), 2.0), [0, 0, 0, 1, 1, 1]),
    "a constant feature": (
        np.c_[np.random.default_rng(3).normal(size=(6, 2)), np.ones(6)],
        [0] * 6,
    ),
    "repeated rows": (np.repeat(np.eye(3), 4, axis=0), np.tile([0, 1], 6)),
    "tiny": (np.random.default_rng(4).normal(size=(8, 3)) * 1e-160, [0, 1] * 4),
    "huge": (np.random.default_rng(5).normal(size=(8, 3)) * 1e160, [0, 1] * 4),
}


@pytest.mark.filterwarnings("ignore:Classes of labels_. with a single row")
@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("kind", ["gaussian", "diagonal", "means", "exact"])
def test_degenerate_datasets(name, kind):
    x, y = DEGENERATE[name]
    other = DEGENERATE["two rows of each class"]
    result = otdd(x, y, *other, label_distance=kind)
    assert 0 <= result.distance <= 4 + 4  # covariances of n - 1 may exceed the bound of two rows
    assert 0 <= result.similarity <= 1
    assert np.isfinite(result.label_distances).all()
    assert result.class_coupling.sum() == pytest.approx(1)
    assert otdd(x, y, x, y, label_distance=kind).distance == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("d", [512, 2048])
def test_many_more_features_than_rows(d):
    a, b = few_shot(d, seed=1), few_shot(d, n_classes=3, seed=2)
    result = otdd(*a, *b)
    assert 0 < result.similarity < 1
    assert otdd(*b, *a).distance == pytest.approx(result.distance, rel=1e-10)
    assert otdd(*a, *a).distance == pytest.approx(0, abs=1e-12)


def test_very_different_scales():
    """One feature a million times as large as the others, and one set as the other."""
    (xa, ya), (xb, yb) = blobs(3, 9, 6, seed=1), blobs(3, 9, 6, seed=2)
    stretched = otdd(xa * [1e6, 1, 1, 1, 1, 1], ya, xb, yb, normalize="none")
    expected = linear_program(reference_cost(xa * [1e6, 1, 1, 1, 1, 1], ya, xb, yb))
    assert stretched.distance == pytest.approx(expected, rel=1e-6)
    assert otdd(xa * 1e6, ya, xb, yb, normalize="none").distance > 0


def test_many_rows():
    """100,000 rows: class statistics use all of them, the transport a stratified sample."""
    rng = np.random.default_rng(0)
    labels = rng.choice(5, size=100_000, p=[0.4, 0.3, 0.2, 0.09, 0.01])
    rows = (rng.normal(size=(len(labels), 16)) + labels[:, None]).astype(np.float32)
    result = otdd(rows, labels, *blobs(3, 20, 16), normalize="none", return_coupling=True)
    assert result.coupling.shape == (1000, 60)
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(result.class_coupling.sum(axis=1), shares, rtol=1e-9)
    x, y = blobs(3, 20, 16)
    in_1 = rows[labels == 1].astype(float)
    expected = bures(in_1.mean(0), np.cov(in_1.T), x[y == 2].mean(0), np.cov(x[y == 2].T))
    assert result.label_distances[1, 2] == pytest.approx(expected, rel=1e-6)


# -------------------------------------------------------------------------------------- bad inputs


def test_single_rows_and_single_classes():
    x, y = blobs(3, 4, 5)
    with pytest.warns(UserWarning, match="single row.*0, 1"):
        result = otdd(x[[0, 4, 8, 9]], [0, 1, 2, 2], x, y)
    assert np.isfinite(result.distance)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert otdd(x, np.zeros(12), x, y).label_distances.shape == (1, 3)


def test_small_classes_are_dropped():
    (xa, ya), (xb, yb) = blobs(3, 6, 5, seed=1), blobs(3, 6, 5, seed=2)
    ya = np.where(np.arange(18) == 7, 9, ya)
    with pytest.warns(UserWarning, match="labels_a with fewer than 2 rows are dropped: 9"):
        result = otdd(xa, ya, xb, yb, min_class_count=2, return_coupling=True)
    assert result.classes_a == (0, 1, 2)
    keep = np.arange(18) != 7
    assert sorted(result.rows_a) == np.flatnonzero(keep).tolist()
    assert result.distance == pytest.approx(otdd(xa[keep], ya[keep], xb, yb).distance)
    with pytest.raises(ValueError, match="No class of labels_b has 7 rows"):
        otdd(xa[:7], np.zeros(7), xb, yb, min_class_count=7)


def bad(values, row, column, value):
    values = values.copy()
    values[row, column] = value
    return values


X, Y = blobs(2, 3, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features_a": np.empty((0, 4)), "labels_a": []}, "features_a is empty"),
        ({"labels_b": Y[:-1]}, r"labels_b must have one label per row of features_b"),
        ({"labels_b": Y[:, None]}, "labels_b must have one label"),
        ({"features_b": X[0], "labels_b": Y}, r"features_b must have shape \(n, d\)"),
        ({"features_b": bad(X, 3, 1, np.nan)}, "features_b has non-finite .* 1 of 6 .* row 3"),
        ({"features_a": bad(X, 2, 1, np.inf)}, "features_a has non-finite .* 1 of 6 .* row 2"),
        ({"features_b": X[:, :3]}, "dimensions, 4 and 3"),
        ({"features_a": bad(X, 2, slice(None), 0)}, "features_a has 1 rows of length 0.* row 2"),
        ({"normalize": "l1"}, "normalize"),
        ({"zero_rows": "drop"}, "zero_rows"),
        ({"label_distance": "bures"}, "label_distance"),
        ({"preset": "papers"}, "preset"),
        ({"reg": 0}, "reg"),
        ({"reg": 1, "reg_unit": "mean"}, "reg_unit"),
        ({"labels_a": [0, 0, 0, 1, 1, np.nan]}, "labels_a has missing labels"),
        ({"features_a": X * 1e80, "normalize": "none"}, "features_a has values up to"),
        ({"lambda_x": -1}, "lambda_x"),
        ({"lambda_y": np.nan}, "lambda_y"),
        ({"n_samples": 1}, "n_samples=1 is less than the number of classes 2"),
    ],
)
def test_bad_inputs(changes, message):
    arguments = {"features_a": X, "labels_a": Y, "features_b": X, "labels_b": Y} | changes
    with pytest.raises(ValueError, match=message):
        otdd(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features_b": X.astype(str)}, "features_b must be real numbers"),
        ({"features_b": X + 1j}, "features_b must be real numbers"),
        ({"labels_a": np.array([0, "a", None, 1, 1, 1], dtype=object)}, "labels_a .* be sorted"),
    ],
)
def test_wrong_types(changes, message):
    arguments = {"features_a": X, "labels_a": Y, "features_b": X, "labels_b": Y} | changes
    with pytest.raises(TypeError, match=message):
        otdd(**arguments)


def test_zero_rows_may_be_kept():
    x = bad(X, 2, slice(None), 0)
    assert np.isfinite(otdd(x, Y, X, Y, zero_rows="keep").distance)


def test_huge_features_warn():
    x = (X * 1e5).astype(np.float32)
    with pytest.warns(UserWarning, match="single precision"):
        otdd(x, Y, x, Y, normalize="none")


def test_inputs_stay_as_they_are():
    x, y = X.copy(), Y.copy()
    otdd(x, y, x, y)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
