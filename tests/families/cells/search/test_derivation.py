"""DARTS-PT: which operations and edges are kept, and what the tuning does."""

import pytest
import torch
from tiny_search import build, labelled, search, seeded

from supernetnas.families.cells.search.methods import PartialChannelSearch, PerturbationDerivation
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.families.cells.space import edge_index
from supernetnas.training.batch_norm import frozen_batch_norm
from supernetnas.training.clock import Stopwatch
from supernetnas.training.steps import evaluate


class Known(PerturbationDerivation):
    """Accuracy is a known sum over the operation weights, whatever the images."""

    def __init__(self, search, worth):
        super().__init__(search, tuning_epochs=0)
        self.worth = worth

    def _measure(self, weights):
        return sum(float((w * x).sum()) for w, x in zip(weights, self.worth, strict=True)), 0.0


def worths(seed=3):
    return torch.rand(2, 14, 3, generator=seeded(seed)).unbind()


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_missed_most_is_kept(seed):
    """With alphas all equal an operation is missed by its worth, and so is an edge."""
    one = search(build("s3"), seed=seed)
    with torch.no_grad():
        for alphas in one.supernet.alpha_parameters():
            alphas.zero_()
    worth = worths()
    genotype = Known(one, worth).run()
    for kind, nodes in zip(worth, (genotype.normal, genotype.reduce), strict=True):
        edge = 0
        for node in range(4):
            best = []
            for state in range(node + 2):
                value, index = kind[edge, 1:].max(0)  # `none` comes first
                best.append((float(value), ("skip_connect", "sep_conv_3x3")[index], state))
                edge += 1
            kept = sorted(sorted(best)[-2:], key=lambda item: item[2])
            assert nodes[node] == tuple((name, state) for _, name, state in kept)


def test_the_weight_that_is_lost_counts_and_is_not_shared_out():
    """Worth 1 and 2 at weights 0.9 and 0.1: without either, 0.2 or 0.9 is left.

    Normalised again it would be 2 or 1, and the other operation would be kept.
    """
    one = search(build("s2"))
    with torch.no_grad():
        for alphas in one.supernet.alpha_parameters():
            alphas.copy_(torch.tensor([0.9, 0.1]).log().expand(14, 2))
    worth = torch.tensor([1.0, 2.0]).expand(14, 2)
    genotype = Known(one, (worth, worth)).run()
    assert genotype.count("skip_connect") == 16


def test_an_edge_is_judged_with_what_was_projected_before():
    """The first projection of a cell sees softmax weights, the second one the first's choice."""
    one, seen = search(build("s2")), []

    class Watched(Known):
        def _measure(self, weights):
            seen.append(tuple(w.detach().clone() for w in weights))
            return super()._measure(weights)

    Watched(one, worths()[0][None, :, :2].expand(2, 14, 2).unbind()).run()
    one_hot = [sum(int((w.max(1).values == 1).sum()) for w in pair) for pair in seen]
    # Two measurements an operation; the normal cell's edge is settled before the reduction's.
    assert one_hot[:5] == [0, 0, 1, 1, 2]
    removed = [sum(int((w.sum(1) == 0).sum()) for w in pair) for pair in seen]
    assert removed[-1] == 2 * 6


def test_a_real_supernet_against_a_plain_loop():
    """Without tuning, on the plain definition, in the order that the generator gives."""
    one = search(build("s2", cells=1), seed=5)
    one.run()
    net = one.supernet
    state = one.generator.get_state()
    buffers = {k: v.clone() for k, v in net.named_buffers()}
    parameters = {k: v.detach().clone() for k, v in net.named_parameters()}
    result = PerturbationDerivation(one, tuning_epochs=0).run()
    for name, value in [*net.named_buffers(), *net.named_parameters()]:
        assert torch.equal(value, {**buffers, **parameters}[name]), name

    generator = torch.Generator()
    generator.set_state(state)
    torch.randperm(14, generator=generator)  # the normal cell, which the stack does not have
    order = torch.randperm(14, generator=generator).tolist()
    torch.randperm(3, generator=generator)
    nodes = [1 + n for n in torch.randperm(3, generator=generator).tolist()]
    net.fused = False
    weights = [w.detach().clone() for w in net.operation_weights()]

    def accuracy(edge, index):
        table = weights[1].clone()
        table[edge, index] = 0
        with frozen_batch_norm(net):
            loss, share = evaluate(lambda x: net(x, (weights[0], table)), one.validation)
        return share, -loss

    chosen = {}
    for edge in order:
        chosen[edge] = min((0, 1), key=lambda index, edge=edge: accuracy(edge, index))
        weights[1][edge] = torch.nn.functional.one_hot(torch.tensor(chosen[edge]), 2).float()
    kept = {0: [0, 1]}
    for node in nodes:
        first, states = edge_index(node, 0), list(range(node + 2))
        while len(states) > 2:
            worst = max(states, key=lambda s, first=first: accuracy(first + s, slice(None)))
            states.remove(worst)
            weights[1][first + worst] = 0
        kept[node] = states
    expected = tuple(
        tuple(
            (("skip_connect", "sep_conv_3x3")[chosen[edge_index(node, s)]], s) for s in kept[node]
        )
        for node in range(4)
    )
    assert result.reduce == expected


def test_tuning():
    """Sixteen times between seventeen projections, at a tenth of the rate, from a new optimizer."""
    one = search(build("s2", cells=1), learning_rate=0.5)
    one.run()
    optimizer, stem = one.weight_optimizer, one.supernet.stem[0].weight.clone()
    alphas, rates = one.supernet.alphas_reduce.clone(), []

    class Watched(PerturbationDerivation):
        def _measure(self, weights):
            return 0.0, 0.0

        def _tune(self):
            super()._tune()
            rates.append(self.search.weight_optimizer.param_groups[0]["lr"])

    one.history.clear()
    Watched(one, tuning_epochs=1).run()
    assert len(rates) == 16
    assert 0.04 < rates[0] <= 0.05
    assert rates == sorted(rates, reverse=True)
    assert not torch.equal(stem, one.supernet.stem[0].weight)
    assert not torch.equal(alphas, one.supernet.alphas_reduce)
    assert one.weight_optimizer is optimizer
    assert all(p.grad is None for p in one.supernet.parameters())
    assert [row["epoch"] for row in one.history] == list(range(1, 18))
    assert {row["stage"] for row in one.history} == {"derive"}


def test_when_time_is_up_the_largest_weights_decide():
    one = search(build("s3"))
    with torch.no_grad():
        for alphas in one.supernet.alpha_parameters():
            alphas.normal_(generator=seeded(8))
    expected = one.supernet.genotype()
    assert PerturbationDerivation(one).run(Stopwatch(-1.0)) == expected


def test_the_same_seed_gives_the_same_architecture():
    first, again = (search(build("s2", cells=1), seed=2) for _ in range(2))
    assert PerturbationDerivation(first, 0).run() == PerturbationDerivation(again, 0).run()


def test_of_partial_channels():
    settings = SearchSettings(epochs=1, batch_size=6)
    one = PartialChannelSearch(
        build("s3", cells=1), labelled(6), labelled(6, seed=2), settings, seeded()
    )
    one.run()
    genotype = PerturbationDerivation(one, 0).run()
    assert sum(len(node) for node in genotype.normal + genotype.reduce) == 16
    assert genotype.count("none") == 0
