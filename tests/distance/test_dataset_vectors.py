"""Vectors of datasets: what they estimate, and how a zoo keeps and searches them."""

import json
import shutil
import time

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from tiny import CONFIG, EMBEDDER, state

from supernetnas import DatasetSignature, Zoo, ZooError, cli
from supernetnas.distance.dataset_vectors import VectorSpace, fit_vector_space
from supernetnas.selection.ranking import rank_sources
from supernetnas.selection.select import select_sources


def dataset(seed, n_classes=3, per_class=10, d=24, noise=0.5, embedder_id="e"):
    """Classes around random means; datasets of the same seed // 4 share a direction."""
    rng = np.random.default_rng(seed)
    shared = 3 * np.random.default_rng(seed // 4).normal(size=d)
    labels = np.repeat(np.arange(n_classes), per_class)
    x = shared + rng.normal(size=(n_classes, d))[labels]
    x = x + noise * rng.normal(size=x.shape)
    return DatasetSignature.from_features(x, labels, embedder_id=embedder_id, random_state=seed)


@pytest.fixture(scope="module")
def sources():
    return [dataset(seed, noise=0.3 + 0.1 * (seed % 5)) for seed in range(12)]


@pytest.fixture(scope="module")
def space(sources):
    return fit_vector_space(sources)


def estimate(space, target, source):
    query, energy = space.query(target)
    return np.square(query - space.vector(source)).sum() / 2 + energy


def test_vectors_estimate_the_distance(space, sources):
    targets = [dataset(seed) for seed in (100, 101, 3, 17)]
    for target in targets:
        exact = np.array([r.distance for r in target.distances(sources)])
        found = np.array([estimate(space, target, source) for source in sources])
        assert np.corrcoef(exact, found)[0, 1] > 0.95
        assert np.argmin(exact) in np.argsort(found)[:3]


def test_estimates_are_symmetric(space, sources):
    a, b = sources[0], dataset(200)
    assert estimate(space, a, b) == pytest.approx(estimate(space, b, a), rel=1e-4)


def test_energy_is_what_the_embedding_leaves_out(space, sources):
    """With classes that are points, few enough to be matched one to one, nothing is left out."""
    points = np.random.default_rng(0).normal(size=(4, 6)) + 2
    x, y = np.repeat(points, 8, axis=0), np.repeat(np.arange(4), 8)
    signature = DatasetSignature.from_features(x, y, embedder_id="e")
    own = fit_vector_space([signature], n_points=4, n_components=6)
    vector = own.vector(signature)
    assert vector[-1] == pytest.approx(0, abs=1e-2)
    noisy = x + 0.3 * np.random.default_rng(1).normal(size=x.shape)
    noisy = DatasetSignature.from_features(noisy, y, embedder_id="e")
    assert own.vector(noisy)[-1] > 0.1
    # Half the squared energy coordinate and the projection make up the energy of the data: rows,
    # class means and traces, about the center.
    m = noisy._measure
    energy = m.weights @ np.square(m.rows - own.center).sum(axis=1)
    energy += np.mean(np.square(m.means - own.center).sum(axis=1) + m.traces)
    embedding, left = own._embed(m)
    assert np.square(embedding).sum() + left == pytest.approx(energy, rel=1e-9)


def test_vectors_are_reproducible(space, sources):
    again = fit_vector_space(sources)
    np.testing.assert_array_equal(again.vector(sources[3]), space.vector(sources[3]))
    stored = VectorSpace.from_tensors(space.to_tensors())
    np.testing.assert_array_equal(stored.vector(sources[3]), space.vector(sources[3]))
    assert space.vector(sources[3]).dtype == np.float32
    assert len(space.vector(sources[3])) == space.dimension <= 65


def test_bad_spaces(space, sources):
    with pytest.raises(ValueError, match="24"):
        space.vector(dataset(0, d=10))
    with pytest.raises(ValueError, match="at least one"):
        fit_vector_space([])
    with pytest.raises(ValueError, match="embedder_id"):
        fit_vector_space([sources[0], dataset(1, embedder_id="f")])
    tensors = space.to_tensors()
    for change in (
        {"center": tensors["center"][:-1]},
        {"center": tensors["center"].astype(float)},
        {"mean": tensors["mean"] * np.nan},
        {"directions": tensors["directions"][:, 1:]},
        {"reference": tensors["reference"][0]},
        {"more": tensors["mean"]},
    ):
        with pytest.raises(ValueError):
            VectorSpace.from_tensors(tensors | change)


def test_100_000_sources():
    """A query takes milliseconds; the bound leaves room for a machine that does other things."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(100_000, 65)).astype(np.float32)
    neighbours = NearestNeighbors(algorithm="brute").fit(vectors)
    query = vectors[41_234:41_235] + np.float32(0.01)
    times = []
    for _ in range(5):
        start = time.process_time()
        _, positions = neighbours.kneighbors(query, 20)
        times.append(time.process_time() - start)
    assert positions[0, 0] == 41_234
    assert min(times) < 0.5


# --------------------------------------------------------------------------------------- in a zoo


def zoo_dataset(seed):
    return dataset(seed, embedder_id=EMBEDDER.identity)


def add(zoo, name, seed, **arguments):
    return zoo.add(
        name, config=CONFIG, state_dict=state(0), signature=zoo_dataset(seed), **arguments
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A zoo of nine single sources and a multi source, with vectors."""
    zoo = Zoo.create(tmp_path_factory.mktemp("zoos") / "many", embedder_id=EMBEDDER.identity)
    for seed in range(9):
        add(zoo, f"s{seed}", seed)
    zoo.add("all", config=CONFIG, state_dict=state(1), kind="multi")
    zoo.index_vectors()
    return zoo


@pytest.fixture
def copied(many, tmp_path):
    shutil.copytree(many.folder, tmp_path / "zoo")
    return Zoo.open(tmp_path / "zoo")


def test_nearest_reads_no_signature(many, monkeypatch):
    target = zoo_dataset(5)
    monkeypatch.setattr("supernetnas.zoo.source.Source.signature", None)
    found = Zoo.open(many.folder).nearest(target, 4)
    assert len(found) == 4
    assert next(iter(found)) == "s5"
    assert list(found.values()) == sorted(found.values())
    space = many.vector_space()
    expected = np.square(space.query(target)[0] - many["s5"].vector()).sum() / 2
    assert found["s5"] == pytest.approx(expected + space.query(target)[1], rel=1e-3)


def test_vectors_are_stored(many):
    reopened = Zoo.open(many.folder, verify="full")
    assert json.loads((many.folder / "index.json").read_text())["format_version"] == 2
    assert reopened["all"].vector() is None
    expected = many.vector_space().vector(zoo_dataset(3))
    np.testing.assert_array_equal(reopened["s3"].vector(), expected)


def test_later_sources_get_vectors(copied):
    add(copied, "late", 30)
    expected = copied.vector_space().vector(zoo_dataset(30))
    np.testing.assert_array_equal(copied["late"].vector(), expected)
    assert next(iter(copied.nearest(zoo_dataset(30), 2))) == "late"
    copied.remove("late")
    assert "late" not in copied.nearest(zoo_dataset(30), 50)
    before = copied["s0"].vector()
    add(copied, "s0", 31, overwrite=True)
    assert not np.array_equal(copied["s0"].vector(), before)
    copied.index_vectors(random_state=1)
    assert Zoo.open(copied.folder, verify="full").vector_space() is not None


def test_a_zoo_without_vectors(tmp_path):
    zoo = Zoo.create(tmp_path / "zoo", embedder_id=EMBEDDER.identity)
    with pytest.raises(ZooError, match="no single source"):
        zoo.index_vectors()
    with pytest.raises(ZooError, match="no single source"):
        zoo.nearest(zoo_dataset(0), 3)
    for seed in range(3):
        add(zoo, f"s{seed}", seed)
    text = (zoo.folder / "index.json").read_text()
    assert json.loads(text)["format_version"] == 1
    assert "vector" not in text
    assert zoo.vector_space() is None and zoo["s1"].vector() is None
    assert next(iter(zoo.nearest(zoo_dataset(1), 2))) == "s1"


def test_another_embedder(many):
    with pytest.raises(ValueError, match="cannot be compared"):
        many.nearest(dataset(0), 3)


def test_damaged_vectors(copied, tmp_path):
    path = copied.folder / "index.json"
    text = path.read_text()
    data = json.loads(text)
    for vector in ("AAAA", "AAAAAA==", "", 3, "AADAfw=="):
        data["sources"]["s0"]["vector"] = vector
        path.write_text(json.dumps(data))
        if vector == "AAAAAA==":  # a vector, but of another length
            zoo = Zoo.open(copied.folder)
            assert any("'s0' is not of the zoo's space" in problem for problem in zoo.verify())
            with pytest.raises(ZooError, match="one has 1"):
                zoo.nearest(zoo_dataset(0), 1)
        else:
            with pytest.raises(ZooError, match="vector"):
                Zoo.open(copied.folder)
    path.write_text(text)
    (copied.folder / "vectors.safetensors").write_bytes(b"0")
    with pytest.raises(ZooError, match="index_vectors"):
        Zoo.open(copied.folder).nearest(zoo_dataset(0), 1)


def test_many_sources_are_shortlisted(many):
    target = zoo_dataset(6)
    every = rank_sources(target, many)
    few = rank_sources(target, many, shortlist=4)
    assert len(every) == 9 and len(few) == 4
    assert next(iter(few)) == next(iter(every)) == "s6"
    assert all(few[name] == every[name] for name in few)
    # Without the zoo's vectors of all these sources, what is asked for is what is proposed from.
    some = many.subset(["s0", "s1", "s2"])
    assert set(rank_sources(target, some, shortlist=2)) < {"s0", "s1", "s2"}


def test_the_strategy_of_a_large_zoo(many, monkeypatch):
    monkeypatch.setattr("supernetnas.selection.select.FEW_SOURCES", 5)
    monkeypatch.setattr("supernetnas.selection.select.SHORTLIST", 3)
    target = zoo_dataset(6)
    selection = select_sources(
        "ot", many, signature=lambda: target, random_state=np.random.RandomState(0)
    )
    assert [source.name for source in selection.candidates] == ["s6"]
    assert selection.distances == rank_sources(target, many, shortlist=3)
    assert len(selection.distances) == 3


def test_the_command_in_a_large_zoo(many, monkeypatch, capsys):
    monkeypatch.setattr("supernetnas.cli.distances.FEW_SOURCES", 5)
    monkeypatch.setattr("supernetnas.cli.distances.SHORTLIST", 3)
    assert cli.main(["distance", "s5", "--zoo", str(many.folder)]) == 0
    output = capsys.readouterr().out
    assert output.startswith("The 3 of 8 sources")
    rows = [line.split()[0] for line in output.splitlines()[-3:]]
    subset = many.subset([name for name in many.names if name not in ("s5", "all")])
    assert set(rows) == set(subset.nearest(many["s5"].signature(), 3))
