"""Scores of sources: each against a computation of its own, and all of them on a zoo."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from tiny import CONFIG, EMBEDDER, patterns, state

from supernetnas import DatasetSignature
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.images.preprocessing import Preprocessing
from supernetnas.images.reading import as_image_set
from supernetnas.selection.scores import (
    RANKINGS,
    ScoredTarget,
    batch_norm_distance,
    frechet_distance,
    log_evidence,
    rank_by,
    rank_sum,
    supernet_features,
)
from supernetnas.training.batches import LabelledImages
from supernetnas.training.probes import linear_probe


def labelled(images, labels):
    pixels = as_image_set(images).tensor(8, 8)
    tensors = Preprocessing.of(pixels).on_device(pixels, "cpu")
    return LabelledImages(tensors, torch.as_tensor(labels))


def target(kind="bars", seed=0):
    images, labels = patterns(kind=kind, colour=True, seed=seed)
    signature = DatasetSignature.from_features(
        EMBEDDER.embed(as_image_set(images)), labels, embedder_id=EMBEDDER.identity
    )
    return ScoredTarget(signature, labelled(images, labels))


def supernet():
    net = CellSupernet(CONFIG)
    net.load_state_dict(state(0))
    return net


@pytest.mark.parametrize(("n", "d"), [(40, 5), (20, 35)])
def test_log_evidence_is_the_greatest_evidence(n, d):
    """Against a numerical maximum of the density of y ~ N(0, I / beta + F F^T / alpha)."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, d))
    labels = (features[:, 0] + features[:, 1] + 0.5 * rng.normal(size=n) > 0).astype(int)
    labels[features[:, 2] > 1] = 2

    def worst(logs, y):
        alpha, beta = np.exp(logs)
        covariance = np.eye(n) / beta + features @ features.T / alpha
        return -multivariate_normal.logpdf(y, np.zeros(n), covariance)

    expected = []
    for label in range(3):
        y = (labels == label).astype(float)
        starts = ([0, 0], [3, 1], [-2, 3])
        found = [minimize(worst, s, args=(y,), method="Nelder-Mead").fun for s in starts]
        expected.append(-min(found) / n)
    assert log_evidence(features, labels) == pytest.approx(np.mean(expected), abs=1e-4)


def test_log_evidence_prefers_features_that_tell():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    useful = rng.normal(size=(60, 8)) + 2 * np.eye(3, 8)[labels]
    useless = rng.normal(size=(60, 8))
    assert log_evidence(useful, labels) > log_evidence(useless, labels)
    assert np.isfinite(log_evidence(np.zeros((60, 8)), labels))
    assert np.isfinite(log_evidence(np.eye(3)[labels], labels))
    assert linear_probe(useful, labels) > 0.7 > 0.6 > linear_probe(useless, labels)
    with pytest.raises(ValueError, match="two images"):
        linear_probe(useful[:3], [0, 0, 1])


def test_frechet_distance():
    def signature(seed, per_class=30):
        rng = np.random.default_rng(seed)
        labels = np.repeat([0, 1, 2], per_class)
        x = rng.normal(size=(len(labels), 5)) @ rng.normal(size=(5, 5)) + labels[:, None]
        return x, DatasetSignature.from_features(x, labels, embedder_id="e", normalize="none")

    (x, a), (y, b) = signature(0), signature(1)
    s, s2 = np.cov(x.T), np.cov(y.T)
    expected = np.square(x.mean(0) - y.mean(0)).sum()
    expected += np.trace(s + s2 - 2 * sqrtm(s @ s2)).real
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-2)  # of float16 rows
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_batch_norm_distance():
    """In a network whose statistics are those of the data the distance is 0, else the formula's."""
    net = supernet()
    data = labelled(*patterns(colour=True))
    inputs = {}
    norms = {name: m for name, m in net.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    handles = [
        m.register_forward_pre_hook(lambda _, x, name=name: inputs.update({name: x[0].double()}))
        for name, m in norms.items()
    ]
    net.fused = False
    with torch.no_grad():
        net.eval()(data.images.clean(torch.arange(len(data))))
    for handle in handles:
        handle.remove()
    net.fused = True
    expected = 0.0
    for name, x in inputs.items():
        x = x.transpose(0, 1).flatten(1)
        norm = norms[name]
        gap = (x.mean(1) - norm.running_mean) ** 2
        gap = gap + (x.std(1, unbiased=False) - norm.running_var**0.5) ** 2
        expected += (gap / (norm.running_var + norm.eps)).mean().item()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert batch_norm_distance(net, data) == pytest.approx(expected, rel=1e-4)
    assert net.fused
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    # The stem's batch norm sees the images through a convolution alone: its own statistics fit.
    stem = net.stem[1]
    x = inputs["stem.1"].transpose(0, 1).flatten(1)
    stem.running_mean.copy_(x.mean(1))
    stem.running_var.copy_(x.var(1, unbiased=False))
    only_stem = CellSupernet.__new__(CellSupernet)
    torch.nn.Module.__init__(only_stem)
    only_stem.stem = net.stem
    only_stem.features = lambda batch: only_stem.stem(batch).mean((2, 3))
    assert batch_norm_distance(only_stem, data) == pytest.approx(0, abs=1e-6)


def test_supernet_features():
    net, data = supernet(), labelled(*patterns(colour=True))
    found = supernet_features(net, data)
    with torch.no_grad():
        expected = net.eval().features(data.images.clean(torch.arange(len(data))))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", RANKINGS)
def test_rankings(tiny_zoo, method):
    scores = rank_by(method, target(), tiny_zoo.singles())
    assert set(scores) == {"bars", "spots"}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert np.isfinite(list(scores.values())).all()
    assert rank_by(method, target(), tiny_zoo.singles()) == scores
    if method in ("ot", "frechet"):
        assert next(iter(scores)) == "bars"
    assert RANKINGS[method].cost and RANKINGS[method].meaning


def test_unknown_ranking(tiny_zoo):
    with pytest.raises(ValueError, match="logme"):
        rank_by("leep", target(), tiny_zoo.singles())


def test_rank_sum():
    one, two = {"a": 3.0, "b": 2.0, "c": 1.0}, {"c": 9.0, "a": 8.0, "b": 8.0}
    assert rank_sum(one) == {"a": -1, "b": -2, "c": -3}
    assert rank_sum(one, two) == {"a": -3.5, "c": -4.0, "b": -4.5}
    with pytest.raises(ValueError, match="same sources"):
        rank_sum(one, {"a": 1.0})
