"""A zoo grows by other zoos, and loses nothing on the way."""

import multiprocessing
import os

import numpy as np
import pytest
from tiny import EMBEDDER

from supernetnas import Zoo, ZooError
from supernetnas.distance.signature import Basis
from supernetnas.zoo.vectors import adopt_vectors


@pytest.fixture
def zoo(tiny_zoo, tmp_path):
    """Return a copy of the zoo, to be written to."""
    return tiny_zoo.save(tmp_path / "zoo")


def make_basis(seed=0):
    components = np.random.default_rng(seed).standard_normal((5, EMBEDDER.dimension))
    return Basis(components.astype(np.float16))


def snapshot(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


# From another zoo


def test_merge_copies_to_the_byte(zoo, fitted, tmp_path):
    zoo.add_classifier(fitted, "mine")
    other = Zoo.create(tmp_path / "other", embedder_id=EMBEDDER.identity)
    assert other.merge(zoo, ["mine", "both"]) == ["mine", "both"]
    assert other.merge(str(zoo.folder)) == ["bars", "spots"]
    assert other.merge(zoo) == []
    assert other.verify() == []
    for name in zoo:
        for file in (zoo.folder / name).iterdir():
            assert (other.folder / name / file.name).read_bytes() == file.read_bytes()
    assert snapshot(other.folder).keys() == snapshot(zoo.folder).keys()


def test_merge_replaces_only_if_told(zoo, fitted, tmp_path):
    other = zoo.save(tmp_path / "other", ["bars"])
    zoo.add_classifier(fitted, "bars", overwrite=True)
    before = snapshot(other.folder)
    with pytest.raises(ZooError, match="has a source 'bars' already; overwrite=True"):
        other.merge(zoo)
    assert snapshot(other.folder) == before
    assert other.merge(zoo, overwrite=True) == ["bars", "both", "spots"]
    assert other.verify() == []
    assert other["bars"].provenance["started_from"] == "bars"
    assert other.merge(zoo) == []


def test_merge_is_all_or_nothing(zoo, tmp_path):
    other = Zoo.create(tmp_path / "other", embedder_id=EMBEDDER.identity)
    before = snapshot(other.folder)
    path = zoo.folder / "spots" / "supernet.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ZooError, match="'spots' is not as the zoo's index says"):
        other.merge(zoo)
    assert snapshot(other.folder) == before and other.verify() == []


def test_what_does_not_fit_is_not_merged(zoo, tmp_path):
    other = Zoo.create(tmp_path / "a", embedder_id="another")
    with pytest.raises(ZooError, match="another embedder"):
        other.merge(zoo)
    one = Zoo.create(tmp_path / "b", embedder_id=EMBEDDER.identity, basis=make_basis(1))
    two = Zoo.create(tmp_path / "c", embedder_id=EMBEDDER.identity, basis=make_basis(2))
    assert one.merge(zoo) == ["bars", "both", "spots"]  # full signatures are made compact
    assert one["bars"].signature().form == "compact" and one.verify() == []
    assert one.merge(zoo) == []
    with pytest.raises(ZooError, match="compact in a basis"):
        two.merge(one)
    assert one.save(tmp_path / "d").verify() == []
    different = Zoo.create(tmp_path / "e", embedder_id=EMBEDDER.identity)
    both = zoo["both"]
    different.add("all", kind="multi", config=both.config, state_dict=both.state_dict())
    with pytest.raises(ZooError, match="at most one source of kind 'multi'"):
        different.merge(zoo)
    assert different.names == ["all"]


def test_a_save_that_broke_off_is_gone_on_with(zoo, tmp_path):
    copy = zoo.save(tmp_path / "copy", ["spots"])
    before = os.stat(copy.folder / "spots" / "supernet.safetensors")
    copy = zoo.save(tmp_path / "copy")
    assert copy.names == zoo.names and copy.verify() == []
    assert os.stat(copy.folder / "spots" / "supernet.safetensors").st_ino == before.st_ino


def test_the_builtin_zoo_can_be_saved_and_grown(tmp_path):
    copy = Zoo.open("builtin").save(tmp_path / "copy", ["mnist5k"])
    assert copy.names == ["mnist5k"] and copy.basis() is not None and copy.verify() == []
    copy.remove("mnist5k")
    assert copy.names == []


# Several at once


def work(folder, other, number, barrier):
    zoo = Zoo.open(folder)
    source = zoo["bars"]
    barrier.wait()
    for step in range(3):
        zoo.add(
            f"p{number}-{step}",
            config=source.config,
            state_dict=source.state_dict(),
            signature=source.signature(),
        )
    zoo.remove(f"p{number}-0")
    zoo.merge(other, overwrite=True)


@pytest.mark.slow
def test_processes_add_remove_and_merge_at_once(zoo, tmp_path):
    other = zoo.save(tmp_path / "other", ["bars", "both"])
    zoo.remove("both")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    workers = [
        context.Process(target=work, args=(zoo.folder, other.folder, number, barrier))
        for number in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    after = Zoo.open(zoo.folder, verify="full")
    kept = {f"p{number}-{step}" for number in range(3) for step in (1, 2)}
    assert set(after) == {"bars", "both", "spots"} | kept


def test_a_clone_of_a_repository_is_a_zoo_until_it_is_changed(zoo, tmp_path):
    from supernetnas.storage.files import write_atomic
    from supernetnas.zoo.bundles import make_bundles
    from supernetnas.zoo.index import Index

    index = zoo.store.index
    bundles, contents = make_bundles(index, index, lambda name: zoo[name].signature_file())
    (zoo.folder / "_signatures").mkdir()
    for path, data in contents.items():
        write_atomic(zoo.folder / path, data)
    Index(index.embedder_id, index.sources, index.basis, bundles).write(zoo.folder)
    clone = Zoo.open(zoo.folder, verify="full")
    assert set(clone.store.index.bundles["_signatures/0000.bin"].sources) == {"bars", "spots"}
    data = bytearray((zoo.folder / "_signatures" / "0000.bin").read_bytes())
    data[50] ^= 1
    write_atomic(zoo.folder / "_signatures" / "0000.bin", bytes(data))
    assert any("holds another signature of 'bars'" in problem for problem in clone.verify())
    with pytest.raises(ZooError, match="holds another signature of 'bars'"):
        clone["bars"].signature()
    clone.remove("both")
    assert not (zoo.folder / "_signatures").exists()
    assert clone.verify() == [] and clone["bars"].signature()


def test_a_merge_knows_what_another_process_has_done_to_the_vectors(zoo, tmp_path):
    folder = Zoo.create(tmp_path / "mine", embedder_id=zoo.embedder_id, basis=zoo.basis()).folder
    Zoo.open(folder).merge(zoo, ["bars"])
    stale = Zoo.open(folder)
    Zoo.open(folder).index_vectors()
    stale.merge(zoo, ["spots"])
    space, fresh = Zoo.open(folder).vector_space(), Zoo.open(folder)
    for source in fresh.singles():
        np.testing.assert_array_equal(source.vector(), space.vector(source.signature()))
    before = fresh.store.index.vectors
    other = zoo.save(tmp_path / "other")
    other.index_vectors(random_state=1)
    adopt_vectors(stale.store, other.store)
    assert Zoo.open(folder).store.index.vectors == before


def test_names_are_a_list(zoo, tmp_path):
    with pytest.raises(TypeError, match=r"Pass \['bars'\]"):
        zoo.save(tmp_path / "new", "bars")
    with pytest.raises(ZooError, match="'bar'"):
        zoo.save(tmp_path / "new", ["bar"])
    assert not (tmp_path / "new").exists()


def test_vectors_go_along_into_a_copy_and_not_into_another_space(zoo, tmp_path):
    zoo.index_vectors()
    copy = zoo.save(tmp_path / "copy")
    assert copy.verify() == []
    for source in zoo.singles():
        assert (copy[source.name].vector() == source.vector()).all()
    other = Zoo.create(tmp_path / "other", embedder_id=zoo.embedder_id, basis=zoo.basis())
    other.merge(zoo)
    assert other.verify() == []
    assert all(source.vector() is None for source in other.values())
