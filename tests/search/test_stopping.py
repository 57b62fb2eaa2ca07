"""What ends a search: the dominant eigenvalue and its rise, a settled genotype."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import ArpackError
from tiny_search import Doubles, assert_same_state, build, labelled, search, seeded
from torch.func import functional_call

from supernetnas.families.cells.search.bilevel import BilevelSearch
from supernetnas.families.cells.search.eigenvalue import dominant_eigenvalue, largest_eigenvalue
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.search.stopping import EigenvalueRise, Settled
from supernetnas.training.batch_norm import frozen_batch_norm
from supernetnas.training.checkpoints import load_checkpoint, save_checkpoint


class TestEigenvalue:
    @pytest.mark.parametrize("n", [9, 28, 40, 196])
    def test_of_a_symmetric_matrix(self, n):
        random = np.random.default_rng(n)
        root = random.normal(size=(n, n))
        matrix = root @ np.diag(random.normal(size=n) - 0.5) @ root.T
        expected = np.linalg.eigvalsh(matrix)[-1]
        assert largest_eigenvalue(lambda v: matrix @ v, n) == pytest.approx(expected, rel=1e-3)

    def test_it_is_the_largest_with_its_sign(self):
        """Not the largest in absolute value, as the power iteration would find."""
        for diagonal in ([-10.0, 1.0, 0.5], [-3.0, -2.0, -1.0], [0.0], [2.0], [-5.0, 0.0]):
            matrix = np.diag(np.resize(diagonal, 30))
            assert largest_eigenvalue(lambda v, m=matrix: m @ v, 30) == pytest.approx(
                max(diagonal), abs=1e-9
            )

    def test_it_saves_products_and_starts_alike(self):
        matrix, calls = np.diag(np.linspace(0, 1, 196) ** 4 * 3), []
        results = {
            largest_eigenvalue(lambda v: calls.append(1) or matrix @ v, 196) for _ in range(2)
        }
        assert len(calls) <= 2 * 20
        assert len(results) == 1

    def test_no_matrix_is_an_error(self):
        with pytest.raises(ArpackError):
            largest_eigenvalue(lambda v: v * np.nan, 30)

    @pytest.mark.parametrize("cells", [1, 3])
    def test_against_the_whole_hessian(self, cells):
        class Exact(BilevelSearch):
            def _loss(self, scores, labels):
                return F.cross_entropy(scores, labels)

        net = build(cells=cells).double()
        with torch.no_grad():
            for alphas in net.alpha_parameters():
                alphas.normal_(generator=seeded(3))
        one = Exact(
            net,
            labelled(4, Doubles),
            labelled(4, Doubles, seed=2),
            SearchSettings(batch_size=4),
            seeded(),
        )
        before = {k: v.clone() for k, v in net.state_dict().items()}
        result = dominant_eigenvalue(one)
        for name, value in net.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert net.fused

        net.fused = False
        images, labels = one.validation.images.clean(torch.arange(4)), one.validation.labels

        def loss(normal, reduce):
            alphas = {"alphas_normal": normal, "alphas_reduce": reduce}
            scores = functional_call(net, alphas, (images,))
            return -scores.log_softmax(1)[torch.arange(4), labels].mean()

        # Without normal cells their alphas do not reach the loss, and give rows of zeros.
        with frozen_batch_norm(net):
            blocks = torch.autograd.functional.hessian(
                loss, (net.alphas_normal.detach(), net.alphas_reduce.detach())
            )
        hessian = torch.cat([torch.cat([b.reshape(28, 28) for b in row], dim=1) for row in blocks])
        assert hessian.abs().max() > 1e-4
        expected = float(torch.linalg.eigvalsh(hessian)[-1])
        assert result == pytest.approx(expected, rel=1e-3)


def reference_stop(eigenvalues, freq=2, window=5, delta=4, ratio=1.3, start=10):
    """The rule as RobustDARTS states it: first epoch at which it stops, and the one it returns."""
    for now in range(2, len(eigenvalues)):
        centre = freq * now - freq * (window // 2)
        averages = [np.mean(eigenvalues[max(0, i - window + 1) : i + 1]) for i in range(2, now + 1)]
        if centre - freq * delta >= start and averages[-1] / averages[-1 - delta] > ratio:
            return freq * now, centre - freq * delta
    return None


def never(search):
    raise AssertionError("nothing is to be measured")


class TestRise:
    @pytest.mark.parametrize("seed", range(8))
    def test_against_the_rule(self, seed):
        random = np.random.default_rng(seed)
        values = 0.2 * 1.08 ** np.arange(25) * random.uniform(0.7, 1.4, 25)
        rule, result = EigenvalueRise(never), None
        for i, value in enumerate(values):
            back = rule.add(2 * i, float(value))
            if back is not None:
                result = (2 * i, back)
                break
        assert result == reference_stop(values)
        assert result is not None

    @pytest.mark.parametrize(("last", "stops"), [(1.29, False), (1.31, True)])
    def test_the_ratio(self, last, stops):
        """Averages of five each: all ones, and five of ``last``, with four between."""
        rule = EigenvalueRise(never, delta=5, start=0)
        results = [rule.add(2 * i, v) for i, v in enumerate([1.0] * 5 + [last] * 5)]
        assert (results[-1] is not None) is stops
        assert results[:-1] == [None] * 9

    def test_not_before_its_start(self):
        rule = EigenvalueRise(never)
        epochs = [2 * i for i in range(25) if rule.add(2 * i, 2.0**i) is not None]
        assert epochs[0] == 10 + 2 * (2 + 4)

    def test_a_constant_eigenvalue_never_stops(self):
        rule = EigenvalueRise(never)
        assert [rule.add(2 * i, 0.3) for i in range(30)] == [None] * 30

    def test_the_search_goes_back(self):
        """Eigenvalues that double: the state of the epoch before the rise is restored."""
        values = iter(2.0**i for i in range(99))
        rule = EigenvalueRise(lambda search: next(values), every=1, window=3, delta=2, start=1)
        one = search(build(cells=1), epochs=20, stopping=rule)
        states = []
        one.run(
            on_epoch=lambda s: states.append(
                {k: v.clone() for k, v in s.supernet.state_dict().items()}
            )
        )
        # In epoch 4 (from 0) the middle of the window is 3, and two before is 1.
        assert len(one.history) == 5
        assert one.kept_epoch == 2
        for name, value in one.supernet.state_dict().items():
            assert torch.equal(value, states[1][name]), name
        assert one.validation_accuracy == one.history[1]["validation_accuracy"]
        assert [row["eigenvalue"] for row in one.history] == [1.0, 2.0, 4.0, 8.0, 16.0]
        assert len(one.stopping._states) <= 4

    def test_a_resumed_search_goes_back_to_the_same(self, tmp_path):
        def start(seed):
            rule = EigenvalueRise(
                lambda search: 2.0 ** len(search.history), every=1, window=3, delta=2, start=1
            )
            return search(build(cells=1, seed=seed), epochs=20, seed=seed, stopping=rule)

        whole, first, second = start(0), start(0), start(7)
        whole.run()
        first.run(on_epoch=lambda one: one.epoch == 3)
        save_checkpoint(tmp_path / "checkpoint", *first.state())
        second.load_state(*load_checkpoint(tmp_path / "checkpoint"))
        second.run()
        assert_same_state(whole, second)
        assert second.kept_epoch == whole.kept_epoch == 2

    def test_every_other_epoch_is_measured(self):
        rule = EigenvalueRise(dominant_eigenvalue)
        one = search(build(cells=1), epochs=3, stopping=rule)
        rows = one.run()
        assert ["eigenvalue" in row for row in rows] == [True, False, True]
        assert np.isfinite(rows[0]["eigenvalue"])


class TestSettled:
    def run(self, accuracies, genotypes, patience=2):
        one = search(build(cells=1), epochs=len(accuracies), stopping=Settled(patience))
        rows, epochs = iter(zip(accuracies, genotypes, strict=True)), []
        one.architectures = ["start"]

        def run_epoch():
            accuracy, genotype = next(rows)
            one.architectures.append(genotype)
            one.history.append({"validation_accuracy": accuracy})
            one.epoch += 1
            epochs.append(one.epoch)

        one.run_epoch = run_epoch
        one.run()
        return epochs[-1]

    def test_both_must_rest(self):
        assert self.run([0.5] * 9, "abcdddddd") == 6  # the accuracy alone: epoch 3
        assert self.run([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4], "aaaaaaa") == 6
        assert self.run([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], "aaaaaaa") == 7

    def test_without_patience_it_never_stops(self):
        assert self.run([0.5] * 9, "aaaaaaaaa", patience=None) == 9
