"""Linear models of features: each against scikit-learn's own."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.preprocessing import StandardScaler

from supernetnas.training.probes import linear_head, linear_probe, subset


def features(n, d, shares, seed=0):
    """Rows that tell classes of unequal sizes apart somewhat, on scales of their own."""
    random = np.random.default_rng(seed)
    labels = random.choice(len(shares), n, p=np.array(shares) / np.sum(shares))
    centres = random.normal(size=(len(shares), d))
    rows = random.normal(size=(n, d)) + 3 / np.sqrt(d) * centres[labels]
    return rows * random.uniform(0.1, 10, d) + random.normal(size=d), labels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shares", [(1, 1), (4, 1), (1, 1, 1), (6, 3, 2, 1, 1, 1)], ids=str)
@pytest.mark.parametrize(("n", "d"), [(150, 6), (60, 90), (60, 60)])
def test_linear_probe_is_the_ridge_classifier_of_scikit_learn(n, d, shares, seed):
    rows, labels = features(n, d, shares, seed)
    rows[:, 1] = 3.7  # tells nothing
    model = RidgeClassifierCV(
        alphas=10.0 ** np.arange(-1, 6), scoring="accuracy", store_cv_results=True
    )
    model.fit(StandardScaler().fit_transform(rows), labels)
    expected = model.best_score_
    if len(shares) == 2:  # its score looks for the greatest of a single column
        expected = ((model.cv_results_[:, 0] > 0) == labels[:, None]).mean(axis=0).max()
    found = linear_probe(rows, labels)
    assert found == pytest.approx(expected, abs=1e-12)
    assert 1 / len(shares) < found
    # Neither names of classes nor the precision of features matter.
    assert linear_probe(rows.astype(np.float32), np.array(list("zyxwvu"))[labels]) == found


def test_linear_probe_of_what_is_constant():
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    assert linear_probe(np.full((60, 8), 3.7), labels) == 0.5  # the most frequent class
    with pytest.raises(ValueError, match="two images of each class"):
        linear_probe(np.eye(5), [0, 0, 1, 1, 2])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_linear_head_is_the_regression_of_standardised_features(n_classes, weighted):
    rows, labels = features(80, 20, (1,) * n_classes)
    rows[:, 1] = 3.7
    scaler = StandardScaler().fit(rows)
    class_weight = np.array([8.0, 1, 0.5, 1, 2])[:n_classes] if weighted else None
    of_class = dict(enumerate(class_weight)) if weighted else None
    model = LogisticRegression(C=0.01, class_weight=of_class, tol=1e-6, max_iter=1000)
    expected = model.fit(scaler.transform(rows), labels).predict_proba(scaler.transform(rows))
    weight, bias = linear_head(rows, labels, n_classes, class_weight)
    assert weight.shape == (n_classes, 20) and bias.shape == (n_classes,)
    assert weight.dtype == bias.dtype == torch.float32
    scores = torch.from_numpy(rows).float() @ weight.T + bias
    np.testing.assert_allclose(scores.softmax(1).numpy(), expected, atol=2e-3)
    assert expected.max() > 1.5 / n_classes  # it says something


def test_subset():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 9 + [3] * 2)
    labels = labels[torch.randperm(101, generator=torch.Generator().manual_seed(1))]

    def drawn(most, seed=0):
        return subset(labels, most, torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(101), torch.arange(101))
    found = drawn(20)
    assert labels[found].bincount().tolist() == [12, 6, 2, 2]
    assert torch.equal(found, found.unique())
    assert torch.equal(found, drawn(20))
    assert not torch.equal(found, drawn(20, seed=1))
    assert labels[drawn(4)].bincount().tolist() == [2, 2, 2, 2]
