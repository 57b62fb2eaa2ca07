"""Evolution that trains its supernet."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_paths import PathSpace, tiny_paths
from tiny_search import assert_same_state, labelled, seeded
from torch.testing import assert_close

from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.search.limits import Limits
from supernetnas.search.method import SearchTask
from supernetnas.search.samplers import seeded as numbered
from supernetnas.search.scoring import Score, Scorer
from supernetnas.search.shifting import Shifting
from supernetnas.training.batches import LabelledImages, endless_batches
from supernetnas.training.checkpoints import load_checkpoint, optimizer_tensors, save_checkpoint

SMALL = {"generations": 2, "population": 4, "mutations": 2, "crossovers": 1, "n_images": 20}
SPACE = PathSpace(layers=4)
DATA = labelled(30), labelled(24, seed=2)
BATCH = 10


def started(supernet=None, seed=0, data=DATA, limits=None, **settings):
    method = Shifting(**{**SMALL, **settings})
    method.check()
    task = SearchTask(*data, BATCH, seeded(seed), limits=limits or Limits())
    return method.start(supernet or tiny_paths(space=SPACE), task)


def batches_of(search, generation):
    """Batches of a generation, in the order that they are drawn in."""
    generator = numbered(search.seed, generation)
    for index in endless_batches(30, BATCH, generator):
        yield DATA[0].images.augmented(index, generator), DATA[0].labels_at(index)


def test_gradients_of_a_generation_are_summed_for_one_update():
    search = started(update="accumulate", shift_rate=0.1, label_smoothing=0.2)
    supernet = copy.deepcopy(search.supernet).train()
    search.run_epoch()
    generation, batches = list(search.scores), batches_of(search, 0)
    assert len(generation) == 4
    for architecture in generation:
        for _ in range(2):
            images, labels = next(batches)
            scores = supernet(images, architecture)
            (F.cross_entropy(scores, labels, label_smoothing=0.2) / 2).backward()
    for name, parameter in supernet.named_parameters():
        expected = parameter.detach().clone()
        if parameter.grad is not None:
            decay = 4e-5 if parameter.ndim > 1 else 0.0
            expected -= 0.1 * (parameter.grad + decay * parameter.detach())
        assert_close(search.supernet.get_parameter(name).detach(), expected)


def test_an_immediate_update_follows_every_batch():
    search = started(update="immediate", shift_rate=0.1, label_smoothing=0.0)
    supernet = copy.deepcopy(search.supernet).train()
    search.run_epoch()
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in supernet.parameters() if p.ndim > 1], "weight_decay": 4e-5},
            {"params": [p for p in supernet.parameters() if p.ndim <= 1]},
        ],
        lr=0.1,
        momentum=0.9,
    )
    batches = batches_of(search, 0)
    for architecture in search.scores:
        for _ in range(2):
            images, labels = next(batches)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(supernet(images, architecture), labels).backward()
            optimizer.step()
    for name, parameter in supernet.named_parameters():
        assert_close(search.supernet.get_parameter(name), parameter)


@pytest.mark.parametrize("update", ["accumulate", "immediate"])
@pytest.mark.parametrize("order", ["score_first", "train_first"])
def test_when_architectures_are_scored(update, order):
    search = started(update=update, order=order, shift_rate=0.1)
    seen, weights = [], []
    start = search.supernet.classifier.weight.detach().clone()

    class Watched:
        def __call__(self, architectures):
            seen.append(len(architectures))
            weights.append(search.supernet.classifier.weight.detach().clone())
            return [Score(0.5, 1.0)] * len(architectures)

    search.scorer = Watched()
    search.run_epoch()
    assert seen == ([4] if update == "accumulate" else [1] * 4)
    assert torch.equal(weights[0], start) == (order == "score_first")
    last = torch.equal(weights[-1], search.supernet.classifier.weight)
    assert last == (order == "train_first")
    assert len({w.sum().item() for w in weights}) == len(weights)


@pytest.mark.parametrize("update", ["accumulate", "immediate"])
def test_what_no_architecture_uses_never_moves(update):
    least = tiny_paths(space=SPACE).costs(SPACE.decode([1, 0, 0, 0])).macs
    search = started(update=update, limits=Limits(max_macs=least), shift_rate=0.1, generations=3)
    before = copy.deepcopy(search.supernet.state_dict())
    search.run()
    used = {(place, c) for a in search.scores for place, c in enumerate(a.choices)}
    assert 4 < len(used) < 12
    moved = {
        name
        for name, value in search.supernet.named_parameters()
        if not torch.equal(value, before[name])
    }
    layers = {tuple(map(int, n.split(".")[1:3])) for n in moved if n.startswith("layers.")}
    assert layers == used


@pytest.mark.parametrize("update", ["immediate", "accumulate"])
def test_a_divergence_is_found_at_once(update):
    search = started(update=update, shift_rate=1e20, generations=8)
    with pytest.raises(FloatingPointError, match=r"generation [1-8]: .* shift_rate \(1e\+20\)"):
        search.run()
        search.derive()


def test_a_divergence_names_the_rate_and_the_generation_that_it_is_of():
    search = started(generations=1, epochs=1, learning_rate=1e35)
    with pytest.raises(FloatingPointError, match=r"epoch 1: .* learning_rate \(1e\+35\)"):
        search.run()
    search = started(update="accumulate", shift_rate=1e30)
    with pytest.raises(FloatingPointError, match=r"generation 2: .* shift_rate \(1e\+30\)"):
        search.run()
        search.derive()


@pytest.mark.parametrize("order", ["train_first", "score_first"])
def test_a_divergence_is_found_by_probes_too(order):
    search = started(score="probe", update="immediate", order=order, shift_rate=1e20)
    with pytest.raises(FloatingPointError, match="shift_rate"):
        search.run()


def test_a_frozen_extractor_stays_as_it_is():
    search = started(frozen=True, shift_rate=0.1)
    before = copy.deepcopy(search.supernet.state_dict())
    search.run()
    moved = {
        name
        for name, value in search.supernet.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert moved == {"classifier.weight", "classifier.bias"}
    assert all(p.requires_grad for p in search.supernet.parameters())


def test_repeated_architectures_keep_their_latest_score():
    search = started(supernet=tiny_paths(space=PathSpace(layers=1)), generations=3)
    calls = []

    class Counting:
        def __call__(self, architectures):
            calls.extend(architectures)
            return [Score(len(calls) / 100, 0.0)] * len(architectures)

    search.scorer = Counting()
    search.run()
    assert len(calls) == 9 and len(set(calls)) == 3  # three at most are different
    assert {score.accuracy for score in search.scores.values()} == {0.07, 0.08, 0.09}


def test_the_best_are_scored_again_on_the_final_supernet():
    search = started(shift_rate=0.05, generations=3, finalists=3)
    search.run()
    ranking = search.ranking()
    best = search.derive()
    assert list(search.scores) == ranking[:3]
    fresh = Scorer(search.supernet, *DATA, seed=search.seed)
    assert search.scores == dict(zip(ranking[:3], fresh(ranking[:3]), strict=True))
    assert best == max(search.scores, key=lambda a: search.scores[a].rank)
    row = search.history[-1]
    assert (row["stage"], row["candidates"]) == ("derive", 3)
    assert row["validation_accuracy"] == search.scores[best].accuracy


@pytest.mark.parametrize("update", ["accumulate", "immediate"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_search_equals_an_uninterrupted_one(tmp_path, update, stop):
    settings = {"update": update, "generations": 3, "epochs": 1, "shift_rate": 0.05}
    whole = started(**settings)
    whole.run()
    part = started(**settings)
    part.run(on_epoch=lambda search: search.epoch == stop)
    save_checkpoint(tmp_path / "c.safetensors", *part.state())
    resumed = started(supernet=tiny_paths(seed=7, space=SPACE), seed=3, **settings)
    resumed.load_state(*load_checkpoint(tmp_path / "c.safetensors"))
    resumed.run()
    assert_same_state(whole, resumed)
    assert (whole.scores, whole.parents) == (resumed.scores, resumed.parents)
    momenta = [optimizer_tensors(search.optimizer, "o") for search in (whole, resumed)]
    assert momenta[0].keys() == momenta[1].keys()
    assert_close(*momenta, rtol=0, atol=0)
    assert whole.derive() == resumed.derive()


def coloured(n, seed):
    """Images of three colours, in noise."""
    labels = torch.arange(n) % 3
    pixels = (
        torch.randn(n, 3, 8, 8, generator=seeded(seed)) + 3 * torch.eye(3)[labels][:, :, None, None]
    )
    images = ImageTensors(pixels, torch.zeros(3), torch.ones(3), Augmentation(0.125))
    return LabelledImages(images, labels)


def test_a_supernet_is_taken_to_new_classes():
    data = coloured(60, 1), coloured(30, 2)
    search = started(data=data, shift_rate=0.02, generations=5, n_images=60)
    first = search.run()[0]["validation_accuracy"]
    search.derive()
    assert search.history[-1]["validation_accuracy"] > max(first, 0.8)
