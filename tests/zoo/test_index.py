"""The index tells families and datasets apart, in a format that older readers need only then."""

import json
import shutil

import pytest
from tiny import state
from twins import TwinConfig, register

from supernetnas import Zoo, ZooError
from supernetnas.zoo.entries import SHARED


@pytest.fixture
def zoo(tiny_zoo, tmp_path):
    """Return a copy of the zoo, to be written to."""
    return tiny_zoo.save(tmp_path / "zoo")


@pytest.fixture
def grown(zoo, monkeypatch):
    """A zoo with two families, both of which know the dataset "bars"."""
    register(monkeypatch)
    add_twin(zoo, "twin-bars", dataset="bars")
    add_twin(zoo, "twin-all", kind="multi")
    return zoo


def add_twin(zoo, name, **arguments):
    config = TwinConfig(**zoo["both"].config.to_dict())
    return zoo.add(name, config=config, state_dict=state(3), **arguments)


def read_index(zoo):
    return json.loads((zoo.folder / "index.json").read_text())


def write_index(zoo, index):
    (zoo.folder / "index.json").write_text(json.dumps(index))


def signatures(zoo):
    return sorted(
        str(path.relative_to(zoo.folder))
        for path in zoo.folder.rglob("*.safetensors")
        if path.name != "supernet.safetensors"
    )


def test_what_has_no_need_of_a_version_is_written_as_an_earlier_one(zoo):
    index = read_index(zoo)
    assert index["format_version"] == 1
    assert not {"family", "dataset", "shared"} & {*index["sources"]["bars"]}
    assert (zoo["bars"].family, zoo["bars"].dataset) == ("cells", "bars")
    assert (zoo["both"].family, zoo["both"].dataset) == ("cells", None)
    zoo.index_vectors()
    assert read_index(zoo)["format_version"] == 2


def test_two_families_in_one_zoo(grown):
    assert grown.verify() == Zoo.open(grown.folder).verify() == []
    index = read_index(grown)
    assert index["format_version"] == 3
    assert {entry["family"] for entry in index["sources"].values()} == {"cells", "twins"}
    twin = grown["twin-bars"]
    assert (twin.family, twin.dataset) == ("twins", "bars")
    assert type(twin.config) is TwinConfig
    assert json.loads(twin.path("config.json").read_text())["family"] == "twins"
    assert "family" not in json.loads(grown["bars"].path("config.json").read_text())
    assert grown.multi("cells").name == "both" and grown.multi("twins").name == "twin-all"
    assert grown.multi().name == "both" and grown.multi("others") is None


def test_a_family_has_one_source_on_many_datasets(grown):
    with pytest.raises(ZooError, match="'twin-all' and 'twin-more' are both of 'twins'"):
        add_twin(grown, "twin-more", kind="multi")
    index = read_index(grown)
    index["sources"]["twin-all"]["family"] = "cells"
    write_index(grown, index)
    with pytest.raises(ZooError, match="at most one source of kind 'multi' of a family"):
        Zoo.open(grown.folder)


def test_a_family_of_a_newer_version_is_listed_and_not_loaded(grown):
    index = read_index(grown)
    index["sources"]["twin-bars"]["family"] = "unheard_of"
    write_index(grown, index)
    newer = Zoo.open(grown.folder)
    assert newer["twin-bars"].about() == {} and "unheard_of" in repr(newer["twin-bars"])
    with pytest.raises(ZooError, match="does not know: Unknown family 'unheard_of'"):
        newer["twin-bars"].state_dict()
    assert newer["bars"].verify() == []
    newer.remove("spots")  # the card is written all the same
    assert "| twin-bars | single |" in (newer.folder / "README.md").read_text()


class TestSharedSignatures:
    def test_they_are_kept_once_and_read_by_all(self, grown):
        (shared,) = (grown.folder / SHARED).iterdir()
        assert shared.stem == grown["bars"].entry.files["signature.safetensors"].sha256
        assert signatures(grown) == [f"{SHARED}/{shared.name}", "spots/signature.safetensors"]
        assert grown["bars"].signature_file() == grown["twin-bars"].signature_file()
        assert list(grown["twin-bars"].signature().class_names) == grown["bars"].classes
        shared.write_bytes(shared.read_bytes()[:-1] + b"\0")
        assert len([p for p in Zoo.open(grown.folder).verify() if "changed" in p]) == 2

    def test_the_last_one_keeps_it_and_takes_it_along(self, grown):
        grown.remove("bars")
        assert grown.verify() == [] and len(signatures(grown)) == 2
        assert grown["twin-bars"].signature()
        grown.remove("twin-bars")
        assert signatures(grown) == ["spots/signature.safetensors"]
        assert not (grown.folder / SHARED).exists() and grown.verify() == []

    def test_another_signature_of_the_dataset_is_refused(self, grown):
        spots = grown["spots"].signature()
        with pytest.raises(ZooError, match=r"one dataset, 'bars', and have different signatures"):
            add_twin(grown, "wrong", dataset="bars", signature=spots)
        with pytest.raises(ZooError, match="have different signatures"):
            add_twin(grown, "twin-bars", dataset="bars", signature=spots, overwrite=True)
        with pytest.raises(ValueError, match="cannot name a dataset"):
            add_twin(grown, "wrong", dataset="a/b", signature=spots)
        with pytest.raises(ValueError, match="no dataset of its own"):
            add_twin(grown, "wrong", dataset="bars", kind="multi")
        assert grown.verify() == [] and "wrong" not in grown
        add_twin(grown, "twin-bars", dataset="spots", overwrite=True)
        assert grown.verify() == [] and grown["twin-bars"].dataset == "spots"

    def test_what_an_interruption_leaves_is_cleared(self, grown):
        own = grown.folder / "bars" / "signature.safetensors"
        (shared,) = (grown.folder / SHARED).iterdir()
        shutil.copy(shared, own)
        shutil.copy(shared, shared.with_name(f"{'0' * 64}.safetensors"))
        problems = grown.verify()
        assert len(problems) == 2 and all("next one clears it" in text for text in problems)
        grown.remove("spots")
        assert grown.verify() == [] and not own.exists()

    def test_they_go_along_into_copies(self, grown, tmp_path):
        copy = grown.save(tmp_path / "copy")
        assert copy.verify() == [] and signatures(copy) == signatures(grown)
        alone = grown.save(tmp_path / "alone", ["twin-bars"])
        assert alone.verify() == [] and alone["twin-bars"].dataset == "bars"
        assert signatures(alone) == ["twin-bars/signature.safetensors"]
        assert alone.merge(grown) == ["bars", "both", "spots", "twin-all"]
        assert alone.verify() == [] and signatures(alone) == signatures(grown)
        assert alone.merge(grown) == []

    def test_vectors_are_those_of_the_dataset(self, grown):
        grown.index_vectors()
        assert (grown["bars"].vector() == grown["twin-bars"].vector()).all()
        found = grown.nearest(grown["bars"].signature(), 2)
        assert set(found) == {"bars", "twin-bars"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "../x"}, "cannot be a family"),
        ({"family": 3}, "cannot be a family"),
        ({"dataset": "../x"}, "cannot name a dataset"),
        ({"dataset": 3}, "cannot name a dataset"),
        ({"dataset": "bars"}, "different signatures"),
        ({"shared": 1}, "cannot share"),
    ],
)
def test_a_damaged_entry_is_refused(zoo, change, message):
    index = read_index(zoo)
    index["sources"]["spots"].update(change)
    write_index(zoo, index)
    with pytest.raises(ZooError, match=f"is damaged: .*{message}"):
        Zoo.open(zoo.folder)


def test_a_source_on_many_datasets_shares_nothing(zoo):
    index = read_index(zoo)
    index["sources"]["both"]["shared"] = True
    write_index(zoo, index)
    with pytest.raises(ZooError, match="cannot share a signature"):
        Zoo.open(zoo.folder)
