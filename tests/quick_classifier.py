"""A classifier that does a little of everything, and the images that it is fitted on."""

from tiny import patterns, tiny_classifier

IMAGES, LABELS = patterns()
NEW, _ = patterns(seed=1)


def quick(zoo=None, strategy="scratch", **parameters):
    """A classifier that does a little of everything."""
    return tiny_classifier(zoo, strategy, **{"retraining__epochs": 2, **parameters})


def assert_equal(one, other, X=NEW):
    assert one.genotype_ == other.genotype_
    assert one.source_ == other.source_
    assert one.predict_proba(X).tobytes() == other.predict_proba(X).tobytes()
