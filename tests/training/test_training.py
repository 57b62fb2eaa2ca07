"""Batches, schedules, splits, statistics, checkpoints."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from supernetnas.families.cells.config import NetworkConfig, SupernetConfig
from supernetnas.families.cells.genotype import Genotype
from supernetnas.families.cells.network import Network
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.families.layers import Dropout
from supernetnas.fitting.retraining import RetrainSettings, retrain
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.training.batch_norm import frozen_batch_norm, recalibrate_batch_norm
from supernetnas.training.batches import (
    LabelledImages,
    balanced_batches,
    endless_batches,
    stratified_split,
)
from supernetnas.training.checkpoints import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from supernetnas.training.clock import Stopwatch
from supernetnas.training.execution import FLOAT32, Execution
from supernetnas.training.seeds import seeded_modules
from supernetnas.training.steps import class_weights, cosine_schedule, evaluate, held_constant


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tensors(n, side=8, channels=3, seed=0):
    pixels = torch.randn(n, channels, side, side, generator=seeded(seed))
    return ImageTensors(pixels, torch.zeros(channels), torch.ones(channels))


def labelled(n, n_classes=3, **kwargs):
    return LabelledImages(tensors(n, **kwargs), torch.arange(n) % n_classes)


def supernet(space="s1", seed=0):
    with seeded_modules(seed):
        return CellSupernet(SupernetConfig(space, 4, 3, (8, 8), 3, 3))


class TestBatches:
    @pytest.mark.parametrize("batch_size", [2, 3, 4, 7, 16, 64, 1000])
    def test_every_index_once_in_batches_of_nearly_one_size(self, batch_size):
        for n in range(1, 140):
            batches = balanced_batches(n, batch_size, seeded())
            sizes = [len(batch) for batch in batches]
            assert sorted(torch.cat(batches).tolist()) == list(range(n))
            assert max(sizes) - min(sizes) <= 1
            assert min(sizes) > 1 or n == 1
            assert max(sizes) <= max(1.5 * batch_size, 3)

    def test_shuffled_by_the_generator_alone(self):
        state = torch.get_rng_state()
        first, again, other = (
            torch.cat(balanced_batches(100, 10, seeded(seed))) for seed in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), state)

    def test_endless_batches_see_all_before_they_repeat(self):
        batches = endless_batches(10, 3, seeded())
        passes = [torch.cat([next(batches) for _ in range(3)]).tolist() for _ in range(3)]
        assert all(sorted(one) == list(range(10)) for one in passes)
        assert passes[0] != passes[1] != passes[2]


class TestCosineSchedule:
    def test_of_darts(self):
        """0.025 to 0.001 over 50 epochs, the rate set before the epoch (not after, as there)."""
        rates = {e: cosine_schedule(e / 50, 0.025, 0.001) for e in (0, 1, 24, 25, 49, 50)}
        expected = {0: 0.025, 1: 0.0249763, 24: 0.0137535, 25: 0.013, 49: 0.0010237, 50: 0.001}
        for epoch, rate in expected.items():
            assert rates[epoch] == pytest.approx(rate, abs=5e-8)

    def test_equals_torchs(self):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30, eta_min=0.01)
        for step in range(30):
            assert cosine_schedule(step / 30, 0.1, 0.01) == pytest.approx(
                schedule.get_last_lr()[0], rel=1e-9
            )
            optimizer.step()
            schedule.step()

    def test_warm_up(self):
        def rate(progress):
            return cosine_schedule(progress, 2.0, 0.5, warmup=0.2)

        assert rate(0.0) == pytest.approx(0.2)
        assert rate(0.1) == pytest.approx(1.1)
        assert rate(0.2 - 1e-12) == pytest.approx(2.0)
        assert rate(0.2) == pytest.approx(2.0)
        assert rate(0.6) == pytest.approx(1.25)
        assert rate(1.0) == pytest.approx(0.5)


class TestStratifiedSplit:
    def test_every_class_is_divided(self):
        labels = torch.repeat_interleave(torch.arange(4), torch.tensor([2, 3, 10, 40]))
        first, second = stratified_split(labels, 0.3, seeded())
        assert torch.bincount(labels[second]).tolist() == [1, 1, 3, 12]
        assert torch.bincount(labels[first]).tolist() == [1, 2, 7, 28]
        assert sorted([*first.tolist(), *second.tolist()]) == list(range(55))
        for part in (first, second):
            assert part.tolist() == sorted(part.tolist())

    @pytest.mark.parametrize(("fraction", "expected"), [(0.0, 1), (1.0, 4), (0.5, 2)])
    def test_no_part_is_left_without_a_class(self, fraction, expected):
        _, second = stratified_split(torch.arange(15) % 3, fraction, seeded())
        assert torch.bincount(torch.arange(15)[second] % 3).tolist() == [expected] * 3

    def test_seeded_and_not_by_order(self):
        labels = torch.zeros(100, dtype=torch.int64)
        first, again, other = (stratified_split(labels, 0.5, seeded(s))[0] for s in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert not torch.equal(first, torch.arange(50))


class TestClassWeights:
    LABELS = torch.tensor([0] * 7 + [1] * 2 + [2] * 11)

    def test_balanced_is_scikit_learns(self):
        expected = compute_class_weight("balanced", classes=np.arange(3), y=np.asarray(self.LABELS))
        result = class_weights(self.LABELS, 3, "balanced")
        np.testing.assert_allclose(result, expected, rtol=1e-6)
        assert result[self.LABELS].mean() == pytest.approx(1.0)

    def test_dict_leaves_others_at_one(self):
        assert class_weights(self.LABELS, 3, {2: 0.25}).tolist() == [1, 1, 0.25]

    def test_none(self):
        assert class_weights(self.LABELS, 3, None) is None

    def test_a_class_without_images(self):
        assert class_weights(self.LABELS, 4, "balanced").isfinite().all()


class TestEvaluate:
    def test_equals_the_definition(self):
        data = labelled(37)
        net = supernet().eval()
        loss, accuracy = evaluate(net, data, batch_size=10)
        with torch.no_grad():
            scores = net(data.images.clean(torch.arange(37)))
        assert loss == pytest.approx(F.cross_entropy(scores, data.labels).item(), rel=1e-5)
        assert accuracy == pytest.approx((scores.argmax(1) == data.labels).double().mean().item())

    def test_no_image_is_alone_and_classes_are_mixed(self):
        """Under batch statistics a score depends on the other images of the batch."""
        labels = torch.arange(257) // 129
        pixels = labels[:, None, None, None].expand(257, 1, 1, 1).float()
        data = LabelledImages(ImageTensors(pixels, torch.zeros(1), torch.ones(1)), labels)
        batches = []

        def scores(images):
            batches.append(images.mean().item())
            assert len(images) > 100
            return torch.zeros(len(images), 2)

        loss, _ = evaluate(scores, data, batch_size=256)
        assert loss == pytest.approx(math.log(2))
        assert all(0.3 < share < 0.7 for share in batches)

    def test_no_gradients_and_no_random_state(self):
        state, data = torch.get_rng_state(), labelled(5)
        seen = []
        net = supernet().eval()
        evaluate(lambda x: seen.append(net(x)) or seen[-1], data)
        assert not seen[0].requires_grad
        assert torch.equal(torch.get_rng_state(), state)


class TestBatchNorm:
    def test_frozen_normalises_by_the_batch_and_keeps_the_statistics(self):
        net = nn.Sequential(nn.BatchNorm2d(3))
        x = torch.randn(8, 3, 4, 4) * 5 + 2
        net(x)
        before = {k: v.clone() for k, v in net.state_dict().items()}
        with frozen_batch_norm(net):
            y = net(x * 3 + 1)
        torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(y.var((0, 2, 3), correction=0), torch.ones(3))
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
        assert net[0].momentum == 0.1

    def test_frozen_ends_with_an_error_too(self):
        net = nn.BatchNorm2d(3)
        with pytest.raises(ZeroDivisionError), frozen_batch_norm(net):
            net(torch.randn(4, 3, 2, 2))
            raise ZeroDivisionError
        assert net.momentum == 0.1
        assert net.num_batches_tracked == 0

    def test_recalibration_is_the_mean_over_batches(self):
        net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, momentum=0.3))
        net(100 * torch.randn(8, 3, 8, 8))
        images = tensors(50)
        recalibrate_batch_norm(net.eval(), images, batch_size=16, generator=seeded(1))
        batches = balanced_batches(50, 16, seeded(1))
        assert len(batches) == 3
        with torch.no_grad():
            maps = [net[0](images.clean(batch)) for batch in batches]
        mean = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
        variance = torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0)  # torch's: unbiased
        torch.testing.assert_close(net[1].running_mean, mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(net[1].running_var, variance, rtol=1e-4, atol=1e-6)
        assert net[1].num_batches_tracked == 3
        assert net[1].momentum == 0.3
        assert not net.training

    @pytest.mark.parametrize("fused", [True, False])
    def test_recalibration_of_a_supernet_leaves_nothing_of_the_old(self, fused):
        nets = supernet("s1"), supernet("s1")  # with pools that edges share
        nets[1](torch.randn(8, 3, 8, 8) * 30)
        for net in nets:
            net.fused = fused
            recalibrate_batch_norm(net, tensors(20), batch_size=8, generator=seeded())
        for name, value in nets[0].state_dict().items():
            assert torch.equal(value, nets[1].state_dict()[name]), name

    def test_recalibration_stops_at_its_limit(self):
        net = nn.Sequential(nn.BatchNorm2d(3))
        recalibrate_batch_norm(net, tensors(50), batch_size=5, max_batches=4, generator=seeded())
        assert net[0].num_batches_tracked == 4


class TestSeededModules:
    def test_reproducible_and_without_a_trace(self):
        state = torch.get_rng_state()
        first, again, other = supernet(seed=0), supernet(seed=0), supernet(seed=1)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(
            torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
        )
        assert not torch.equal(first.alphas_normal, other.alphas_normal)


class TestCheckpoint:
    def test_round_trip(self, tmp_path):
        values = {
            "a": torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last),
            "b": torch.tensor(3),
            "c": torch.randn(2, requires_grad=True),
            "state": seeded(4).get_state(),
        }
        state = {"epoch": 3, "best": float("-inf"), "rows": [{"x": 0.1}]}
        save_checkpoint(tmp_path / "c", values, state)
        loaded, loaded_state = load_checkpoint(tmp_path / "c")
        assert loaded_state == state
        assert loaded.keys() == values.keys()
        for name, value in values.items():
            assert torch.equal(loaded[name], value)
        assert [path.name for path in tmp_path.iterdir()] == ["c"]

    @pytest.mark.parametrize("kind", ["sgd", "adam"])
    def test_optimizers_go_on_as_if_nothing_had_happened(self, kind):
        def make():
            parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
            if kind == "sgd":
                return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)
            return torch.optim.Adam(parameters, lr=0.1, betas=(0.5, 0.999))

        def step(optimizer, value):
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad = torch.full_like(parameter, value)
            optimizer.step()

        whole, first, second = make(), make(), make()
        for value in (1.0, -0.5, 2.0):
            step(whole, value)
        for value in (1.0, -0.5):
            step(first, value)
        for new, old in zip(
            second.param_groups[0]["params"], first.param_groups[0]["params"], strict=True
        ):
            new.data.copy_(old.data)
        saved = optimizer_tensors(first, "x")
        restore_optimizer(second, "x", saved | {"xy.0.step": torch.tensor(99.0)})
        step(second, 2.0)
        for a, b in zip(
            whole.param_groups[0]["params"], second.param_groups[0]["params"], strict=True
        ):
            assert torch.equal(a, b)


def test_stopwatch(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("supernetnas.training.clock.time.monotonic", lambda: now[0])
    watch, free = Stopwatch(10.0), Stopwatch()
    now[0] = 108.0
    assert watch.seconds == 8.0
    assert not watch.expired()
    assert watch.expired(0.5)
    now[0] = 111.0
    assert watch.expired()
    assert not free.expired()


NODES = ((("skip_connect", 0), ("sep_conv_3x3", 1)),) * 4
NOISY = ((("noise", 0), ("sep_conv_3x3", 1)),) * 4


def network(nodes=NODES, dropout=0.0):
    with seeded_modules(0):
        return Network(NetworkConfig(Genotype("s2", nodes, nodes), 4, 3, 3, 3, dropout))


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x) if self.training else x


class OwnNoise(nn.Module):
    """A module that draws as `supernetnas.training.protocols.RandomModule` says."""

    generator, draws = None, True

    def forward(self, x):
        noise = torch.empty_like(x).normal_(generator=self.generator)
        self.seen = [noise.detach()]
        return x + noise

    def __getstate__(self):
        return {**self.__dict__, "generator": None}


def plain_network(layer):
    """Something that states nothing of itself, around a layer on twelve features."""
    with seeded_modules(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 12), layer, nn.Linear(12, 3))


class TestRetrain:
    def test_equals_a_plain_loop(self):
        """SGD with Nesterov momentum; vectors do not decay; the rate falls to zero per step."""
        data, settings = labelled(20), RetrainSettings(2, 8, learning_rate=0.05)
        weight = torch.tensor([0.5, 1.0, 2.0])
        net, reference = network(), network()
        rows = retrain(net, data, settings, seeded(3), class_weight=weight)
        generator = seeded(3)
        optimizer = torch.optim.SGD(
            [
                {"params": [p for p in reference.parameters() if p.ndim > 1]},
                {"params": [p for p in reference.parameters() if p.ndim <= 1], "weight_decay": 0},
            ],
            lr=1.0,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
        )
        step, losses = 0, []
        for _ in range(2):
            batches = balanced_batches(20, 8, generator)
            n_steps = 2 * len(batches)
            for index in batches:
                progress, warmup = step / n_steps, 0.1
                rate = (
                    0.05 * (0.1 + 0.9 * progress / warmup)
                    if progress < warmup
                    else 0.025 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
                )
                for group in optimizer.param_groups:
                    group["lr"] = rate
                scores = reference(data.images.clean(index))
                loss = F.cross_entropy(
                    scores, data.labels[index], weight=weight, label_smoothing=0.1
                )
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(reference.parameters(), 5.0)
                optimizer.step()
                losses.append(loss.item() * len(index) / 20)
                step += 1
        for name, value in reference.state_dict().items():
            torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-4, atol=1e-6)
        assert [row["epoch"] for row in rows] == [1, 2]
        assert rows[0]["train_loss"] == pytest.approx(sum(losses[: len(losses) // 2]), rel=1e-4)
        assert not net.training

    @pytest.mark.parametrize(("nodes", "dropout"), [(NODES, 0.5), (NOISY, 0.0), (NODES, 0.0)])
    def test_every_draw_comes_from_the_generator(self, nodes, dropout):
        state, data = torch.get_rng_state(), labelled(12)
        settings = RetrainSettings(epochs=1, batch_size=6)
        results = []
        for seed in (0, 0, 1):
            net = network(nodes, dropout)
            retrain(net, data, settings, seeded(seed))
            results.append(net.classifier.weight)
            torch.rand(1)  # the global state differs from run to run
        assert torch.equal(results[0], results[1])
        assert not torch.equal(results[0], results[2])
        torch.set_rng_state(state)
        retrain(network(nodes, dropout), data, settings, seeded())
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize(
        "layer",
        [
            nn.Dropout(0.3),
            nn.RReLU(),
            nn.TransformerEncoderLayer(12, 2, 4, dropout=0.1, batch_first=True),
            Functional(lambda x: F.dropout(x, 0.3)),
            Functional(lambda x: x if torch.rand(()) < 0.5 else 2 * x),
        ],
    )
    def test_draws_from_the_global_state_are_refused(self, layer):
        net = plain_network(layer)
        state, before = torch.get_rng_state(), [p.clone() for p in net.parameters()]
        with pytest.raises(ValueError, match="global random state"):
            retrain(net, labelled(12), RetrainSettings(epochs=1, batch_size=6), seeded())
        assert torch.equal(torch.get_rng_state(), state)
        assert all(map(torch.equal, net.parameters(), before))

    @pytest.mark.parametrize(
        "layer",
        [
            nn.Dropout(0.0),
            nn.TransformerEncoderLayer(12, 2, 4, dropout=0.0, batch_first=True),
            Dropout(0.3),
            OwnNoise(),
        ],
    )
    def test_networks_of_others(self, layer):
        """Marked as random, as attention is, or with a generator: both can be repeated."""
        nets, state = [], torch.get_rng_state()
        for _ in range(2):
            nets.append(copy.deepcopy(plain_network(layer)))
            retrain(nets[-1], labelled(12), RetrainSettings(epochs=2, batch_size=6), seeded())
        assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_draw_within_a_network_is_what_the_generator_gives(self):
        results = []
        for seed in (0, 1):
            net = plain_network(OwnNoise())
            retrain(net, labelled(12), RetrainSettings(epochs=1, batch_size=6), seeded(seed))
            results.append(net[2].seen[0])
        assert not torch.equal(*results)

    @pytest.mark.parametrize("setting", ["compile", "checkpointing"])
    def test_a_setting_without_effect_is_refused(self, setting):
        settings, execution = RetrainSettings(epochs=1, batch_size=6), Execution(**{setting: True})
        with pytest.raises(
            ValueError, match=f"{setting}=True would have no effect on a Sequential"
        ):
            retrain(
                *(plain_network(nn.Identity()), labelled(12), settings, seeded()),
                execution=execution,
            )

    def test_a_network_of_others_is_told_how_to_run(self):
        class Told(nn.Sequential):
            execution = FLOAT32

            def forward(self, x):
                seen.append(self.execution)
                return super().forward(x)

        seen, net = [], Told(*plain_network(nn.Identity()))
        execution = Execution("bfloat16", compile=True, checkpointing=True)
        retrain(net, labelled(12), RetrainSettings(2, 12), seeded(), execution=execution)
        # The first step is watched for draws, and what runs watched is never compiled again.
        assert seen == [dataclasses.replace(execution, compile=False), execution]
        assert net.execution == FLOAT32

    def test_no_batch_of_one(self):
        """Five images in batches of four: the last would be alone, without statistics."""
        sizes = []
        net = network()
        net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        retrain(net, labelled(5), RetrainSettings(epochs=2, batch_size=4), seeded())
        assert min(sizes) > 1

    def test_a_callback_ends_it(self):
        rows = retrain(
            network(),
            labelled(6),
            RetrainSettings(epochs=5, batch_size=6),
            seeded(),
            on_epoch=lambda row: row["epoch"] == 2,
        )
        assert len(rows) == 2

    def test_a_time_limit_shortens_the_schedule_and_the_rate_still_falls(self, monkeypatch):
        now, rates = [0.0], []

        def clock():
            return now[0]

        monkeypatch.setattr("supernetnas.training.clock.time.monotonic", clock)
        monkeypatch.setattr(
            "supernetnas.fitting.retraining.cosine_schedule",
            lambda progress, *args, **kwargs: (
                rates.append(progress) or cosine_schedule(progress, *args, **kwargs)
            ),
        )
        net = network()
        net.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 1.0))
        rows = retrain(
            net, labelled(12), RetrainSettings(epochs=100, batch_size=6), seeded(), time_limit=10.5
        )
        assert len(rows) == 5  # of two seconds each
        assert rates == sorted(rates)
        last_step = rates[-1] - rates[-2]
        assert rates[-1] + last_step == pytest.approx(1.0)

    def test_a_limit_that_has_passed_leaves_one_epoch(self):
        rows = retrain(network(), labelled(6), RetrainSettings(epochs=9), seeded(), time_limit=-1.0)
        assert len(rows) == 1

    def test_it_learns(self):
        """Horizontal against vertical bars at random places."""
        n = 48
        generator = seeded(5)
        labels, places = torch.arange(n) % 2, torch.randint(8, (n,), generator=generator)
        pixels = 0.1 * torch.randn(n, 3, 8, 8, generator=generator)
        for image, label, place in zip(pixels, labels, places, strict=True):
            image[(slice(None), place) if label else (slice(None), slice(None), place)] += 1.0
        images = ImageTensors(pixels, torch.zeros(3), torch.ones(3), Augmentation(0.125))
        with seeded_modules(0):
            net = Network(NetworkConfig(Genotype("s2", NODES, NODES), 4, 3, 3, 2))
        rows = retrain(
            net,
            LabelledImages(images, labels),
            RetrainSettings(epochs=8, batch_size=8, learning_rate=0.1),
            seeded(),
        )
        assert rows[-1]["train_accuracy"] > 0.9


class WithFresh(nn.Module):
    """A linear layer of known gradient, some of whose parameters are fresh."""

    def __init__(self, *fresh):
        super().__init__()
        self.layer = nn.Linear(3 * 64, 3)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.fresh = fresh

    def fresh_parameters(self):
        return [self.layer.get_parameter(name) for name in self.fresh]

    def forward(self, x):
        return self.layer(x.flatten(1))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("fresh", [(), ("weight",), ("bias",), ("weight", "bias")])
def test_fresh_parameters_learn_at_their_own_rate(optimizer, fresh):
    """One step from zeros, which nothing clips or decays, is proportional to the rate."""

    def moved(*fresh):
        module = WithFresh(*fresh)
        settings = RetrainSettings(
            1, 9, 1e-3, warmup=0.0, optimizer=optimizer, clip_norm=1e9, fresh_rate=7.0
        )
        retrain(module, labelled(9), settings, seeded())
        return {name: p.detach().clone() for name, p in module.layer.named_parameters()}

    plain, found = moved(), moved(*fresh)
    for name, change in plain.items():
        assert change.any()
        times = 7 if name in fresh else 1
        torch.testing.assert_close(found[name], times * change, rtol=1e-4, atol=1e-9)


class TestHeldConstant:
    def test_a_backward_pass_in_python_computes_no_gradients_of_them(self):
        wanted = []

        class Product(torch.autograd.Function):
            @staticmethod
            def forward(ctx, a, b):
                ctx.save_for_backward(a, b)
                return a * b

            @staticmethod
            def backward(ctx, gradient):
                wanted.append(ctx.needs_input_grad)
                a, b = ctx.saved_tensors
                return gradient * b, gradient * a

        a, b, frozen = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
        frozen.requires_grad_(False)
        torch.autograd.grad(Product.apply(a, b).sum(), a)
        with held_constant([b, frozen]):
            torch.autograd.grad(Product.apply(a, b).sum(), a)
        assert wanted == [(True, True), (True, False)]
        assert b.requires_grad
        assert not frozen.requires_grad

    def test_gradients_come_back_after_an_error(self):
        a = torch.nn.Parameter(torch.ones(2))
        with pytest.raises(KeyboardInterrupt), held_constant([a]):
            raise KeyboardInterrupt
        assert a.requires_grad
