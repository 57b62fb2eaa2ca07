"""Training of supernets, a few members in every step."""

import copy

import pytest
import torch
from tiny_elastic import MEMBERS, tiny_images, tiny_supernet
from torch.testing import assert_close

from supernetnas.search.distillation import InPlace
from supernetnas.search.path_training import PathTraining, PathTrainingSettings
from supernetnas.search.samplers import InTurn
from supernetnas.training.checkpoints import load_checkpoint, save_checkpoint
from supernetnas.training.distributed import Processes

SETTINGS = PathTrainingSettings(epochs=3, batch_size=8, learning_rate=0.01, warmup=2)


class Labelled:
    """Images of two brightnesses; each epoch shows them with another offset."""

    def __init__(self, n=24):
        self.labels = torch.arange(n) % 2
        self.images = tiny_images(n) * 0.1 + self.labels.view(-1, 1, 1, 1)

    def __len__(self):
        return len(self.labels)

    def batch(self, index, epoch):
        return self.images[index] + 0.01 * epoch, self.labels[index]


def training(settings=SETTINGS, processes=None, supernet=None):
    return PathTraining(
        supernet or tiny_supernet(n_classes=2),
        Labelled(),
        InTurn(MEMBERS, 2),
        InPlace(),
        settings,
        *([processes] if processes else []),
    )


def test_members_learn():
    whole = training(PathTrainingSettings(epochs=15, batch_size=8, learning_rate=0.01, warmup=2))
    losses = []
    whole.run(on_epoch=lambda t: losses.append(t.loss))
    assert len(losses) == whole.epoch == 15
    assert whole.step == whole.n_steps == 45
    assert losses[-1] < 0.5 * losses[0]
    data = Labelled()
    supernet = whole.averaged().train()
    predicted = supernet(data.images, MEMBERS[0]).argmax(1)
    assert (predicted == data.labels).double().mean() > 0.9


def test_only_what_requires_a_gradient_is_trained():
    supernet = tiny_supernet(n_classes=2)
    supernet.classifier.requires_grad_(False)
    before = copy.deepcopy(supernet.state_dict())
    run = training(supernet=supernet)
    run.run()
    changed = {k for k, t in supernet.state_dict().items() if not torch.equal(t, before[k])}
    assert "shared.stem.weight" in changed
    assert not any(name.startswith(("classifier", "largest")) for name in changed)
    assert not any(name.startswith("classifier") for name in run.average)


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_an_interrupted_training_goes_on(tmp_path, steps):
    whole = training()
    losses = []
    whole.run(on_epoch=lambda t: losses.append(t.loss))

    class Interrupted(Exception):
        pass

    def interrupt(run):
        if run.step == steps:
            save_checkpoint(tmp_path / "c.safetensors", *run.state())
            raise Interrupted

    with pytest.raises(Interrupted):
        training().run(on_step=interrupt)
    resumed = training(supernet=tiny_supernet(n_classes=2, seed=5))
    resumed.load_state(*load_checkpoint(tmp_path / "c.safetensors"))
    again = []
    resumed.run(on_epoch=lambda t: again.append(t.loss))
    assert again == losses[-len(again) :]
    assert_close(resumed.supernet.state_dict(), whole.supernet.state_dict(), rtol=0, atol=0)
    assert_close(resumed.average, whole.average, rtol=0, atol=0)


def test_an_epoch_can_be_the_last():
    run = training()
    run.run(on_epoch=lambda t: t.epoch == 1)
    assert run.epoch == 1
    run.run()
    assert_close(run.average, _run().average, rtol=0, atol=0)


def _run():
    run = training()
    run.run()
    return run


def test_average_lags_behind():
    run = training()
    start = {name: tensor.clone() for name, tensor in run.average.items()}
    expected, seen = start, []

    def follow(run):
        decay = min(run.settings.average, (1 + run.step) / (10 + run.step))
        for name, parameter in run.parameters.items():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()
        seen.append(run.step)

    run.run(on_step=follow)
    assert seen == list(range(1, 10))
    assert_close(run.average, expected, rtol=1e-9, atol=1e-12)
    averaged = run.averaged().state_dict()
    assert all(torch.equal(averaged[name], tensor) for name, tensor in run.average.items())
    trained = dict(run.supernet.named_parameters())
    assert not torch.equal(trained["shared.stem.weight"], averaged["shared.stem.weight"])


def test_rates():
    settings = PathTrainingSettings(learning_rate=1.0, warmup=9, decay=0.5)
    rates = [settings.rate(step, 100) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert settings.rate(100, 100) == 0.01


def test_gradients_are_averaged_over_processes():
    """Two processes that see the same images do what one does; halves differ from that."""

    class Echo(Processes):
        """One of two processes, the other of which computes the same."""

        def own_part(self, order):
            return order

        def sum(self, tensor):
            return 2 * tensor

    alone, together = _run(), training(processes=Echo(0, 2))
    together.run()
    assert_close(together.average, alone.average, rtol=1e-9, atol=1e-12)
    half = training(processes=Processes(0, 1))
    assert len(half._order(0)) == 3
