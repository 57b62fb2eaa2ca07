"""Scores of members, several at once and one after another."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_elastic import MEMBERS, SPACE, tiny_supernet
from tiny_paths import drawn, tiny_paths
from tiny_search import labelled
from torch import nn
from torch.testing import assert_close

from supernetnas.search.protocols import Step
from supernetnas.search.scoring import Score, Scorer
from supernetnas.training.batch_norm import recalibrate_batch_norm
from supernetnas.training.probes import linear_probe

DATA = labelled(90), labelled(40, seed=3)


def referee(supernet, architecture, train, validation, seed, n=1280):
    """A plain network, recalibrated as networks are elsewhere; logits of the validation images."""
    network = supernet.network(architecture).eval()
    generator = torch.Generator().manual_seed(seed)
    recalibrate_batch_norm(
        network, train.images, max_batches=max(1, round(n / 64)), generator=generator
    )
    with torch.no_grad():
        return network, network(validation.images.clean(torch.arange(len(validation))))


@pytest.mark.parametrize("n", [1280, 64, 1])
def test_a_score_is_that_of_the_recalibrated_network(n):
    supernet = tiny_paths()
    scorer = Scorer(supernet, *DATA, seed=5, n_recalibration=n)
    for architecture in drawn(supernet.space, 3):
        _, logits = referee(supernet, architecture, *DATA, 5, n)
        (score,) = scorer([architecture])
        assert score.accuracy == (logits.argmax(1) == DATA[1].labels).double().mean()
        loss = F.cross_entropy(logits, DATA[1].labels)
        assert score.loss == pytest.approx(float(loss), rel=1e-5)


def test_several_at_once_score_as_one_after_another():
    supernet = tiny_paths()
    scorer = Scorer(supernet, *DATA, seed=5)
    architectures = [*drawn(supernet.space, 20), drawn(supernet.space, 1)[0]]
    assert scorer(architectures) == [scorer([a])[0] for a in architectures]
    assert len(set(scorer(architectures))) > 10
    assert scorer([]) == []


def test_members_that_shrink_score_as_their_networks():
    supernet = tiny_supernet(n_classes=3).float()
    members = [
        *MEMBERS,
        SPACE.largest,
        SPACE.largest.at(16),
        MEMBERS[0].at(32),
        SPACE.decode([1] * len(SPACE.genes)),
    ]
    scorer = Scorer(supernet, *DATA, seed=5)
    together = scorer(members)
    assert together == [scorer([member])[0] for member in members]
    for member, score in zip(members, together, strict=True):
        _, logits = referee(supernet, member, *DATA, 5)
        loss = F.cross_entropy(logits, DATA[1].labels)
        assert score.loss == pytest.approx(float(loss), rel=1e-4)


def test_each_part_is_run_once_for_those_that_share_it():
    supernet = tiny_paths()
    counts = {}

    def count(name):
        def hook(*_):
            counts[name] = counts.get(name, 0) + 1

        return hook

    for place, layer in enumerate(supernet.layers):
        for choice, module in enumerate(layer):
            module.register_forward_hook(count((place, choice)))
    supernet.stem.register_forward_hook(count("stem"))
    decode = supernet.space.decode
    Scorer(supernet, *DATA, seed=0)([decode(g) for g in ([0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0])])
    runs = 1 + 1  # batches of the statistics, and of the validation
    assert counts == {
        "stem": runs,
        (0, 0): runs,
        (1, 0): runs,
        (1, 1): runs,
        (2, 0): runs,
        (2, 1): 2 * runs,
        (3, 0): 3 * runs,
    }


def test_the_supernet_is_left_as_it_is():
    supernet = tiny_paths().train()
    supernet.layers[0][1].eval()
    before = copy.deepcopy(supernet.state_dict())
    modes = [module.training for module in supernet.modules()]
    norms = [m for m in supernet.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    buffers = [norm.running_mean for norm in norms]
    Scorer(supernet, *DATA, seed=0)(drawn(supernet.space, 5))
    assert_close(supernet.state_dict(), before, rtol=0, atol=0)
    assert modes == [module.training for module in supernet.modules()]
    assert all(norm.running_mean is buffer for norm, buffer in zip(norms, buffers, strict=True))
    assert {norm.momentum for norm in norms} == {0.1}


def test_it_follows_the_weights():
    supernet = tiny_paths()
    scorer, (architecture,) = Scorer(supernet, *DATA, seed=0), drawn(supernet.space, 1)
    before = scorer([architecture])
    with torch.no_grad():
        supernet.classifier.weight.neg_()
    assert scorer([architecture]) != before


def test_a_probe_needs_no_classifier():
    supernet = tiny_paths()
    scorer = Scorer(supernet, *DATA, seed=5, probe=True)
    architectures = drawn(supernet.space, 4)
    scores = scorer(architectures)
    for architecture, score in zip(architectures, scores, strict=True):
        network, _ = referee(supernet, architecture, *DATA, 5)
        with torch.no_grad():
            features = network[:-1](DATA[1].images.clean(torch.arange(40)))
        accuracy = linear_probe(features.numpy(), DATA[1].labels.numpy())
        assert score.accuracy == pytest.approx(accuracy, abs=0.026)
        assert score.loss == 1 - score.accuracy
    with torch.no_grad():
        supernet.classifier.weight.fill_(np.nan)
    assert scorer(architectures) == scores


def test_a_probe_of_a_single_class_is_worth_nothing():
    supernet, data = tiny_paths(), labelled(2, classes=2)
    assert (
        Scorer(supernet, data, data, seed=0, probe=True)(drawn(supernet.space, 2))
        == [Score(0.0, 1.0)] * 2
    )


def test_the_better_score_ranks_higher():
    scores = [Score(0.5, 0.2), Score(0.5, 0.1), Score(0.6, 9.0)]
    assert sorted(scores, key=lambda score: score.rank) == scores


def test_a_member_may_have_more_parts_than_calls_can_be_deep():
    class Deep:
        """A supernet whose one member passes images through very many parts."""

        def steps(self, architecture):
            head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
            with torch.no_grad():
                head[1].weight.zero_()
            return [*(Step(n, nn.Identity()) for n in range(3000)), Step("head", head)]

    (score,) = Scorer(Deep(), *DATA, seed=0)([None])
    assert 0 <= score.accuracy <= 1
