"""Folded networks predict what the trained ones do."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from supernetnas import SupernetTransferClassifier
from supernetnas.families.cells.config import NetworkConfig
from supernetnas.families.cells.folding import folded
from supernetnas.families.cells.genotype import Genotype
from supernetnas.families.cells.network import Network
from supernetnas.families.cells.search.methods import SmoothDARTS
from supernetnas.fitting.retraining import Retraining
from supernetnas.saving.folding import for_predictions
from supernetnas.search.costs import count_macs, count_parameters
from supernetnas.training.seeds import seeded_modules

_OPERATIONS = ("sep_conv_3x3", "dil_conv_5x5", "skip_connect", "max_pool_3x3", "avg_pool_3x3")


X = torch.randn(4, 3, 12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def trained():
    """A network with every kind of operation at both strides, and statistics of its own."""
    nodes = tuple(
        ((_OPERATIONS[k], 0), (_OPERATIONS[(k + 2) % 5], 1 if k % 2 else k % (k + 2)))
        for k in range(4)
    )
    nodes = tuple((a, (b[0], 1)) for a, b in nodes)
    with seeded_modules(0):
        network = Network(NetworkConfig(Genotype("darts", nodes, nodes), 4, 5, 3, 3)).double()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 2)
                module.bias.data.normal_()
        for _ in range(3):
            network(torch.randn(8, 3, 12, 10, dtype=torch.float64))
    return network.eval()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(12, 10), (9, 7)])
def test_scores(size, layout):
    network = trained().to(memory_format=layout)
    x = torch.randn(4, 3, *size, dtype=torch.float64).contiguous(memory_format=layout)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inference = folded(network)
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(inference(x), expected, rtol=1e-10, atol=1e-12)
        inference.fused = False
        torch.testing.assert_close(inference(x), expected, rtol=1e-10, atol=1e-12)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in inference.modules())
    assert not any(p.requires_grad for p in inference.parameters())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert count_macs(inference, (3, *size)) == count_macs(network, (3, *size))


def test_a_network_in_training_is_refused():
    with pytest.raises(ValueError, match=r"call eval\(\) first"):
        folded(trained().train())


def step(network):
    """A step of training."""
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(network.parameters(), 0.1).step()


class TestPredictions:
    def test_the_folded_network_is_made_once(self):
        network = trained()
        network.requires_grad_(True)
        one = for_predictions(network, folded)
        assert one is for_predictions(network, folded)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in one.modules())
        gone = weakref.ref(one)
        del one, network
        gc.collect()
        assert gone() is None

    @pytest.mark.parametrize(
        "change",
        [
            lambda net: net.classifier.weight.add_(1.0),
            lambda net: net.stem[1].running_mean.add_(1.0),
            lambda net: net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()}),
            lambda net: net.load_state_dict(
                {k: v + 1 for k, v in net.state_dict().items()}, assign=True
            ),
            lambda net: net.float(),
            lambda net: setattr(net, "classifier", nn.Linear(64, 3).double()),
            step,
        ],
    )
    def test_changed_values_are_noticed(self, change):
        network = trained()
        before = for_predictions(network, folded)
        with torch.no_grad():
            kept = before(X)
            change(network)
            after = for_predictions(network, folded)
            x = X.to(network.classifier.weight)
            assert after is not before
            torch.testing.assert_close(after(x), network(x))
            assert after is for_predictions(network, folded)
            assert x.dtype != X.dtype or (kept - after(x)).abs().max() > 1e-3

    def test_a_network_in_training_is_used_as_it_is(self):
        network = trained().train()
        assert for_predictions(network, folded) is network

    def test_a_network_that_was_made_in_inference_mode(self):
        with torch.inference_mode():
            network = copy.deepcopy(trained())
            torch.testing.assert_close(for_predictions(network, folded)(X), network(X))

    def test_probabilities_of_a_fit(self, tmp_path, monkeypatch):
        """Those of the network, and nothing that is kept of the classifier changes."""
        images, labels = load_digits(return_X_y=True)
        search, retraining = SmoothDARTS(epochs=1), Retraining(epochs=2)
        clf = SupernetTransferClassifier(search=search, retraining=retraining, random_state=0)
        clf.fit(images[:300], labels[:300])
        before, n_parameters = pickle.dumps(clf), clf.n_parameters_
        clf.save_pretrained(tmp_path / "before")
        probabilities = clf.predict_proba(images[300:700])
        monkeypatch.setattr("supernetnas.classifier.for_predictions", lambda network, fold: network)
        plain = clf.predict_proba(images[300:700])
        assert np.abs(probabilities - plain).max() < 1e-5
        assert (probabilities != plain).any()  # it was the folded network
        assert pickle.dumps(clf) == before
        assert count_parameters(clf.network_) == clf.n_parameters_ == n_parameters
        clf.save_pretrained(tmp_path / "after")
        for path in (tmp_path / "before").rglob("*"):
            assert (
                path.is_dir() or path.read_bytes() == (tmp_path / "after" / path.name).read_bytes()
            )


def test_values_written_past_torch_count_and_hooks_run():
    network = trained()
    first = for_predictions(network, folded)
    network.classifier.weight.data.mul_(2)
    assert for_predictions(network, folded) is not first
    handle = network.cells[0].register_forward_hook(lambda *_: None)
    assert for_predictions(network, folded) is network
    handle.remove()
    assert for_predictions(network, folded) is not network


def test_a_network_that_is_its_own_folded_form_is_freed():
    network = nn.Linear(2, 2).eval()
    assert for_predictions(network, lambda one: one) is network
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None
