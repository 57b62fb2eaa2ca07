"""Members are trained on a target, the largest first, and only what is to be moves."""

import pytest
import torch
import torch.nn.functional as F
from tiny_elastic import MEMBERS, SPACE, tiny_supernet
from torch.testing import assert_close

from supernetnas.families.elastic.family import Elastic
from supernetnas.families.elastic.finetuning import FineTuning, Taught
from supernetnas.families.elastic.kept_views import KeptViews
from supernetnas.fitting.retraining import RetrainSettings, retrain
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.training.batches import LabelledImages
from supernetnas.training.execution import Execution

SIDE = 16
LARGEST = SPACE.largest.at(SIDE)
VARIED = Augmentation(0.125, flip=True)
EQUAL = {"rtol": 0, "atol": 0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def labelled(n=24, augmentation=VARIED, n_classes=4):
    pixels = torch.randn(n, 3, SIDE, SIDE, generator=seeded(1))
    images = ImageTensors(pixels, torch.zeros(3), torch.ones(3), augmentation)
    return LabelledImages(images, torch.arange(n) % n_classes)


def fine_tuning(members, supernet=None, **options):
    supernet = tiny_supernet().float() if supernet is None else supernet
    generator = seeded(2)
    heads = [
        (torch.randn(4, 9, generator=generator), torch.randn(4, generator=generator))
        for _ in members[1:]
    ]
    deviation = 0.5 + torch.rand(9, generator=generator)
    return FineTuning(supernet, members, heads, deviation, **options)


def trained(module, data, epochs=2, **options):
    settings = RetrainSettings(epochs, 8, 0.05, optimizer="adamw", weight_decay=0.02)
    retrain(module, data, settings, seeded(), **options)
    return module


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def moved(before, module):
    """Names of the tensors that are not what they were."""
    after = module.state_dict()
    assert after.keys() == before.keys()
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def test_the_first_classifier_begins_with_zeros_and_alone_is_fresh():
    for pretrained in (True, False):
        module = fine_tuning([LARGEST, MEMBERS[1]], pretrained=pretrained)
        first, second = module.supernet.heads
        assert all(not parameter.any() for parameter in first.parameters())
        assert second.weight.any() and second.bias.any()
        assert module.fresh_parameters() == (list(first.parameters()) if pretrained else [])


# The frozen stages


@pytest.mark.parametrize("n_stages", range(5))
def test_trunk_in_two_parts(n_stages):
    for member in (None, MEMBERS[1]):
        supernet = tiny_supernet().eval()
        trunk = supernet.largest if member is None else supernet.network(member).trunk
        images = labelled().images.clean(torch.arange(3)).double()
        x = trunk.up_to(n_stages, images)
        assert_close(trunk.after(n_stages, x), trunk(images), **EQUAL)
        assert_close(trunk(images), trunk.after(0, trunk.up_to(0, images)), **EQUAL)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_kept_views(monkeypatch, precision):
    """They are what is seen in augmented views, rounded to what it is kept in."""
    execution = Execution(precision)
    monkeypatch.setattr(
        "supernetnas.families.elastic.kept_views.fast_inference", lambda device: execution
    )
    trunk, images = tiny_supernet().float().eval().largest, labelled(70).images

    def look(images):
        x = trunk.up_to(2, images)
        return [x, trunk.after(2, x)]

    found = KeptViews(images, look, tuple, 3, seeded())
    assert len(found) == 70 and found.n_views == 3
    assert found.shape == (5, 4, 4) and found.index_device == images.index_device
    generator, views = seeded(), []
    with torch.no_grad(), execution.autocast(torch.device("cpu")):
        for _ in range(3):
            parts = [
                look(images.augmented(index, generator)) for index in torch.arange(70).split(64)
            ]
            views.append([torch.cat(part).bfloat16().float() for part in zip(*parts, strict=True)])
    assert not torch.equal(views[0][0], views[1][0])
    index = torch.tensor([69, 3, 3, 0])
    for clean, view in zip(found.clean(index), views[0], strict=True):
        assert clean.dtype == torch.float32
        assert_close(clean, view[index], **EQUAL)
    drawn = found.augmented(index, seeded(5))
    assert drawn[0].is_contiguous(memory_format=torch.channels_last)
    view = torch.randint(3, (4,), generator=seeded(5))
    maps = torch.stack([maps for maps, _ in views])
    assert_close(drawn[0], maps[view, index], **EQUAL)
    assert_close(drawn[1], torch.stack([f for _, f in views])[view, index], **EQUAL)
    every = {
        int(
            (maps[:, 0] == found.augmented(torch.tensor([0]), seeded(s))[0])
            .all((1, 2, 3))
            .nonzero()
        )
        for s in range(30)
    }
    assert every == {0, 1, 2}


def test_training_data_of_the_largest_alone():
    family, data = Elastic(), labelled()
    module = fine_tuning([LARGEST], n_frozen=2)
    before = state(module)
    cached = family.training_data(module, data, seeded())
    assert isinstance(cached.images, KeptViews) and module.cached
    assert torch.equal(cached.labels, data.labels)
    assert cached.images.n_views == 6
    assert moved(before, module) == set()
    again = fine_tuning([LARGEST], n_frozen=2).eval()
    clean = labelled(augmentation=Augmentation.NONE)
    once = family.training_data(again, clean, seeded()).images
    assert once.n_views == 1
    same = once.clean(torch.arange(24))
    expected = again.supernet.largest.up_to(2, clean.images.clean(torch.arange(24)))
    assert_close(same, expected, rtol=0.02, atol=0.02)
    # Scores of what is cached are those of the images.
    again.cached = False
    scores = again(clean.images.clean(torch.arange(24)))
    again.cached = True
    assert_close(again(expected), scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["nothing frozen", "nothing frozen of the taught", "too large"])
def test_images_are_trained_on_where_activations_are_not_kept(monkeypatch, case):
    module = fine_tuning([LARGEST, MEMBERS[0]], n_frozen=2 if case == "too large" else 0)
    if case == "nothing frozen of the taught":
        module = Taught(module)
    if case == "too large":
        monkeypatch.setattr(
            "supernetnas.families.elastic.family._MOST_BYTES", 24 * 5 * 16 * 2 * 4 - 1
        )
    data, before = labelled(), state(module)
    assert Elastic().training_data(module, data, seeded()) is data
    assert not getattr(module, "cached", False)
    assert moved(before, module) == set()


@pytest.mark.parametrize("n_frozen", [0, 1, 3])
def test_a_lesson_kept_is_that_of_the_images(monkeypatch, n_frozen):
    """Whoever is taught learns the same, whether its lessons are kept or computed anew."""
    monkeypatch.setattr(
        "supernetnas.families.elastic.finetuning.fast_inference", lambda device: Execution()
    )
    members = [LARGEST, SPACE.largest.at(8), *MEMBERS[:2]]
    first = fine_tuning(members, tiny_supernet().float(), n_frozen=n_frozen)
    module = Taught(trained(first, labelled())).train()
    data = labelled(augmentation=Augmentation.NONE)
    images, labels = data.images.clean(torch.arange(24)), data.labels
    loss, scores = module.training_loss(images, labels, F.cross_entropy)
    loss.backward()
    expected = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    with torch.no_grad():
        seen = module.look(images)
    again, same = module.training_loss(module.batch(seen), labels, F.cross_entropy)
    again.backward()
    assert_close((again, same), (loss, scores))
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    assert_close(found, expected)
    # As plain networks have it, which see coarse images otherwise than fine ones.
    coarse = 4 * images.sign()
    with torch.no_grad():
        lesson = module.batch(module.look(coarse))
        of_largest = lesson.given[bool(n_frozen), 8]
        if n_frozen:
            of_largest = module.supernet.largest.after(n_frozen, of_largest)
        else:
            of_largest = module.supernet.features(of_largest, SPACE.largest.at(8))
        plain = module.supernet.network(SPACE.largest.at(8)).features(coarse)
        assert_close(of_largest, plain)
        assert (plain - module.supernet.features(coarse, LARGEST)).abs().max() > 1e-2
        assert_close(lesson.features, module.teacher(coarse))
    kept = Elastic().training_data(module, data, seeded()).images
    assert isinstance(kept, KeptViews) == bool(n_frozen)
    if n_frozen:
        lesson = kept.augmented(torch.arange(24), seeded())
        near, _ = module.training_loss(lesson, labels, F.cross_entropy)
        assert_close(near, loss, rtol=0.02, atol=0.02)


def test_views_that_fit_into_memory(monkeypatch):
    monkeypatch.setattr("supernetnas.families.elastic.family._MOST_BYTES", 24 * 5 * 16 * 2 * 5 + 1)
    module = fine_tuning([LARGEST], n_frozen=2)
    assert Elastic().training_data(module, labelled(), seeded()).images.n_views == 5


# What moves


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("n_frozen", [0, 2, 3])
def test_the_largest_alone(n_frozen, cached):
    module = fine_tuning([LARGEST], n_frozen=n_frozen, dropout=0.2)
    before, data = state(module), labelled()
    if cached:
        data = Elastic().training_data(module, data, seeded())
    trained(module, data)
    frozen = ("stem.", "stem_norm.", *(f"stages.{stage}." for stage in range(n_frozen)))
    weights = {f"supernet.largest.{name}" for name, _ in module.supernet.largest.named_parameters()}
    if n_frozen:
        weights = {
            name
            for name in weights
            if not name.removeprefix("supernet.largest.").startswith(frozen)
        }
    assert moved(before, module) == {*weights, "supernet.heads.0.weight", "supernet.heads.0.bias"}
    assert not module.training


def test_the_largest_before_it_teaches():
    module = fine_tuning([LARGEST, *MEMBERS[:2]], n_frozen=1, dropout=0.2)
    before = state(module)
    trained(module, labelled(), epochs=4)
    supernet = module.supernet
    largest = {f"supernet.largest.{n}" for n, _ in supernet.largest.named_parameters()}
    still = {n for n in largest if n.split(".")[2] in ("stem", "stem_norm")}
    still |= {n for n in largest if n.startswith("supernet.largest.stages.0.")}
    heads = {"supernet.heads.0.weight", "supernet.heads.0.bias"}
    assert moved(before, module) == heads | (largest - still)


def test_what_is_taught():
    first = fine_tuning([LARGEST, *MEMBERS[:2]], n_frozen=1, dropout=0.2)
    module = Taught(trained(first, labelled()))
    assert module.members == (LARGEST, *MEMBERS[:2])
    before = state(module)
    trained(module, labelled(), epochs=4)
    changed = moved(before, module)
    assert {n for n in changed if "heads." in n} == {
        f"supernet.heads.{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")
    }
    assert not any(name.startswith(("supernet.largest.", "teacher")) for name in changed)
    supernet = module.supernet
    # Of the shared weights, those that some member has.
    reached = set()
    for member in MEMBERS[:2]:
        names = [name for name, _ in supernet.network(member).trunk.named_parameters()]
        reached |= {f"supernet.shared.{name}" for name in names}
    assert {n for n in changed if n.startswith("supernet.shared.")} == reached
    assert {n for n in changed if n.startswith("supernet.transforms.")} == {
        f"supernet.transforms.{name}.weight" for name in ("2_0_3", "2_1_3", "3_0_3")
    }
    assert not {n for n in changed if "running" in n or "statistics" in n or "classif" in n}
    assert not module.training


@pytest.mark.parametrize("keeps_first", [False, True])
def test_the_largest_teaches_itself_at_fewer_pixels(keeps_first):
    """It goes on from what it learned, in the stages that were not kept before."""
    small, supernet = SPACE.largest.at(8), tiny_supernet().float()
    first = fine_tuning([LARGEST, small], supernet, n_frozen=1, keeps_first=keeps_first)
    trained(first, labelled())
    before = {name: p.clone() for name, p in supernet.largest.named_parameters()}
    head = supernet.heads[0].weight.clone()
    module = Taught(first)
    members = (LARGEST, small) if keeps_first else (small,)
    assert module.members == module.students == supernet.config.front == members
    assert len(supernet.heads) == len(members)
    for own in supernet.heads:
        assert torch.equal(own.weight, head)
    for name, parameter in supernet.largest.named_parameters():
        assert torch.equal(parameter, before[name])
    trained(module, labelled())
    for name, parameter in module.teacher.named_parameters():
        assert torch.equal(parameter, before[name])
    kept = ("stem.", "stem_norm.", "stages.0.")
    for name, parameter in supernet.largest.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith(kept)
    assert not any(torch.equal(own.weight, head) for own in supernet.heads)
    images = labelled().images.clean(torch.arange(5))
    network = Elastic().trained(module, members[0])
    assert_close(network(images), module(images))
    assert Elastic().trained(module, small)(images).shape == (5, 4)


def test_the_largest_teaches_itself_and_members():
    """All of them are trained: the largest by what it was, and others in the shared weights."""
    small = SPACE.largest.at(8)
    first = trained(fine_tuning([LARGEST, small, MEMBERS[0]], n_frozen=1), labelled())
    own = first.supernet.heads[2].weight.clone()
    module = Taught(first)
    assert module.students == (LARGEST, small, MEMBERS[0])
    assert torch.equal(module.supernet.heads[2].weight, own)
    before = state(module)
    trained(module, labelled(), epochs=4)
    changed = moved(before, module)
    assert {name.split(".")[1] for name in changed} == {"largest", "shared", "transforms", "heads"}
    assert {n for n in changed if "heads." in n} == {
        f"supernet.heads.{n}.{kind}" for n in range(3) for kind in ("weight", "bias")
    }


def test_one_member_without_the_largest_leaves_that_as_it_is():
    module = fine_tuning([MEMBERS[1]])
    before = state(module)
    trained(module, labelled())
    changed = moved(before, module)
    assert any(name.startswith("supernet.shared.") for name in changed)
    assert not any(name.startswith("supernet.largest.") for name in changed)


def test_statistics_follow_the_images_where_there_is_nothing_to_keep():
    data = labelled()
    first = fine_tuning([LARGEST, MEMBERS[1]], pretrained=False)
    before = state(first)
    trained(first, data)
    running = {n for n in before if n.startswith("supernet.largest.") and "running" in n}
    assert running <= moved(before, first)
    module = Taught(first)
    before = state(module)
    trained(module, data)
    changed = moved(before, module)
    assert {n for n in changed if n.startswith("supernet.statistics.")} == {
        f"supernet.statistics.1.{name}" for name in ("mean", "variance", "batches")
    }
    assert not {n for n in changed if n.startswith("supernet.shared.") and "running" in n}
    assert not {n for n in changed if n.startswith("teacher.")}
    # As of plain networks whose weights stay, whatever trains them.
    module = Taught(fine_tuning([LARGEST, MEMBERS[1]], pretrained=False)).train()
    network = module.supernet.network(MEMBERS[1]).train()
    images = data.images.clean(torch.arange(24))
    module.training_loss(images, data.labels, F.cross_entropy)
    network(images)
    found = module.supernet.network(MEMBERS[1]).trunk
    assert_close(dict(found.named_buffers()), dict(network.trunk.named_buffers()))


# The loss


@pytest.mark.parametrize("fixed", [True, False])
def test_loss_of_what_is_taught(fixed, monkeypatch):
    """A fifth from the labels, the rest from the teacher's probabilities; and its features."""
    monkeypatch.setattr(
        "supernetnas.families.elastic.finetuning.fast_inference", lambda device: Execution()
    )
    supernet = tiny_supernet().float()
    members = [LARGEST, MEMBERS[2], MEMBERS[0]]
    module = Taught(fine_tuning(members, supernet, pretrained=fixed)).train()
    assert supernet.config.front == tuple(members)
    data = labelled()
    images, labels = data.images.clean(torch.arange(24)), data.labels
    networks = [supernet.network(member).train(not fixed) for member in members]
    networks[0].eval()
    features = [network.features(images) for network in networks]
    scores = [
        f @ n.classifier.weight.T + n.classifier.bias
        for n, f in zip(networks, features, strict=True)
    ]
    expected, taught = torch.zeros(()), scores[0].detach().softmax(1)
    for index in (1, 2):
        own = -scores[index].log_softmax(1)[torch.arange(24), labels].mean()
        told = (taught * (taught.log() - scores[index].log_softmax(1))).sum(1).mean()
        gap = (features[index] - features[0].detach()).abs() / module.deviation
        near = torch.where(gap < 1, gap.square() / 2, gap - 0.5).mean()
        expected = expected + 0.2 * own + 0.8 * told + near
    loss, first = module.training_loss(images, labels, F.cross_entropy)
    assert_close(loss, expected)
    assert_close(first, scores[1])

    loss.backward()
    expected.backward()
    for index, network in enumerate(networks[1:], start=1):
        assert_close(
            supernet.heads[index].weight.grad, network.classifier.weight.grad, rtol=1e-3, atol=1e-4
        )
    # Shared weights get what both parts give.
    grads = dict(supernet.shared.named_parameters())
    total = networks[1].trunk.stem.weight.grad + networks[2].trunk.stem.weight.grad
    assert_close(grads["stem.weight"].grad, total, rtol=1e-3, atol=1e-4)
    assert all(
        p.grad is None for p in (*supernet.largest.parameters(), *module.teacher.parameters())
    )


def test_forward_is_the_first_member():
    module = fine_tuning([LARGEST, MEMBERS[0]], dropout=0.5).eval()
    images = labelled().images.clean(torch.arange(5))
    network = Elastic().trained(module, LARGEST)
    assert network.config.dropout == 0.5 and not network.training
    assert_close(module(images), network(images), **EQUAL)
    taught = Taught(module).eval()
    other = Elastic().trained(taught, MEMBERS[0])
    assert torch.equal(other.classifier.weight, module.supernet.heads[1].weight)
    assert_close(taught(images), other(images), **EQUAL)


def test_the_teacher_drops_nothing(monkeypatch):
    seen = []

    def watched(scores, taught, *args):
        seen.append(taught)
        return (scores * 0).sum()

    monkeypatch.setattr("supernetnas.families.elastic.finetuning.divergence", watched)
    monkeypatch.setattr(
        "supernetnas.families.elastic.finetuning.fast_inference", lambda device: Execution()
    )
    first = fine_tuning([LARGEST, MEMBERS[0]], tiny_supernet().float(), dropout=0.9)
    module = Taught(first).train()
    module.dropout.generator = torch.Generator().manual_seed(0)
    data = labelled()
    images = data.images.clean(torch.arange(24))
    _, dropped = module.training_loss(images, data.labels, F.cross_entropy)
    expected = module.supernet.heads[0](module.supernet.features(images, LARGEST))
    assert_close(seen[0], expected)
    own = module.supernet.heads[1](module.supernet.features(images, MEMBERS[0]))
    assert not torch.allclose(dropped, own, atol=1e-3)
