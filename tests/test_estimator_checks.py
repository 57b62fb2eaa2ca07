"""Every check that scikit-learn has for a classifier, for all ways to start a search."""

from unittest import SkipTest

import pytest
import sklearn
from elastic_zoo import elastic_classifier
from sklearn.base import clone
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from sklearn.utils.fixes import parse_version
from tiny import tiny_classifier

from supernetnas.fitting.retraining import Retraining

# The default, and what also embeds the images; after that all of them do the same.
STRATEGIES = ("auto", "ot")
OTHERS = ("scratch", "multi")

# What asks for a good fit; the other checks ask the same of any.
LEARNING = {
    "check_class_weight_classifiers",
    "check_classifiers_classes",
    "check_classifiers_train",
}


@parametrize_with_checks([tiny_classifier(strategy=strategy) for strategy in STRATEGIES])
def test_check(estimator, check, tiny_zoo):
    clf = clone(estimator).set_params(zoo=str(tiny_zoo.folder))
    if check.func.__name__ not in LEARNING:
        clf.set_params(retraining__epochs=2)
    try:
        check(clf)
    except SkipTest as reason:
        pytest.fail(f"skipped: {reason}")


@pytest.mark.slow
@parametrize_with_checks([tiny_classifier(strategy=strategy) for strategy in OTHERS])
def test_check_of_other_starts(estimator, check, tiny_zoo):
    test_check(estimator, check, tiny_zoo)


@pytest.mark.slow
@parametrize_with_checks([elastic_classifier(retraining=Retraining(epochs=6), batch_size=16)])
def test_check_of_elastic_networks(estimator, check, published_zoo):
    test_check(estimator, check, published_zoo)


@pytest.mark.parametrize("strategy", [*STRATEGIES, *OTHERS])
def test_none_is_left_out(strategy):
    found = list(estimator_checks_generator(tiny_classifier(strategy=strategy)))
    if parse_version("1.9") <= parse_version(sklearn.__version__) < parse_version("1.10"):
        assert len(found) == 56
        assert {check.func.__name__ for _, check in found} >= LEARNING
    assert len(found) >= 50
