"""What the comparisons of elastic networks compare."""

import importlib
from collections import namedtuple
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from elastic_zoo import MEMBERS
from tiny_elastic import MEMBERS as TINY_MEMBERS
from tiny_elastic import tiny_supernet

from supernetnas.families.elastic import lite0_supernet
from supernetnas.families.elastic.finetuning import FineTuning
from supernetnas.families.elastic.lite0 import LITE0_SPACE
from supernetnas.images.augmentation import ImageTensors

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.exists(), reason="needs the benchmarks' sources")

WHOLE = LITE0_SPACE.largest.at(32)


@pytest.fixture
def ways(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("elastic_ways")


@pytest.fixture
def members(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("peers_members")


def some_images(n=4, side=32):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n, 3, side, side), generator=generator, dtype=torch.uint8)
    return ImageTensors(pixels, torch.full((3,), 0.5), torch.full((3,), 0.5))


@pytest.mark.parametrize("member", TINY_MEMBERS, ids=str)
def test_every_stage_learns_by_itself(ways, member):
    supernet = tiny_supernet().float()
    images = torch.randn(4, 3, member.size, member.size, generator=torch.Generator().manual_seed(1))
    taught = ways.Blockwise(supernet.largest.eval()).activations(images)
    losses = ways.Blockwise.stage_losses(supernet, member, taught)
    plain = supernet.network(member).train().trunk.stages
    parameters = dict(supernet.named_parameters())
    for place, loss in enumerate(losses, start=1):
        made, wanted = plain[place](taught[place - 1]), taught[place]
        expected = (made - wanted).square().mean() / wanted.var()
        torch.testing.assert_close(loss, expected)
        gradients = torch.autograd.grad(
            loss, list(parameters.values()), allow_unused=True, retain_graph=True
        )
        reached = {n for n, g in zip(parameters, gradients, strict=True) if g is not None}
        own = (f"shared.stages.{place}.", f"transforms.{place}_")
        assert reached
        assert all(name.startswith(own) for name in reached)
    assert len(losses) == len(member.stages) - 1


def test_a_training_ends_with_its_time(ways, monkeypatch, tmp_path):
    monkeypatch.setattr(ways, "_WARMUP", 1)
    training = ways.InTime(some_images(), tmp_path, seed=0)
    clock = iter(range(100))
    monkeypatch.setattr(ways, "time", namedtuple("Clock", "process_time")(lambda: next(clock)))
    taught, rates = [], []

    def lesson(name):
        def losses(supernet, images, targets, architectures):
            taught.append(name)
            rates.append(training.settings.rate(training.step, training.n_steps))
            for architecture in architectures:
                yield supernet.features(images, architecture).square().mean()

        return training.sampler, namedtuple("Lesson", "losses")(losses)

    training.learn([lesson("first"), lesson("second")], 8)
    assert taught == ["first"] * 4 + ["second"] * 4
    assert (training.step, training.seconds) == (8, 8)
    assert rates[0] < rates[1] == training.settings.learning_rate > rates[-2] > rates[-1]


def test_the_whole_space_is_drawn_from_without_the_largest(ways, tmp_path):
    training = ways.InTime(some_images(), tmp_path, seed=0)
    ((sampler, distillation),) = ways._lessons("space", training)
    drawn = [sampler(step) for step in range(20)]
    assert distillation is training.distillation
    assert all(step[-1] == LITE0_SPACE.smallest.at(48) for step in drawn)
    assert len({member for step in drawn for member in step[:-1]}) == 40
    assert {member.size for step in drawn for member in step} == {48, 64, 80, 96}
    assert not any(LITE0_SPACE.is_whole(member) for step in drawn for member in step)


@pytest.fixture(scope="module")
def supernet():
    supernet = lite0_supernet(members=MEMBERS[:2])
    images = some_images(8)
    supernet.recalibrate(images, generator=torch.Generator().manual_seed(0))
    return supernet.eval()


def test_a_member_alone_learns_what_it_learns_beside_others(members, supernet):
    generator = torch.Generator().manual_seed(0)
    heads = [
        (0.01 * torch.randn(1000, 1280, generator=generator), torch.zeros(1000)) for _ in range(2)
    ]
    deviation = 0.1 + torch.rand(1280, generator=generator)
    largest, member = (
        members.with_head(supernet, architecture, head)
        for architecture, head in zip((WHOLE, MEMBERS[0]), heads, strict=True)
    )
    for network in (largest, member):
        network.dropout.share = 0.0
    together = FineTuning(supernet, (WHOLE, MEMBERS[0]), heads, deviation, n_frozen=3).train()
    images, labels = some_images().clean(torch.arange(4)), torch.tensor([0, 1, 2, 4])
    both = together.training_loss(images, labels, F.cross_entropy)[0]
    first = members.Alone(largest, deviation, None).train()
    second = members.Alone(member, deviation, largest).train()
    alone = [m.training_loss(images, labels, F.cross_entropy)[0] for m in (first, second)]
    torch.testing.assert_close(both, sum(alone))
    frozen = {
        name.removeprefix("supernet.largest.")
        for name, p in together.named_parameters()
        if name.startswith("supernet.largest.") and not p.requires_grad
    }
    fresh = members.Alone(supernet.network(WHOLE), deviation, None).network.trunk
    assert frozen == {name for name, p in fresh.named_parameters() if not p.requires_grad}
    assert not any(p.requires_grad for p in second.teacher.parameters())
    assert all(p.requires_grad for p in second.network.parameters())


def test_slices_are_of_the_trained_largest(members, supernet):
    largest = supernet.network(WHOLE)
    with torch.no_grad():
        for parameter in largest.trunk.parameters():
            parameter.mul_(1.01)
    images = some_images(8)
    found = members.sliced(supernet, largest, [WHOLE, MEMBERS[0]], images)
    assert found.config.members == MEMBERS[:1]
    batch = images.clean(torch.arange(8))
    with torch.no_grad():
        wanted = largest.eval().features(batch)
        torch.testing.assert_close(found.features(batch, WHOLE), wanted)
        # Its channels in another order: the same function.
        torch.testing.assert_close(found.shared.eval()(batch), wanted, rtol=1e-3, atol=1e-4)
        ours, theirs = (s.features(batch, MEMBERS[0]) for s in (found, supernet))
        assert not torch.allclose(ours, theirs, rtol=1e-2)
        stem = found.network(MEMBERS[0]).trunk
        torch.testing.assert_close(
            stem.stem_norm.running_mean, largest.trunk.stem(batch).mean((0, 2, 3))
        )
