"""DrNAS: its draws, and its stages."""

import pytest
import torch
from tiny_search import assert_same_state, build, labelled, seeded

from supernetnas.families.cells.partial import PRUNED
from supernetnas.families.cells.search.dirichlet import dirichlet_sample
from supernetnas.families.cells.search.methods import DirichletSearch
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.training.checkpoints import load_checkpoint, save_checkpoint


def search(space="s1", seed=0, cells=2, **settings):
    settings = SearchSettings(**{"epochs": 4, "batch_size": 6, **settings})
    net = build(space, cells=cells)
    return DirichletSearch(net, labelled(), labelled(seed=2), settings, seeded(seed))


N = 40_000


class TestSample:
    def test_mean_and_variance(self):
        """Of concentration c: mean c / s and variance m (1 - m) / (s + 1) with s = sum c."""
        alphas = torch.tensor([-1.0, 0.0, 0.7])
        concentration = torch.tensor([torch.e**-1, 1.0, 1.7])
        draws = dirichlet_sample(alphas.expand(N, 3), torch.ones(N, 3).bool(), seeded())
        total = concentration.sum()
        mean = concentration / total
        variance = mean * (1 - mean) / (total + 1)
        assert draws.sum(1).sub(1).abs().max() < 1e-6
        torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=5 * (0.25 / N) ** 0.5)
        torch.testing.assert_close(draws.var(0), variance, rtol=0.05, atol=0)

    def test_the_gradient_is_that_of_the_mean(self):
        """The mean of many gradients of a draw is the gradient of c / s, ELU included."""
        alphas = torch.tensor([-0.5, 0.4, 0.1], dtype=torch.float64, requires_grad=True)
        values = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        draws = dirichlet_sample(alphas.expand(N, 3), torch.ones(N, 3).bool(), seeded())
        (result,) = torch.autograd.grad((draws @ values).mean(), alphas)
        c = torch.tensor([torch.tensor(-0.5).exp(), 1.4, 1.1], dtype=torch.float64)
        slope = torch.tensor([torch.tensor(-0.5).exp(), 1.0, 1.0], dtype=torch.float64)
        expected = slope * (values - (c @ values) / c.sum()) / c.sum()
        torch.testing.assert_close(result, expected, rtol=0, atol=0.02)

    def test_masked_operations_weigh_nothing(self):
        mask = torch.tensor([[True, False, True]]).expand(N, 3)
        alphas = torch.tensor([0.0, 9.0, 1.0]).expand(N, 3)
        draws = dirichlet_sample(alphas, mask, seeded())
        assert (draws[:, 1] == 0).all()
        assert float(draws[:, 2].mean()) == pytest.approx(2 / 3, abs=0.01)

    def test_it_draws_from_its_generator(self):
        alphas, mask, state = torch.zeros(14, 2), torch.ones(14, 2).bool(), torch.get_rng_state()
        first, again, other = (dirichlet_sample(alphas, mask, seeded(s)) for s in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), state)

    def test_very_small_concentrations(self):
        draws = dirichlet_sample(torch.full((N, 2), -6.0), torch.ones(N, 2).bool(), seeded())
        assert draws.isfinite().all()


class TestStages:
    def test_the_papers_schedule(self):
        """Two stages of 25 epochs; alphas rest for the first 10 of each."""
        one = search(epochs=50)
        frozen, stages = [], []
        for one.epoch in range(50):
            frozen.append(one.alphas_frozen())
            stages.append(one._stage_of(one.epoch))
        assert frozen == 2 * (10 * [True] + 15 * [False])
        assert stages == 25 * [0] + 25 * [1]

    @pytest.mark.parametrize(("epochs", "expected"), [(1, [1]), (2, [0, 1]), (3, [0, 1, 1])])
    def test_short_searches_end_in_the_last_stage(self, epochs, expected):
        one = search(epochs=epochs)
        assert [one._stage_of(epoch) for epoch in range(epochs)] == expected
        one.epoch = epochs - 1
        assert not one.alphas_frozen()

    def test_widening_and_pruning(self):
        one = search("darts", cells=1, epochs=2)
        assert one.supernet.partial == 6
        one.run_epoch()
        momentum = one.weight_optimizer.state[one.supernet.stem[0].weight]["momentum_buffer"]
        one.before_epoch()
        assert one.supernet.partial == 4
        assert (one.supernet.mask_reduce.sum(1) == 4).all()
        kept = one.weight_optimizer.state[one.supernet.stem[0].weight]["momentum_buffer"]
        assert torch.equal(kept, momentum)
        in_optimizer = {id(p) for p in one.weight_optimizer.param_groups[0]["params"]}
        assert in_optimizer == {id(p) for p in one.supernet.weight_parameters()}

    def test_spaces_with_few_operations_are_not_pruned(self):
        one = search("s1", epochs=2)
        mask = one.supernet.mask_normal.clone()
        one.run()
        assert one.supernet.partial == 4
        assert torch.equal(one.supernet.mask_normal, mask)

    @pytest.mark.parametrize("at", [1, 3])
    def test_resumed_in_either_stage(self, at, tmp_path):
        whole, first, second = search("s3", cells=1), search("s3", cells=1), search("s3", 7, 1)
        whole.run()
        first.run(on_epoch=lambda one: one.epoch == at)
        save_checkpoint(tmp_path / "checkpoint", *first.state())
        second.load_state(*load_checkpoint(tmp_path / "checkpoint"))
        second.run()
        assert_same_state(whole, second)

    def test_the_genotype_ranks_by_the_softmax(self):
        """The mean of the Dirichlet would rank the edges of a node in another order."""
        one = search("s2")
        with torch.no_grad():
            one.supernet.alphas_normal.zero_()
            one.supernet.alphas_normal[2] = torch.tensor([3.0, 2.5])  # 0.62, mean 0.53
            one.supernet.alphas_normal[3] = torch.tensor([0.45, 0.0])  # 0.61, mean 0.59
            one.supernet.alphas_normal[4] = torch.tensor([-1.0, -1.48])  # 0.618, mean 0.62
        states = [state for _, state in one.supernet.genotype().normal[1]]
        assert states == [0, 2]


def test_of_what_an_earlier_search_pruned_nothing_is_drawn_and_gradients_are_finite():
    alphas = torch.zeros(5, 3)
    alphas[:, 1] = PRUNED
    alphas.requires_grad_()
    draws = dirichlet_sample(alphas, torch.ones(5, 3).bool(), seeded())
    draws[:, 0].sum().backward()
    assert draws[:, 1].max() < 1e-3
    assert alphas.grad.isfinite().all() and alphas.grad[:, 0].abs().min() > 0
