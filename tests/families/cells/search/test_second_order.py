"""The second-order gradient of the alphas."""

import pytest
import torch
import torch.nn.functional as F
from tiny_search import Doubles, build, labelled, search, seeded
from torch.func import functional_call

from supernetnas.families.cells.search.bilevel import BilevelSearch
from supernetnas.families.cells.search.methods import SecondOrderSearch
from supernetnas.families.cells.search.second_order import unrolled_gradients
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.training.batch_norm import frozen_batch_norm


class Exact(SecondOrderSearch):
    """A search in double precision."""

    def _loss(self, scores, labels):
        return F.cross_entropy(scores, labels)


def double_search(kind=Exact, **settings):
    settings = SearchSettings(**{"epochs": 2, "batch_size": 6, "warmup": 0.0, **settings})
    parts = labelled(6, Doubles), labelled(6, Doubles, seed=2)
    return kind(build(cells=1).double(), *parts, settings, seeded())


def test_a_quadratic_in_closed_form():
    """L_train = |w - A a|^2 / 2 and L_val = |w - c|^2 / 2: finite differences are exact."""
    generator = seeded()
    A = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    w, c, buffer = torch.randn(3, 5, generator=generator, dtype=torch.float64).unbind()
    a = torch.randn(3, generator=generator, dtype=torch.float64)
    w, a = w.clone().requires_grad_(), a.requires_grad_()
    before = w.detach().clone()
    xi, mu, decay = 0.3, 0.9, 0.02
    (result,) = unrolled_gradients(
        lambda: (w - A @ a).square().sum() / 2,
        lambda: (w - c).square().sum() / 2,
        [w], [a], [buffer], learning_rate=xi, momentum=mu, weight_decay=decay,
    )  # fmt: skip
    ahead = before - xi * (mu * buffer + before - A @ a.detach() + decay * before)
    torch.testing.assert_close(result, xi * A.T @ (ahead - c), rtol=1e-9, atol=1e-12)
    assert torch.equal(w, before)


@pytest.mark.parametrize("stepped", [False, True])
def test_against_the_exact_hypergradient(stepped):
    """Differentiate the validation loss of the weight step itself, by double backward."""
    one = double_search(learning_rate=0.1)
    if stepped:  # momentum buffers and statistics that differ from their initial values
        one.run_epoch()
    supernet = one.supernet
    index = torch.arange(6)
    one.generator.manual_seed(5)
    one.difference = 1e-4
    for group in one.weight_optimizer.param_groups:
        group["lr"] = 0.07
    result = one.alpha_gradients(index, index)

    one.generator.manual_seed(5)
    images = one.validation.images.augmented(index, one.generator)
    train_images = one.train.images.augmented(index, one.generator)
    supernet.fused = False
    names = [n for n, _ in supernet.named_parameters() if not n.startswith("alphas_")]
    weights = dict(supernet.named_parameters())
    alphas = supernet.alpha_parameters()

    def loss(weights, images, labels):
        scores = functional_call(supernet, weights, (images,))
        return -scores.log_softmax(1)[torch.arange(6), labels].mean()

    with frozen_batch_norm(supernet):
        inner = torch.autograd.grad(
            loss({}, train_images, one.train.labels[index]),
            [weights[n] for n in names],
            create_graph=True,
        )
        ahead = {}
        for name, gradient in zip(names, inner, strict=True):
            w = weights[name]
            buffer = one.weight_optimizer.state.get(w, {}).get("momentum_buffer", 0.0)
            ahead[name] = w - 0.07 * (0.9 * buffer + gradient + 3e-4 * w)
        expected = torch.autograd.grad(
            loss(ahead, images, one.validation.labels[index]), alphas, materialize_grads=True
        )
    first_order = torch.autograd.grad(
        loss({}, images, one.validation.labels[index]), alphas, materialize_grads=True
    )
    assert bool(one.weight_optimizer.state) is stepped
    for got, want, plain in zip(result, expected, first_order, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-8)
        if want.abs().max() > 0:
            assert (want - plain).abs().max() > 1e-2 * want.abs().max()


def test_it_leaves_weights_statistics_and_gradients():
    one = search(space="s2", epochs=2)
    one = SecondOrderSearch(one.supernet, one.train, one.validation, one.settings, seeded())
    one.supernet.train()
    before = {k: v.clone() for k, v in one.supernet.state_dict().items()}
    one.alpha_gradients(torch.arange(6), torch.arange(6))
    for name, value in one.supernet.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in one.supernet.parameters())


def test_without_a_step_ahead_it_is_first_order():
    second, first = double_search(learning_rate=0.1), double_search(BilevelSearch)
    for group in second.weight_optimizer.param_groups:
        group["lr"] = 0.0
    index = torch.arange(6)
    result = second.alpha_gradients(index, index)
    first._loss = second._loss
    for got, want in zip(result, first.alpha_gradients(index, index), strict=True):
        if want is not None:
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-12)


def test_a_whole_search():
    one = search(space="s1")
    one = SecondOrderSearch(one.supernet, one.train, one.validation, one.settings, seeded())
    alphas = one.supernet.alphas_normal.clone()
    assert len(one.run()) == 2
    assert not torch.equal(alphas, one.supernet.alphas_normal)
