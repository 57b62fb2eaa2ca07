"""Training of supernets, a few members in every step."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_elastic import MEMBERS, tiny_images, tiny_supernet
from torch.testing import assert_close

from supernetnas.families.paths import PathConfig, PathSpace, PathSupernet
from supernetnas.search.distillation import FromLabels
from supernetnas.search.path_training import PathTraining, PathTrainingSettings
from supernetnas.search.samplers import InTurn, StrictlyFair, Uniform
from supernetnas.search.scored_samplers import Greedy
from supernetnas.training.checkpoints import load_checkpoint, save_checkpoint
from supernetnas.training.distributed import Processes
from supernetnas.training.seeds import seeded_modules

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
        FromLabels(),
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


PATHS = PathSpace(width=0.125, depths=(1, 1, 1, 1))


def paths_supernet(seed=0):
    with seeded_modules(seed):
        return PathSupernet(PathConfig(PATHS, (16, 16), 3, 2)).double()


def of_paths(supernet, sampler, distillation=None, **changes):
    values = {"epochs": 4, "batch_size": 8, "warmup": 0, "learning_rate": 0.05, **changes}
    settings = PathTrainingSettings(**values)
    return PathTraining(supernet, Labelled(), sampler, distillation or FromLabels(), settings)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_no_member_of_a_step_has_does_not_move(optimizer):
    """Though it has moved before, and so has momentum, and though weights decay."""
    supernet = paths_supernet()
    sampler, moved = Uniform(PATHS, seed=1), set()
    run = of_paths(supernet, sampler, optimizer=optimizer, weight_decay=0.1)
    before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    rested = 0

    def compare(run):
        nonlocal rested
        (architecture,) = sampler(run.step - 1)
        names = [name for stage in architecture.stages for name in stage]
        for name, parameter in supernet.named_parameters():
            part, place, choice, *_ = [*name.split("."), ""]
            on_path = part != "layers" or choice == names[int(place)]
            assert torch.equal(parameter, before[name]) is not on_path, name
            rested += name in moved and not on_path
            moved.update({name} if on_path else ())
            before[name] = parameter.detach().clone()

    run.run(on_step=compare)
    assert rested > 50


def test_strictly_fair_steps_reach_every_block():
    supernet = paths_supernet()
    before = copy.deepcopy(supernet.state_dict())
    run = of_paths(supernet, StrictlyFair(PATHS), epochs=1, batch_size=24)
    run.run()
    assert run.step == 1
    for name, parameter in supernet.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_sgd_is_torchs():
    """One step along one path: the mean gradient, times the rate, and the decay of kernels."""
    supernet = paths_supernet()
    run = of_paths(
        *(supernet, Uniform(PATHS)),
        epochs=1,
        batch_size=24,
        optimizer="sgd",
        weight_decay=0.1,
        clip=1e9,
    )
    data, (index,) = Labelled(), run._order(0)
    twin = copy.deepcopy(supernet).train()
    images, labels = data.batch(index, 0)
    F.cross_entropy(twin(images, Uniform(PATHS)(0)[0]), labels).backward()
    run.run()
    rate = run.settings.rate(0, 1)
    for (name, after), p in zip(supernet.named_parameters(), twin.parameters(), strict=True):
        expected = p if p.grad is None else p - rate * (p.grad + 0.1 * p)
        assert_close(after, expected, msg=name)


@pytest.mark.parametrize("conflicts", ["sum", "project"])
def test_conflicting_gradients(conflicts):
    """Of each tensor, what of the first member's gradient goes against the others' is taken off."""
    supernet = paths_supernet()
    members = (PATHS.largest, PATHS.smallest, PATHS.decode((3, 0, 1, 3)))

    class Fixed:
        def __call__(self, step):
            return members

    run = of_paths(
        *(supernet, Fixed()),
        epochs=1,
        batch_size=24,
        optimizer="sgd",
        weight_decay=0.0,
        clip=1e9,
        conflicts=conflicts,
    )
    (index,) = run._order(0)
    images, labels = Labelled().batch(index, 0)
    twin = copy.deepcopy(supernet).train()
    gradients = []
    for member in members:
        loss = F.cross_entropy(twin(images, member), labels) / 3
        found = torch.autograd.grad(loss, list(twin.parameters()), allow_unused=True)
        gradients.append(
            [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(twin.parameters(), found, strict=True)
            ]
        )
    run.run()
    n_conflicts = 0
    for before, after, first, *rest in zip(
        twin.parameters(), supernet.parameters(), *gradients, strict=True
    ):
        others = sum(rest)
        product = float((first * others).sum())
        if product < 0 and conflicts == "project":
            n_conflicts += 1
            first = first - max(product / float(others.square().sum()), -2) * others
            assert float((first * others).sum()) <= 1e-12 or product < -2
        assert_close(after, before - run.settings.rate(0, 1) * (first + others))
    assert (n_conflicts > 0) == (conflicts == "project")


def test_settings_that_there_are_not():
    with pytest.raises(ValueError, match="optimizer must be one of 'adamw', 'sgd'; got 'adam'"):
        PathTrainingSettings(optimizer="adam")
    with pytest.raises(ValueError, match="conflicts must be one of 'sum', 'project'"):
        PathTrainingSettings(conflicts="ignore")


def test_a_sampler_that_remembers_goes_on(tmp_path):
    def build(seed=0):
        supernet = paths_supernet(seed)

        def score(architectures):
            weights = next(supernet.parameters())
            return [float(weights.detach().sum()) * sum(PATHS.encode(a)) for a in architectures]

        sampler = Greedy(PATHS, Uniform(PATHS, 4), score, n=2, rise=(0, 6))
        return of_paths(supernet, sampler)

    whole = build()
    whole.run(
        on_step=lambda run: save_checkpoint(tmp_path / "c", *run.state()) if run.step == 5 else None
    )
    resumed = build(seed=5)
    resumed.load_state(*load_checkpoint(tmp_path / "c"))
    resumed.run()
    assert resumed.sampler.pool == whole.sampler.pool
    assert_close(resumed.supernet.state_dict(), whole.supernet.state_dict(), rtol=0, atol=0)


def test_label_smoothing_knows_the_number_of_classes():
    """Of uniform scores the loss is the logarithm of the number of classes, smoothed or not."""
    supernet = paths_supernet()
    torch.nn.init.zeros_(supernet.classifier.weight)
    data = Labelled()
    for smoothing in (0.0, 0.1):
        (loss,) = FromLabels(smoothing).losses(supernet, data.images, data.labels, [None])
        assert loss.item() == pytest.approx(0.6931472, rel=1e-6)
