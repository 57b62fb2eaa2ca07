"""GDAS: what is drawn, what runs, and which gradient comes back."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from tiny_cells import MIXED
from tiny_search import build, labelled, seeded

from supernetnas.families.cells.paths import choices_of, path_scores
from supernetnas.families.cells.search.gumbel import gumbel_sample, temperature
from supernetnas.families.cells.search.methods import GumbelSearch
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.families.cells.space import CellKind


def search(space="s1", **settings):
    settings = SearchSettings(**{"epochs": 2, "batch_size": 6, **settings})
    return GumbelSearch(build(space, cells=2), labelled(), labelled(seed=2), settings, seeded())


def test_operations_are_drawn_by_their_softmax():
    n, alphas = 40_000, torch.tensor([0.0, 1.0, -2.0, 50.0])
    mask = torch.tensor([True, True, True, False])
    weights, drawn = gumbel_sample(alphas.expand(n, 4), mask.expand(n, 4), 0.5, seeded())
    shares = torch.bincount(drawn, minlength=4) / n
    expected = torch.cat([alphas[:3].softmax(0), torch.zeros(1)])
    torch.testing.assert_close(shares, expected, rtol=0, atol=5 * (0.25 / n) ** 0.5)
    one_hot = F.one_hot(drawn, 4).float()
    torch.testing.assert_close(weights, one_hot)


@pytest.mark.parametrize("tau", [10.0, 0.5])
def test_the_gradient_is_that_of_the_relaxation(tau):
    """Straight through: d h~_i / d alpha_j = h~_i (1[i = j] - h~_j) / tau, at the same noise."""
    alphas = torch.randn(14, 3, generator=seeded(), dtype=torch.float64).requires_grad_()
    mask, upstream = torch.ones(14, 3).bool(), torch.randn(14, 3, dtype=torch.float64)
    weights, _ = gumbel_sample(alphas, mask, tau, seeded(4))
    (result,) = torch.autograd.grad((weights * upstream).sum(), alphas)
    noise = -torch.empty(14, 3, dtype=torch.float64).exponential_(generator=seeded(4)).log()
    # The normaliser of the log softmax cancels in the softmax.
    h = ((alphas.detach() + noise) / tau).softmax(1)
    expected = h * (upstream - (h * upstream).sum(1, keepdim=True)) / tau
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)


def test_the_temperature_falls_linearly():
    values = [temperature(epoch, 100) for epoch in range(100)]
    assert values[0] == 10.0
    assert values[-1] == pytest.approx(0.1)
    steps = {round(a - b, 9) for a, b in itertools.pairwise(values)}
    assert steps == {0.1}
    assert temperature(0, 1) == 10.0


@pytest.mark.parametrize("space", ["s1", "s3", MIXED.name])
def test_a_path_is_the_supernet_with_one_hot_weights(space):
    net, x = build(space).double(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    generator = seeded()
    choices, weights = [], []
    for mask in net.operation_masks():
        counts = mask.sum(1)
        index = (torch.rand(14, generator=generator) * counts).long()
        choices.append(index.tolist())
        scale = torch.rand(14, 1, dtype=torch.float64) + 0.5
        weights.append(F.one_hot(index, mask.shape[1]) * scale)
    net.fused = False
    expected = net(x, tuple(weights))
    result = path_scores(net, x, tuple(choices), tuple(weights))
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-11)

    parameters = [p for p in net.weight_parameters() if p.requires_grad]
    gradients = [
        torch.autograd.grad(scores().square().sum(), parameters, materialize_grads=True)
        for scores in (
            lambda: net(x, tuple(weights)),
            lambda: path_scores(net, x, tuple(choices), tuple(weights)),
        )
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-7, atol=1e-9)


def test_a_genotypes_path():
    net = build().double()
    genotype = net.genotype()
    choices = choices_of(genotype, net)
    for kind, chosen in zip(CellKind, choices, strict=True):
        names = net.space.edges(kind)
        edge, nodes = 0, []
        for node in range(4):
            kept = []
            for state in range(node + 2):
                if chosen[edge] is not None:
                    kept.append((names[edge][chosen[edge]], state))
                edge += 1
            nodes.append(tuple(kept))
        assert tuple(nodes) == genotype.nodes(kind)


def test_what_is_not_drawn_neither_runs_nor_learns():
    one = search("s2")
    net, x = one.supernet, torch.randn(4, 3, 8, 8)
    choices = ([0] * 14, [0] * 14)  # skip connections
    scores = path_scores(net, x, choices, net.operation_weights())
    convolutions = [edge[1] for cell in net.cells for edge in cell.edges]
    parameters = [p for conv in convolutions for p in conv.parameters()]
    gradients = torch.autograd.grad(
        scores.square().sum(), [*parameters, net.alphas_reduce], allow_unused=True
    )
    assert all(gradient is None for gradient in gradients[:-1])
    assert gradients[-1].abs().max() > 0
    assert all(int(conv[3].num_batches_tracked) == 0 for conv in convolutions)


def test_a_search():
    one = search("s3")
    before = one.supernet.alphas_reduce.clone()
    rows = one.run()
    assert len(rows) == 2
    assert not torch.equal(before, one.supernet.alphas_reduce)
    again = search("s3")
    again.run()
    assert torch.equal(again.supernet.alphas_reduce, one.supernet.alphas_reduce)
    x = torch.randn(3, 3, 8, 8)
    one.supernet.eval()
    assert torch.equal(one.evaluation_scores(x), one.evaluation_scores(x))
