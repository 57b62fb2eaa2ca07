"""The source's architecture, without a search."""

import numpy as np
import pytest
from tiny import patterns, tiny_classifier

from supernetnas import Cells
from supernetnas.families.base import get_family
from supernetnas.families.warm_start import starting_supernet
from supernetnas.search.costs import count_macs


def test_it_is_what_the_sources_alphas_stand_for(tiny_zoo):
    X, y = patterns(colour=True)
    clf = tiny_classifier(tiny_zoo, "both", search="none").fit(X, y)
    family, source = get_family("cells"), tiny_zoo["both"]
    seen = family.input((8, 8), 3, 8, source.config)
    supernet = starting_supernet(family, seen, 4, 0, (source.config, source.state_dict()))
    assert clf.genotype_ == supernet.genotype()
    assert {row["stage"] for row in clf.history_} == {"retrain"}
    for name, value in source.state_dict().items():  # nothing was searched
        if name.startswith("alphas"):
            np.testing.assert_array_equal(clf.supernet_state_[name], value.numpy())


def test_all_images_are_retrained_on(tiny_zoo, monkeypatch):
    from supernetnas.fitting import finetuning

    seen = []

    def watched(network, train, *args, **kwargs):
        seen.append(len(train))
        return original(network, train, *args, **kwargs)

    original = finetuning.retrain
    monkeypatch.setattr(finetuning, "retrain", watched)
    X, y = patterns(colour=True)
    tiny_classifier(tiny_zoo, "both", search="none").fit(X, y)
    assert seen == [len(X)]


def test_it_keeps_limits(tiny_zoo):
    X, y = patterns(colour=True)
    free = tiny_classifier(tiny_zoo, "both", search="none").fit(X, y)
    most = free.n_macs_ - 1
    clf = tiny_classifier(tiny_zoo, "both", search="none", max_macs=most).fit(X, y)
    assert count_macs(clf.network_, (3, 8, 8)) == clf.n_macs_ <= most


@pytest.mark.parametrize(
    "strategy, search, family, fresh",
    [
        ("both", "none", "cells", True),
        ("both", "random", "cells", True),
        ("both", "none", Cells(network_channels=8), False),  # where the other weights are new, too
        ("both", "none", Cells(network_cells=6), False),
        ("both", "sdarts", "cells", False),
        ("scratch", "none", "cells", False),
        ("scratch", "sdarts", "cells", False),
    ],
)
def test_a_classifier_that_nothing_has_trained_is_fresh(
    tiny_zoo, monkeypatch, strategy, search, family, fresh
):
    """It learns at ten times the rate of what comes from the source."""
    from supernetnas.fitting import finetuning

    seen = []

    def watched(network, train, settings, *args, **kwargs):
        seen.append((network.fresh_parameters(), list(network.classifier.parameters())))
        assert settings.fresh_rate == 10
        return original(network, train, settings, *args, **kwargs)

    original = finetuning.retrain
    monkeypatch.setattr(finetuning, "retrain", watched)
    X, y = patterns(colour=True)
    clf = tiny_classifier(tiny_zoo, strategy, search=search, retraining__epochs=1)
    clf.set_params(family=family).fit(X, y)
    ((found, classifier),) = seen
    assert found == (classifier if fresh else [])
