"""Supernets that are split at a layer and go on training in parts."""

import copy
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_paths import PathSpace, drawn, tiny_paths
from tiny_search import Doubles, assert_same_state, labelled, seeded
from torch.testing import assert_close

from supernetnas import Evolution, RandomPaths, Shifting, Split
from supernetnas.parameters import ParameterError
from supernetnas.search.distillation import FromLabels
from supernetnas.search.limits import Limits
from supernetnas.search.method import SearchTask
from supernetnas.search.path_training import AugmentedImages, PathTraining, PathTrainingSettings
from supernetnas.search.samplers import Grouped
from supernetnas.search.scoring import Scorer
from supernetnas.search.splitting import SplitSupernet, gradient_similarities, min_cut
from supernetnas.training.checkpoints import load_checkpoint, save_checkpoint
from supernetnas.training.clock import Stopwatch

SPACE = PathSpace(layers=3, choices=4)
DATA = labelled(30), labelled(24, seed=2)
GROUPS = ((0, 3), (1, 2))
SMALL = {"population": 6, "mutations": 3, "crossovers": 2, "epochs": 2}


def split(groups=GROUPS, gene=1, supernet=None):
    return SplitSupernet(supernet or tiny_paths(space=SPACE), SPACE, gene, groups)


def started(method=None, seed=0, limits=None, supernet=None, **settings):
    method = method or Evolution(2, **{**SMALL, "split": Split(epochs=4, n_batches=2), **settings})
    method.check()
    task = SearchTask(*DATA, 16, seeded(seed), limits=limits or Limits())
    return method.start(supernet or tiny_paths(space=SPACE), task)


def after_training(search):
    while not search.training.ended:
        search.run_epoch()
    return search


# What is split into what


def test_the_groups_are_those_between_which_there_is_least():
    alike = np.array(
        [
            [1.0, 0.1, 0.2, 0.9],
            [0.1, 1.0, 0.8, 0.1],
            [0.2, 0.8, 1.0, 0.3],
            [0.9, 0.1, 0.3, 1.0],
        ]
    )
    assert min_cut(alike) == ((0, 3), (1, 2))
    assert min_cut(alike[:3, :3]) == ((0,), (1, 2))
    assert min_cut(alike[:2, :2]) == ((0,), (1,))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7])
def test_no_other_cut_is_less(n):
    alike = np.random.RandomState(n).uniform(-1, 1, (n, n))
    alike += alike.T
    first, second = min_cut(alike)
    assert sorted([*first, *second]) == [*range(n)]
    assert 0 in first
    least = min(2, n // 2)
    assert min(len(first), len(second)) >= least
    cut = sum(alike[i, j] for i in first for j in second)
    for size in range(least, n - least + 1):
        for group in combinations(range(n), size):
            others = {*range(n)} - {*group}
            assert cut <= sum(alike[i, j] for i in group for j in others) + 1e-12


@pytest.mark.parametrize("genes", [[0], [2, 0, 1]])
def test_similarities_are_cosines_of_gradients_at_shared_weights(genes):
    supernet, data = tiny_paths(space=SPACE).double(), labelled(20, Doubles)
    batches = [
        (data.images.clean(index), data.labels_at(index)) for index in torch.arange(20).split(10)
    ]
    before = copy.deepcopy(supernet.state_dict())
    loss = FromLabels(0.1)
    found = gradient_similarities(supernet, SPACE, genes, loss, iter(batches), seeded(3))
    assert [*found] == genes
    assert_close(supernet.state_dict(), before, rtol=0, atol=0)

    twin, generator = copy.deepcopy(supernet).train(), seeded(3)
    expected = {gene: np.zeros((4, 4)) for gene in genes}
    for images, labels in batches:
        base = [int(torch.randint(4, (), generator=generator)) for _ in range(3)]
        for gene in genes:
            shared = {
                name
                for name, _ in twin.named_parameters()
                if not name.startswith("layers.")
                or any(
                    name.startswith(f"layers.{place}.{choice}.")
                    for place, choice in enumerate(base)
                    if place != gene
                )
            }
            rows = []
            for choice in range(4):
                genes_of = [*base[:gene], choice, *base[gene + 1 :]]
                twin.zero_grad()
                scores = twin(images, SPACE.decode(genes_of))
                F.cross_entropy(scores, labels, label_smoothing=0.1).backward()
                parameters = dict(twin.named_parameters())
                rows.append(torch.cat([parameters[n].grad.flatten() for n in sorted(shared)]))
            for i, j in np.ndindex(4, 4):
                cosine = rows[i] @ rows[j] / (rows[i].norm() * rows[j].norm())
                expected[gene][i, j] += float(cosine) / 2
    for gene in genes:
        np.testing.assert_allclose(found[gene], expected[gene], atol=1e-6)  # scores are single
        np.testing.assert_allclose(np.diag(found[gene]), 1, atol=1e-12)


def chosen(monkeypatch, split, similarities, space=SPACE):
    """What is chosen where similarities are known."""
    module = "supernetnas.search.splitting.gradient_similarities"
    monkeypatch.setattr(module, lambda *args: {gene: similarities[gene] for gene in args[2]})
    return split.choose(None, space, None, [], seeded())


def test_the_layer_whose_parts_agree_least_is_split(monkeypatch):
    close, apart = np.full((4, 4), 0.9), np.full((4, 4), 0.9)
    apart[np.ix_((0, 2), (1, 3))] = apart[np.ix_((1, 3), (0, 2))] = 0.2
    found = {0: close, 1: apart, 2: close}
    assert chosen(monkeypatch, Split(), found) == (1, ((0, 2), (1, 3)))
    assert chosen(monkeypatch, Split(2), found)[0] == 2
    gene, groups = chosen(monkeypatch, Split(by="choices"), found)
    assert (gene, list(groups)) == (1, [(0,), (1,), (2,), (3,)])


def test_layers_of_other_numbers_of_choices_are_compared_by_means(monkeypatch):
    class Mixed(PathSpace):
        genes = (2, 4, 1)

    found = {0: np.full((2, 2), 0.5), 1: np.full((4, 4), 0.3)}  # sums of cuts are 0.5 and 1.2
    assert chosen(monkeypatch, Split(), found, Mixed())[0] == 1


def test_choices_of_a_layer_need_no_gradients():
    assert Split(1, by="choices").choose(None, SPACE, None, None, None) == (
        1,
        [(0,), (1,), (2,), (3,)],
    )


def test_what_cannot_be_split_is_refused_before_any_training():
    with pytest.raises(ParameterError, match=r"'layer' parameter of Split is 3, .* 0 to 2"):
        started(split=Split(3))
    one = PathSpace(layers=2, choices=1)
    with pytest.raises(ParameterError, match="nothing to split: every layer"):
        started(supernet=tiny_paths(space=one), split=Split())

    class Mixed(PathSpace):
        genes = (2, 1, 4)

    with pytest.raises(ParameterError, match=r"one choice there\. .* split are 0, 2"):
        Split(1).candidates(Mixed())
    with pytest.raises(ValueError, match=r"belongs to one group; gene 1 has 4 choices"):
        split(groups=((0, 1), (1, 2, 3)))


@pytest.mark.parametrize("method", [Evolution, Shifting, RandomPaths])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("choices", "'split' parameter of .* must be Split or None"),
        (Split(-1), "'layer' parameter of Split must be int >= 0 or \"auto\""),
        (Split(by="loss"), "'by' parameter of Split"),
        (Split(epochs=0), "'epochs' parameter of Split must be int >= 1"),
    ],
)
def test_parameters_that_may_not_be(method, given, words):
    with pytest.raises(ParameterError, match=words):
        method(split=given).check()


def test_methods_with_and_without_a_split_differ():
    assert Evolution(split=Split()) == Evolution(split=Split())
    assert Evolution(split=Split()) != Evolution(split=Split(epochs=3))
    assert Evolution(split=Split()) != Evolution()
    assert Evolution() != Evolution(split=Split())


# The parts


def test_the_parts_are_the_supernet_at_the_split():
    supernet = tiny_paths(space=SPACE)
    supernet(torch.randn(4, 3, 8, 8, generator=seeded())).sum().backward()  # leaves gradients
    parts = split(supernet=supernet)
    images = torch.randn(8, 3, 8, 8, generator=seeded(1))
    for architecture in drawn(SPACE, 12):
        for module in (supernet, parts):
            module.eval()
        assert torch.equal(parts(images, architecture), supernet(images, architecture))
        assert torch.equal(
            parts.features(images, architecture), supernet.features(images, architecture)
        )
        one, other = (module.network(architecture) for module in (parts, supernet))
        assert torch.equal(one(images), other(images))
        assert parts.costs(architecture) == supernet.costs(architecture)
    assert Scorer(parts, *DATA, seed=1)(drawn(SPACE, 12)) == Scorer(supernet, *DATA, seed=1)(
        drawn(SPACE, 12)
    )
    assert all(p.grad is None for p in parts.parameters())
    storages = {p.data_ptr() for p in [*parts.parameters(), *supernet.parameters()]}
    assert len(storages) == 3 * len(list(supernet.parameters()))
    assert len(list(parts.weight_parameters())) == 2 * len(list(supernet.parameters()))


def test_an_architecture_is_scored_by_its_part_alone():
    """Together, one after another, and by the part itself."""
    parts = split()
    with torch.no_grad():
        for parameter in parts.parts[1].parameters():
            parameter.mul_(1.5)
    architectures = drawn(SPACE, 20)
    together = Scorer(parts, *DATA, seed=1)(architectures)
    for architecture, score in zip(architectures, together, strict=True):
        number = 0 if architecture.choices[1] in GROUPS[0] else 1
        assert parts.group(architecture) == number
        assert Scorer(parts, *DATA, seed=1)([architecture]) == [score]
        assert Scorer(parts.parts[number], *DATA, seed=1)([architecture]) == [score]


def test_parts_train_in_turn_on_architectures_of_their_own():
    """What is moved in a step is of one part, and what its group's architecture has."""
    parts = split(groups=((0,), (1, 3), (2,)))
    sampler = Grouped(SPACE, 1, parts.groups, seed=4)
    training = PathTraining(
        parts,
        AugmentedImages(DATA[0], 1),
        sampler,
        FromLabels(),
        PathTrainingSettings(epochs=4, batch_size=6, warmup=0),
    )
    before, seen = {n: p.detach().clone() for n, p in parts.named_parameters()}, [set(), set()]

    def compare(training):
        step = training.step - 1
        (architecture,) = sampler(step)
        assert architecture.choices[1] in parts.groups[step % 3]
        seen[0].add(architecture.choices[1])
        seen[1].add(architecture)
        for name, parameter in parts.named_parameters():
            _, number, part, place, choice, *_ = [*name.split("."), "", ""]
            moved = int(number) == step % 3 and (
                part != "layers" or architecture.choices[int(place)] == int(choice)
            )
            assert torch.equal(parameter, before[name]) is not moved, name
            before[name] = parameter.detach().clone()

    training.run(on_step=compare)
    assert seen[0] == {0, 1, 2, 3}
    assert len(seen[1]) > 12


def test_grouped_draws_follow_from_step_and_seed():
    sampler = Grouped(SPACE, 2, GROUPS, n=2, seed=1)
    steps = [sampler(step) for step in range(200)]
    assert steps == [sampler(step) for step in range(200)]
    assert steps != [Grouped(SPACE, 2, GROUPS, n=2)(step) for step in range(200)]
    for place in range(3):
        counts = np.bincount([a.choices[place] for step in steps for a in step])
        assert counts.min() > 60
    assert all(a.choices[2] in GROUPS[i % 2] for i, step in enumerate(steps) for a in step)


# A search


def test_a_search_splits_its_supernet():
    search = started()
    rows = search.run()
    assert [row.get("train_loss") is not None for row in rows] == [True] * 6 + [False] * 2
    assert [row.get("split") is not None for row in rows] == [False] * 2 + [True] + [False] * 5
    assert len(rows) == search.method.n_epochs == 8
    parts = search.searched
    one, other = (" ".join(map(str, group)) for group in parts.groups)
    assert rows[2]["split"] == f"layer {parts.gene}: choices {one} | {other}"
    assert search.scorer.supernet is parts
    for architecture, score in search.scores.items():
        part = parts.parts[parts.group(architecture)]
        scorer = Scorer(part, *DATA, seed=search.seed)
        assert scorer([architecture]) == [score]


def test_the_supernet_gets_the_weights_of_the_part_of_the_best():
    search = started(split=Split(1, by="choices", epochs=4))
    search.run()
    parent = copy.deepcopy(search.supernet.state_dict())
    best = search.derive()
    chosen = search.searched.parts[best.choices[1]].state_dict()
    assert search.searched_supernet() is search.supernet
    assert_close(search.supernet.state_dict(), chosen, rtol=0, atol=0)
    assert any(not torch.equal(parent[name], tensor) for name, tensor in chosen.items())
    assert search.derive() == best


def test_until_the_split_nothing_changes():
    whole, parts = started(split=None), started()
    for search in (whole, parts):
        for _ in range(2):
            search.run_epoch()
    assert_close(whole.supernet.state_dict(), parts.supernet.state_dict(), rtol=0, atol=0)
    assert whole.training.ended
    assert not parts.training.ended


def test_without_training_before_the_supernet_is_split_at_once():
    search = started(epochs=0, split=Split(0, epochs=1))
    before = copy.deepcopy(search.supernet.state_dict())
    row = search.run_epoch()
    assert row["split"].startswith("layer 0: ")
    assert_close(search.supernet.state_dict(), before, rtol=0, atol=0)
    assert search.training.ended


METHODS = {
    "evolution": Evolution(2, **SMALL, split=Split(epochs=4, n_batches=1)),
    "shifting": Shifting(2, **SMALL, split=Split(epochs=4, n_batches=1), n_images=16),
}


@pytest.fixture(scope="module")
def wholes():
    """Searches to the end, by name; not to be changed."""
    searches = {name: started(method) for name, method in METHODS.items()}
    for search in searches.values():
        search.run()
    return searches


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 6, 7])
@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_search_equals_an_uninterrupted_one(tmp_path, wholes, name, stop):
    part = started(METHODS[name])
    part.run(on_epoch=lambda search: search.epoch == stop)
    save_checkpoint(tmp_path / "c.safetensors", *part.state())
    resumed = started(METHODS[name], seed=3, supernet=tiny_paths(seed=7, space=SPACE))
    resumed.load_state(*load_checkpoint(tmp_path / "c.safetensors"))
    assert isinstance(resumed.searched, SplitSupernet) == (stop > 2)
    resumed.run()
    assert wholes[name].scores == resumed.scores
    assert_same_state(wholes[name], resumed)
    parts = wholes[name].searched.state_dict()
    assert_close(resumed.searched.state_dict(), parts, rtol=0, atol=0)
    best = resumed.derive()
    assert_close(
        resumed.supernet.state_dict(),
        resumed.searched.part(best).state_dict(),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_shifting_shifts_the_parts(frozen):
    method = Shifting(
        1, **SMALL, split=Split(1, epochs=2), frozen=frozen, shift_rate=0.1, n_images=16
    )
    search = after_training(started(method))
    before = copy.deepcopy(search.searched.state_dict())
    search.run_epoch()
    drawn_groups = {search.searched.group(a) for a in search.scores}
    moved = {
        name for name, p in search.searched.named_parameters() if not torch.equal(p, before[name])
    }
    assert {int(name.split(".")[1]) for name in moved} == drawn_groups
    assert {"classifier" in name for name in moved} == ({True} if frozen else {True, False})


def test_candidates_keep_limits():
    supernet = tiny_paths(space=SPACE)
    macs = sorted(supernet.costs(a).macs for a in drawn(SPACE, 60))
    search = started(limits=Limits(max_macs=macs[20]), supernet=supernet)
    search.run()
    assert {search.bounds.keep(a) for a in search.scores} == {True}
    assert supernet.costs(search.derive()).macs <= macs[20]


def test_the_time_of_the_training_is_shared_out():
    """Of a half, what comes before the split gets its epochs' share."""
    shares = []

    class Watch(Stopwatch):
        def expired(self, share=1.0):
            shares.append(share)
            return False

    started(epochs=2, split=Split(epochs=6, n_batches=1)).run(stopwatch=Watch())
    assert [share for share in shares if share < 1] == [0.125] * 2 + [0.5] * 6

    class Late(Stopwatch):
        def expired(self, share=1.0):
            return share < 1

    search = started(epochs=3, split=Split(epochs=6, n_batches=1))
    rows = search.run(stopwatch=Late())
    assert ["train_loss" in row for row in rows] == [True] * 2 + [False] * 2
    assert ["split" in row for row in rows] == [False, True, False, False]


def test_without_time_nothing_is_split():
    search = started()
    search.run(stopwatch=Stopwatch(-1.0))
    assert search.epoch == 1
    best = search.derive()
    assert best in search.scores
    assert search.searched is search.supernet


def test_the_same_seed_finds_the_same_and_global_random_states_stay():
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second, other = (started(seed=seed) for seed in (0, 0, 1))
    for search in (first, second, other):
        search.run()
    assert first.scores == second.scores
    assert first.derive() == second.derive()
    assert first.scores != other.scores
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()  # noqa: NPY002


def test_random_paths_split_their_supernet():
    search = started(RandomPaths(5, epochs=1, split=Split(epochs=2, n_batches=1)))
    assert len(search.run()) == 4
    assert isinstance(search.searched, SplitSupernet)
    assert len(search.scores) == 5
