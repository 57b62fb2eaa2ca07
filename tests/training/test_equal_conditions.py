"""What is compared is measured under equal draws, and nothing else notices."""

import pytest
import torch
from tiny_search import build, labelled, seeded

from supernetnas.families.cells.search.bilevel import BilevelSearch
from supernetnas.families.cells.search.eigenvalue import dominant_eigenvalue
from supernetnas.families.cells.search.methods import (
    DirichletSearch,
    PerturbationDerivation,
    SecondOrderSearch,
    SharedWeightsSearch,
)
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.training.batch_norm import frozen_batch_norm
from supernetnas.training.steps import evaluate


def search(kind, space):
    settings = SearchSettings(epochs=3, batch_size=6, perturbation="none")
    return kind(build(space, cells=2), labelled(), labelled(seed=2), settings, seeded())


@pytest.mark.parametrize(
    "measure",
    [dominant_eigenvalue, lambda one: PerturbationDerivation(one)._measure(None)],
    ids=["eigenvalue", "perturbation"],
)
def test_noise_operations(measure):
    one = search(BilevelSearch, "s4")
    before = one._noise.get_state()
    assert measure(one) == measure(one)
    assert torch.equal(one._noise.get_state(), before)


@pytest.mark.parametrize("kind", [SharedWeightsSearch, DirichletSearch])
def test_epochs_of_methods_that_draw(kind):
    one = search(kind, "s1")
    results = []
    for _ in range(2):
        one.before_epoch()
        with frozen_batch_norm(one.supernet):
            results.append(evaluate(one.evaluation_scores, one.validation))
    assert results[0] == results[1]


def test_finite_differences_of_the_second_order():
    one = search(SecondOrderSearch, "s4")
    seen = []
    one.supernet.register_forward_pre_hook(lambda *_: seen.append(one._noise.get_state()))
    one.alpha_gradients(torch.arange(6), torch.arange(6))
    ahead, _, plus, minus = seen
    assert torch.equal(ahead, plus)
    assert torch.equal(plus, minus)
