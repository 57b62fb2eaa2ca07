"""What the comparisons of elastic networks compare."""

import copy
import importlib
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from elastic_zoo import MEMBERS
from tiny_elastic import MEMBERS as TINY_MEMBERS
from tiny_elastic import tiny_supernet

from supernetnas.families.base import get_family
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


def test_slices_are_of_the_trained_largest(members, supernet):
    trained = copy.deepcopy(supernet)
    with torch.no_grad():
        for parameter in trained.largest.parameters():
            parameter.mul_(1.01)
    images = some_images(8)
    found = members.sliced(trained, MEMBERS[0], images)
    assert found.config.members == MEMBERS[:1]
    batch = images.clean(torch.arange(8))
    with torch.no_grad():
        wanted = trained.largest(batch)
        torch.testing.assert_close(found.features(batch, WHOLE), wanted)
        # Its channels in another order: the same function.
        torch.testing.assert_close(found.shared.eval()(batch), wanted, rtol=1e-3, atol=1e-4)
        ours, theirs = (s.features(batch, MEMBERS[0]) for s in (found, supernet))
        assert not torch.allclose(ours, theirs, rtol=1e-2)
        stem = found.network(MEMBERS[0]).trunk
        torch.testing.assert_close(
            stem.stem_norm.running_mean, trained.largest.stem(batch).mean((0, 2, 3))
        )


def test_one_member_is_taught_alone(members, supernet):
    heads = [(torch.full((1000, 1280), float(place)), torch.zeros(1000)) for place in (1, 2)]
    begun = copy.deepcopy(supernet)
    first = FineTuning(begun, (WHOLE, *MEMBERS[:2]), heads, torch.ones(1280), n_frozen=3)
    search = namedtuple("Search", "members heads")(list(first.members), heads)
    with torch.no_grad():
        first.supernet.largest.stem.weight.mul_(2)  # its training
    module = get_family("elastic").taught(members.as_in_front(search, first, MEMBERS[1]))
    assert module.students == (MEMBERS[1],)
    assert torch.equal(module.teacher.stem.weight, first.supernet.largest.stem.weight)
    assert not module.teacher_head.weight.any()  # as it begins
    assert [float(head.weight[0, 0].detach()) for head in module.supernet.heads] == [0, 2]
    trained, kept = dict(module.supernet.named_parameters()), dict(begun.named_parameters())
    assert trained["shared.head.weight"].requires_grad
    assert not trained["largest.head.weight"].requires_grad
    assert trained["shared.head.weight"] is not kept["shared.head.weight"]
