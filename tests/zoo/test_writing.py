"""Zoos are created, and sources added, replaced and removed."""

import shutil

import numpy as np
import pytest
import torch
from random_zoo import CONFIG, EMBEDDER, add, make_basis, make_signature, make_state, snapshot

from supernetnas.zoo import Zoo, ZooError

# Creating


def test_create_refuses_what_is_there(zoo, tmp_path):
    with pytest.raises(ZooError, match="There is a zoo"):
        Zoo.create(zoo.folder, embedder_id=EMBEDDER)
    assert Zoo.create(zoo.folder, embedder_id=EMBEDDER, exist_ok=True) == zoo
    with pytest.raises(ZooError, match="another embedder"):
        Zoo.create(zoo.folder, embedder_id="other", exist_ok=True)
    with pytest.raises(ZooError, match="another basis"):
        Zoo.create(zoo.folder, embedder_id=EMBEDDER, basis=make_basis(), exist_ok=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(ZooError, match=r"neither empty nor a zoo.*thesis\.tex"):
        Zoo.create(tmp_path / "full", embedder_id=EMBEDDER, exist_ok=True)
    with pytest.raises(ZooError, match="is a file"):
        Zoo.create(tmp_path / "full" / "thesis.tex", embedder_id=EMBEDDER)
    with pytest.raises(ValueError, match="embedder_id"):
        Zoo.create(tmp_path / "new", embedder_id="")


def test_a_new_zoo_is_empty_and_valid(tmp_path):
    zoo = Zoo.create(tmp_path / "a" / "b", embedder_id=EMBEDDER)
    assert (len(zoo), zoo.names, zoo.singles(), zoo.multi(), zoo.basis()) == (0, [], [], None, None)
    assert zoo.verify() == []
    with pytest.raises(ZooError, match="It has: none"):
        zoo["x"]


def test_compact_signatures_share_a_basis(tmp_path):
    basis = make_basis()
    zoo = Zoo.create(tmp_path / "zoo", embedder_id=EMBEDDER, basis=basis)
    Zoo.create(tmp_path / "zoo", embedder_id=EMBEDDER, basis=basis, exist_ok=True)
    compact = make_signature().compress(basis)
    add(zoo, "birds", signature=compact)
    add(zoo, "ants")
    assert zoo.basis().id == basis.id
    assert zoo["birds"].signature().form == "compact"
    assert zoo["birds"].signature().basis is zoo.basis()
    assert zoo["ants"].signature().form == "full"
    with pytest.raises(ValueError, match="read-only"):
        zoo.basis().components[0] = 0
    with pytest.raises(ValueError, match="not the zoo's"):
        add(zoo, "bees", signature=make_signature().compress(make_basis(1)))
    assert zoo.verify() == []


def test_a_zoo_of_the_default_embedder(tmp_path):
    assert Zoo.create(tmp_path / "zoo").embedder_id == Zoo.open("builtin").embedder_id


# Adding and removing


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", ".x", "-x", "a/b", "a\\b", "a b", "ä", "a~", "a\n", "x" * 97, None, 3),
        *("index.json", "readme.MD", "basis.safetensors"),
        *("CON", "nul.txt", "Aux.tar.gz", "com1", "lpt9.x", "a.", "a.."),
    ],
)
def test_names_that_are_no_names(zoo, name):
    with pytest.raises(ValueError, match="cannot name a source"):
        add(zoo, name)


def test_names_that_are(zoo):
    for name in ("x" * 96, "0", "S1.v2_final-", "console", "com0", "x.nul"):
        assert add(zoo, name).name == name
    assert zoo.verify() == []


def test_a_single_source_is_not_called_multi(tmp_path):
    zoo = Zoo.create(tmp_path / "zoo", embedder_id=EMBEDDER)
    contents = {"config": CONFIG, "state_dict": make_state()}
    with pytest.raises(ValueError, match="another name"):
        zoo.add("multi", signature=make_signature(), **contents)
    zoo.add("multi", kind="multi", **contents)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "pair"}, "'single' or 'multi'"),
        ({"kind": "multi"}, "'multi' has no signature"),
        ({"signature": None}, "'single' has a signature"),
        ({"dtype": "bfloat16"}, "'float32' or 'float16'"),
        ({"state_dict": {}}, "lacks"),
        ({"state_dict": make_state() | {"extra": torch.ones(1)}}, "no use for extra"),
        ({"state_dict": make_state() | {"alphas_normal": torch.ones(2)}}, "alphas_normal"),
        ({"state_dict": make_state() | {"alphas_normal": torch.ones(14, 2) / 0}}, "not finite"),
        (
            {
                "state_dict": make_state() | {"stem.1.weight": torch.full((6,), 1e6)},
                "dtype": "float16",
            },
            "float16 too narrow",
        ),
        ({"provenance": {"license": "MIT"}}, r"provenance\['licence'\]"),
        ({"provenance": {"n_images": "many"}}, "not a number of images"),
    ],
)
def test_arguments_that_do_not_fit(zoo, changes, message):
    before = snapshot(zoo.folder)
    with pytest.raises(ValueError, match=message):
        add(zoo, "bees", **changes)
    assert snapshot(zoo.folder) == before


def test_values_that_json_lacks(zoo):
    add(zoo, "bees", metrics={"accuracy": np.float32(0.5), "loss": float("nan")})
    assert Zoo.open(zoo.folder)["bees"].metrics == {"accuracy": 0.5, "loss": None}
    with pytest.raises(TypeError, match="Only plain values"):
        add(zoo, "wasps", metrics={"confusion": np.eye(2)})


def test_signatures_of_another_embedder_are_refused(zoo):
    with pytest.raises(ValueError, match="cannot be compared"):
        add(zoo, "bees", signature=make_signature(embedder_id="other"))


def test_a_name_is_not_taken_twice(zoo):
    with pytest.raises(ZooError, match="already; overwrite=True"):
        add(zoo, "birds")
    with pytest.raises(ZooError, match="one folder on some systems"):
        add(zoo, "Birds")
    with pytest.raises(ZooError, match=r"at most one .* 'multi' of a family; 'all-of-them'"):
        add(zoo, "others", kind="multi", signature=None)


def test_overwriting_leaves_one_source(zoo):
    for seed in (7, 8, 9):
        source = add(zoo, "birds", seed, overwrite=True)
        expected = make_state(seed)["stem.0.weight"]
        assert torch.equal(source.state_dict()["stem.0.weight"], expected)
        assert Zoo.open(zoo.folder, verify="full").names == zoo.names
    assert sum(path.name.startswith("birds") for path in zoo.folder.iterdir()) == 1
    add(zoo, "all-of-them", kind="multi", signature=None, overwrite=True)
    assert zoo.verify() == []


def test_remove(zoo):
    zoo.remove("birds")
    assert zoo.names == Zoo.open(zoo.folder, verify="full").names == ["all-of-them", "ants"]
    assert not (zoo.folder / "birds").exists()
    assert "birds" not in (zoo.folder / "README.md").read_text()
    with pytest.raises(ZooError, match="no source 'birds'"):
        zoo.remove("birds")
    add(zoo, "birds")
    assert zoo.verify() == []


def test_a_subset_is_not_written_to(zoo):
    with pytest.raises(ZooError, match="subset"):
        zoo.subset(["birds"]).remove("birds")
    with pytest.raises(ZooError, match="subset"):
        add(zoo.subset(["birds"]), "bees")


def test_a_zoo_that_was_replaced_is_not_written_to(zoo):
    shutil.rmtree(zoo.folder)
    Zoo.create(zoo.folder, embedder_id="another")
    with pytest.raises(ZooError, match="replaced by another"):
        add(zoo, "bees")
