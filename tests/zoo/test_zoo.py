"""A zoo is read with suspicion, written whole, and small to send."""

import contextlib
import copy
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone

from supernetnas.distance.signature import Basis, DatasetSignature
from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.storage import folders
from supernetnas.storage.files import dump_safetensors
from supernetnas.zoo import Source, Zoo, ZooError, places, weights, writing
from supernetnas.zoo.entries import FileRecord
from supernetnas.zoo.index import Index

CONFIG = SupernetConfig(
    space="s1", init_channels=2, n_cells=3, image_size=(8, 8), input_channels=3, n_classes=4
)
EMBEDDER = "random-projection:0123456789ab:8x8"
PROVENANCE = {
    "dataset": "Four things | <b>",
    "upstream": "Kaggle\nthings",
    "licence": "CC0 1.0",
    "source": "github a/b @ 0123abc",
    "n_images": 40,
}
METRICS = {"accuracy": 0.875, "epochs": 3, "note": "short"}
HISTORY = [{"stage": "search", "epoch": 0, "loss": 1.5}, {"stage": "search", "epoch": 1}]
FILES = ["config.json", "history.csv", "signature.safetensors", "supernet.safetensors"]


def make_state(seed=0, config=CONFIG):
    """State of a supernet with batch-norm statistics other than 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        supernet = CellSupernet(config)
        supernet(torch.randn(4, config.input_channels, *config.image_size))
    return supernet.state_dict()


def make_signature(seed=0, embedder_id=EMBEDDER):
    random = np.random.default_rng(seed)
    labels = np.repeat(["a", "b", "c", "d"], 10)
    features = random.standard_normal((40, 6)).astype(np.float32) + 1
    return DatasetSignature.from_features(features, labels, embedder_id=embedder_id)


def make_basis(seed=0):
    return Basis(np.random.default_rng(seed).standard_normal((3, 6)).astype(np.float16))


def add(zoo, name, seed=0, **changes):
    arguments = {
        "config": CONFIG,
        "state_dict": make_state(seed),
        "signature": make_signature(seed),
        "provenance": PROVENANCE,
        "metrics": METRICS,
        "history": HISTORY,
        "classes": ["alder", "birch", "cedar", "dogwood"],
    }
    return zoo.add(name, **{**arguments, **changes})


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A zoo with two single sources and a multi source; not to be written to."""
    zoo = Zoo.create(tmp_path_factory.mktemp("zoos") / "original", embedder_id=EMBEDDER)
    add(zoo, "birds", 1)
    add(zoo, "ants", 2, history=(), classes=None)
    add(zoo, "all-of-them", 3, kind="multi", signature=None)
    return zoo


@pytest.fixture
def zoo(original, tmp_path):
    """Return a copy of the zoo, for a test to spoil."""
    shutil.copytree(original.folder, tmp_path / "zoo")
    return Zoo.open(tmp_path / "zoo")


def read_index(zoo):
    return json.loads((zoo.folder / "index.json").read_text())


def write_index(zoo, index):
    (zoo.folder / "index.json").write_text(json.dumps(index))


def snapshot(folder):
    """Every file with its content, but the lock and the hidden."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


# Reading what was written


def test_a_zoo_is_a_mapping_in_the_order_of_names(original):
    assert original.names == list(original) == ["all-of-them", "ants", "birds"]
    assert len(original) == 3
    assert "birds" in original and "bees" not in original and [] not in original.names
    assert [source.name for source in original.values()] == original.names
    assert [source.name for source in original.singles()] == ["ants", "birds"]
    assert original.multi().name == "all-of-them"
    assert original.subset(["birds"]).multi() is None
    assert original.embedder_id == EMBEDDER
    assert original.verify() == []
    assert Zoo.open(original.folder, verify="full") == original


def test_a_source_comes_back_as_it_was_added(original):
    source = original["birds"]
    assert (source.name, source.kind, source.config) == ("birds", "single", CONFIG)
    assert (source.n_images, source.n_classes) == (40, 4)
    assert source.provenance == PROVENANCE
    assert source.metrics == METRICS
    assert source.classes == ["alder", "birch", "cedar", "dogwood"]
    assert source.embedder_id == EMBEDDER
    assert source.history() == [HISTORY[0], {**HISTORY[1], "loss": None}]
    assert original["ants"].history() == []
    assert original["ants"].classes == ["a", "b", "c", "d"]
    assert source.n_bytes == sum(p.stat().st_size for p in (original.folder / "birds").iterdir())


def test_weights_come_back_to_the_bit_without_the_head(original):
    state, loaded = make_state(1), original["birds"].state_dict()
    assert loaded.keys() == {name for name in state if not name.startswith("classifier.")}
    assert {"alphas_normal", "alphas_reduce"} <= loaded.keys()
    for name, tensor in loaded.items():
        assert tensor.dtype == state[name].dtype
        assert tensor.shape == state[name].shape
        assert torch.equal(tensor, state[name])
    CellSupernet(CONFIG).load_state_dict({**state, **loaded}, strict=True)


def test_weights_in_half_precision(zoo):
    state = make_state(5)
    add(zoo, "half", state_dict=state, dtype="float16")
    loaded = zoo["half"].state_dict()
    assert zoo["half"].n_bytes < zoo["birds"].n_bytes
    for name, tensor in loaded.items():
        assert tensor.dtype == state[name].dtype
        if name.startswith("alphas_") or "running_" in name or "num_batches" in name:
            assert torch.equal(tensor, state[name])
        else:
            torch.testing.assert_close(tensor, state[name], rtol=2**-11, atol=2**-24)
            assert torch.equal(tensor, state[name].half().float())


def test_a_caller_may_change_what_it_loaded(original):
    first = original["birds"].state_dict()
    first["alphas_normal"].zero_()
    assert original["birds"].state_dict()["alphas_normal"].any()
    original["birds"].provenance.clear()
    original["birds"].metrics.clear()
    assert original["birds"].provenance and original["birds"].metrics


def test_weights_are_parsed_once_per_process(original, monkeypatch):
    original["birds"].state_dict()
    monkeypatch.delattr(weights, "parse_safetensors")
    Zoo.open(original.folder)["birds"].state_dict()


def test_signatures_come_back(original):
    signature = original["birds"].signature()
    expected = make_signature(1)
    assert signature.embedder_id == EMBEDDER
    assert signature.metadata() == expected.metadata()
    tensors = signature.to_tensors()
    for name, tensor in expected.to_tensors().items():
        np.testing.assert_array_equal(tensors[name], tensor)
    with pytest.raises(ZooError, match="many datasets"):
        original["all-of-them"].signature()


def test_a_supernet_trained_elsewhere_may_be_arrays(zoo):
    state = make_state(6)
    add(zoo, "arrays", state_dict={name: tensor.numpy() for name, tensor in state.items()})
    assert torch.equal(zoo["arrays"].state_dict()["stem.0.weight"], state["stem.0.weight"])


def test_the_same_sources_give_the_same_bytes(original, tmp_path):
    other = Zoo.create(tmp_path / "original", embedder_id=EMBEDDER)
    add(other, "all-of-them", 3, kind="multi", signature=None)
    add(other, "ants", 2, history=(), classes=None)
    add(other, "birds", 1)
    assert snapshot(other.folder) == snapshot(original.folder)


def test_an_unknown_name_is_answered_with_the_known(original):
    with pytest.raises(ZooError, match=r"no source 'brids'. Did you mean 'birds'.*ants, birds"):
        original["brids"]
    with pytest.raises(KeyError):
        original["brids"]
    with pytest.raises(ZooError, match="brids"):
        original.subset(["brids"])
    with pytest.raises(ZooError, match="It has: birds"):
        original.subset(["birds"])["ants"]
    assert original.get("brids") is None


def test_a_table_of_the_sources(original):
    pytest.importorskip("pandas")
    frame = original.to_frame()
    assert list(frame.index) == original.names
    assert frame.loc["birds", "kind"] == "single"
    assert frame.loc["birds", "space"] == "s1"
    assert frame.loc["birds", "licence"] == "CC0 1.0"
    assert frame.loc["birds", "accuracy"] == 0.875


def test_a_history_may_be_a_frame(zoo):
    pandas = pytest.importorskip("pandas")
    add(zoo, "framed", history=pandas.DataFrame(HISTORY))
    assert zoo["framed"].history() == zoo["birds"].history()


def test_repr_says_what_is_there(original):
    assert repr(original) == (
        f"<Zoo '{original.folder}': 2 single, multi 'all-of-them', embedder '{EMBEDDER}'>"
    )
    assert repr(original["birds"]) == ("<Source 'birds' (single, cells): 40 images of 4 classes>")


def test_choosing_a_source_needs_no_torch(original):
    code = (
        "import sys; from supernetnas.zoo import Zoo; zoo = Zoo.open(sys.argv[1]);"
        "print(zoo, zoo.singles(), zoo['birds'].history(), zoo['birds'].classes);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(original.folder)], check=True)


# Sending


def test_zoo_and_source_pickle_small(original):
    for thing in (original, original.subset(["birds"]), original["birds"]):
        data = pickle.dumps(thing)
        assert len(data) < 500
        assert pickle.loads(data) == thing == copy.deepcopy(thing)
        assert hash(pickle.loads(data)) == hash(thing)
    assert pickle.loads(pickle.dumps(original.subset(["birds"]))).names == ["birds"]
    assert original != original.subset(["birds"])
    assert original != 3 and original["birds"] != 3


def test_a_zoo_can_be_a_parameter(original):
    class Estimator(BaseEstimator):
        def __init__(self, zoo=None):
            self.zoo = zoo

    assert clone(Estimator(original)).zoo == original


def test_a_relative_folder_means_the_same_everywhere(zoo, monkeypatch, tmp_path):
    monkeypatch.chdir(zoo.folder.parent)
    data = pickle.dumps(Zoo.open("zoo"))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(data) == zoo


def test_builtin_is_a_folder_of_the_package(original, monkeypatch):
    monkeypatch.setattr(places, "_builtin_folder", lambda: original.folder)
    builtin = Zoo.open("builtin")
    assert builtin.names == original.names
    assert str(original.folder).encode() not in pickle.dumps(builtin)
    with pytest.raises(ZooError, match="part of the installation"):
        builtin.remove("birds")


def test_the_builtin_folder_is_inside_the_package():
    import supernetnas.zoo

    package = os.path.dirname(supernetnas.zoo.__file__)
    assert str(places._builtin_folder()) == os.path.join(package, "builtin")


# Opening what is no zoo


def test_what_is_no_zoo_is_refused(tmp_path):
    with pytest.raises(ZooError, match="does not exist"):
        Zoo.open(tmp_path / "absent")
    with pytest.raises(ZooError, match=r"holds no index\.json"):
        Zoo.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ZooError, match="is a file"):
        Zoo.open(tmp_path / "file")
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ZooError, match="not the index of a zoo"):
        Zoo.open(tmp_path)
    with pytest.raises(ValueError, match="'lazy' or 'full'"):
        Zoo.open(tmp_path, verify="no")


def test_a_newer_format_is_refused(zoo):
    write_index(zoo, {**read_index(zoo), "format_version": 4, "sources": "something new"})
    with pytest.raises(ZooError, match=r"format version 4.*Install a newer supernetnas"):
        Zoo.open(zoo.folder)


@pytest.mark.parametrize("version", [None, "1", 0, -1, 1.0, True, [1]])
def test_an_invalid_format_version_is_refused(zoo, version):
    write_index(zoo, {**read_index(zoo), "format_version": version})
    with pytest.raises(ZooError, match="no valid format version"):
        Zoo.open(zoo.folder)


HASH = "0" * 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, s: i.pop("sources"), "sources"),
        (lambda i, s: i.update(sources=[]), "another type"),
        (lambda i, s: i.update(embedder_id=3), "another type"),
        (lambda i, s: i.update(basis={"sha256": HASH, "size": 2**40}), "not within"),
        (lambda i, s: i.update(basis={"sha256": HASH}), "size"),
        (lambda i, s: i["sources"].update({"../x": s}), "cannot name a source"),
        (lambda i, s: i["sources"].update({"/x": s}), "cannot name a source"),
        (lambda i, s: i["sources"].update({"x": s}), "cannot be its folder"),
        (lambda i, s: i["sources"].update({"CON": {**s, "folder": "CON"}}), "cannot name a source"),
        (lambda i, s: i["sources"].update({"a.": {**s, "folder": "a."}}), "cannot name a source"),
        (lambda i, s: i["sources"].update({"Birds": {**s, "folder": "Birds"}}), "one folder"),
        (lambda i, s: s.update(n_images=10**400), "not a number"),
        (lambda i, s: i["sources"].update({"birds": 3}), "'birds'"),
        (lambda i, s: s.update(folder="../birds"), "cannot be its folder"),
        (lambda i, s: s.update(folder="/etc"), "cannot be its folder"),
        (lambda i, s: s.update(folder="."), "cannot be its folder"),
        (lambda i, s: s.update(kind="pair"), "not a kind"),
        (lambda i, s: s.update(kind=[]), "not a kind"),
        (lambda i, s: s.update(kind="multi"), "its files are"),
        (
            lambda i, s: (s.update(kind="multi"), s["files"].pop("signature.safetensors")),
            "at most one",
        ),
        (lambda i, s: s.update(config=3), "no mapping"),
        (lambda i, s: s.update(n_images=-1), "not a number"),
        (lambda i, s: s.update(n_classes="4"), "not a number"),
        (lambda i, s: s.update(surprise=1), "surprise"),
        (lambda i, s: s.pop("kind"), "kind"),
        (lambda i, s: s["files"].pop("supernet.safetensors"), "its files are"),
        (lambda i, s: s["files"].update({"../x": {"sha256": HASH, "size": 1}}), "its files are"),
        (lambda i, s: s["files"].update({"x.pkl": {"sha256": HASH, "size": 1}}), "its files are"),
        (lambda i, s: s["files"]["config.json"].update(sha256="0" * 63), "SHA-256"),
        (lambda i, s: s["files"]["config.json"].update(sha256=HASH.replace("0", "Z")), "SHA-256"),
        (lambda i, s: s["files"]["supernet.safetensors"].update(size=2**60), "not within"),
        (lambda i, s: s["files"]["supernet.safetensors"].update(size=-1), "not within"),
        (lambda i, s: s["files"]["supernet.safetensors"].update(size=1e3), "not within"),
        (lambda i, s: s["files"].update({"config.json": []}), "FileRecord"),
    ],
)
def test_a_damaged_index_is_refused(zoo, change, message):
    index = read_index(zoo)
    change(index, index["sources"]["birds"])
    write_index(zoo, index)
    with pytest.raises(ZooError, match=f"is damaged: .*{message}"):
        Zoo.open(zoo.folder)


def test_an_index_that_is_no_json_or_a_link_out_is_refused(zoo, tmp_path):
    path = zoo.folder / "index.json"
    path.rename(tmp_path / "index.json")
    path.symlink_to(tmp_path / "index.json")
    with pytest.raises(ZooError, match="leads out"):
        Zoo.open(zoo.folder)
    path.unlink()
    path.write_text("{")
    with pytest.raises(ZooError, match="not valid JSON"):
        Zoo.open(zoo.folder)


# Files that were tampered with


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "remove", "link", "folder"])
def test_a_damaged_file_is_refused(zoo, tmp_path, file, damage):
    zoo["birds"].state_dict()  # a cached file must not hide the damage
    path = zoo.folder / "birds" / file
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:-1])
    elif damage == "extend":
        path.write_bytes(data + b"\0")
    else:
        path.rename(tmp_path / "elsewhere")
        if damage == "link":
            path.symlink_to(tmp_path / "elsewhere")
        elif damage == "folder":
            path.mkdir()
    read = {
        "config.json": lambda source: source.classes,
        "history.csv": Source.history,
        "signature.safetensors": Source.signature,
        "supernet.safetensors": Source.state_dict,
    }
    zoo = Zoo.open(zoo.folder)
    with pytest.raises(ZooError, match=f"Source 'birds'.*{file}.*again from where"):
        read[file](zoo["birds"])
    assert len(problems := zoo.verify()) == 1
    assert file in problems[0]
    with pytest.raises(ZooError, match="1 problem"):
        Zoo.open(zoo.folder, verify="full")
    for healthy in ("ants", "all-of-them"):
        zoo[healthy].state_dict()


def test_a_foreign_file_is_refused(zoo):
    (zoo.folder / "birds" / "supernet.pt").write_bytes(b"")
    with pytest.raises(ZooError, match=r"supernet\.pt does not belong"):
        zoo["birds"].state_dict()
    (zoo.folder / "notes.txt").write_text("")
    (zoo.folder / ".gitattributes").write_text("")
    problems = zoo.verify()
    assert len(problems) == 2
    assert any("supernet.pt" in problem for problem in problems)
    assert any("notes.txt" in problem for problem in problems)


def test_a_folder_that_links_out_is_refused(zoo, tmp_path):
    (zoo.folder / "birds").rename(tmp_path / "birds")
    (zoo.folder / "birds").symlink_to(tmp_path / "birds")
    for read in (Source.state_dict, Source.signature, Source.history):
        with pytest.raises(ZooError, match="leads out"):
            read(zoo["birds"])
    zoo.remove("birds")
    assert (tmp_path / "birds" / "config.json").exists()


def test_a_missing_folder_is_refused(zoo):
    shutil.rmtree(zoo.folder / "birds")
    with pytest.raises(ZooError, match="is missing"):
        zoo["birds"].state_dict()
    assert len(zoo.verify()) == 4


def plant(zoo, file, data):
    """Replace a file of "birds" and make the index agree with it."""
    (zoo.folder / "birds" / file).write_bytes(data)
    index, record = read_index(zoo), FileRecord.of(data)
    index["sources"]["birds"]["files"][file] = {"sha256": record.sha256, "size": record.size}
    write_index(zoo, index)
    return Zoo.open(zoo.folder)["birds"]


class Bomb:
    """What writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_planted_pickle_never_runs(zoo, tmp_path, file, how):
    bomb, path = Bomb(tmp_path / "exploded"), tmp_path / "bomb"
    if how == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, path)
    source = plant(zoo, file, path.read_bytes())
    assert source.verify()
    for read in (Source.state_dict, Source.signature, Source.history):
        with contextlib.suppress(ZooError):
            read(source)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(pickle.dumps(bomb))
    assert (tmp_path / "exploded").exists()  # it was live


def stored(changes):
    arrays = {
        name: tensor.numpy()
        for name, tensor in make_state(1).items()
        if not name.startswith("classifier.")
    }
    arrays.update(changes)
    return dump_safetensors({name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff" * 100, "declares a header"),
        (b"\xff" * 9 * 2**20, "is too large for a supernet"),
        (stored({"alphas_normal": None}), "lacks alphas_normal"),
        (stored({"extra": np.zeros(1, np.float32)}), "no use for extra"),
        (stored({"alphas_normal": np.zeros((14, 3), np.float32)}), r"alphas_normal is float32"),
        (stored({"alphas_normal": np.zeros((14, 2))}), "float64"),
        (stored({"alphas_normal": np.full((14, 2), np.nan, np.float32)}), "not finite"),
        (stored({"stem.1.running_var": np.full(6, -1, np.float32)}), "negative numbers in 'stem"),
        (stored({"stem.1.num_batches_tracked": np.array(-1)}), "negative numbers in 'stem"),
    ],
)
def test_a_supernet_other_than_configured_is_refused(zoo, data, message):
    with pytest.raises(ZooError, match=message):
        plant(zoo, "supernet.safetensors", data).state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": "unheard-of"}, "does not know"),
        ({"n_cells": "3"}, "does not know"),
        ({"colour": "red"}, "does not know"),
        ({"n_cells": 10**6}, "does not know"),
        ({"n_cells": True}, "does not know"),
        ({"n_cells": 100}, "expected tensors"),
        ({"init_channels": 10**12}, "does not know"),
        ({"init_channels": 4096}, "expected tensors"),
        ({"init_channels": 4}, "expected tensors"),
        ({"image_size": [10**9, 1]}, "does not know"),
        ({"image_size": {}}, "does not know"),
    ],
)
def test_a_configuration_from_a_stranger_is_refused(zoo, change, message):
    index = read_index(zoo)
    index["sources"]["birds"]["config"].update(change)
    write_index(zoo, index)
    source = Zoo.open(zoo.folder)["birds"]
    with pytest.raises(ZooError, match=message):
        source.state_dict()
    assert any(r"does not agree with index.json" in problem for problem in source.verify())


def test_a_signature_that_is_none_is_refused(zoo):
    source = plant(zoo, "signature.safetensors", dump_safetensors({"a": np.zeros(1)}))
    with pytest.raises(ZooError, match="Not a supernetnas-signature"):
        source.signature()
    signature = make_signature(embedder_id="other")
    data = dump_safetensors(signature.to_tensors(), signature.metadata())
    with pytest.raises(ZooError, match="made with 'other', not with the zoo's embedder"):
        plant(zoo, "signature.safetensors", data).signature()


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


def test_a_damaged_basis_is_refused(tmp_path):
    zoo = Zoo.create(tmp_path / "zoo", embedder_id=EMBEDDER, basis=make_basis())
    path = zoo.folder / "basis.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(ZooError, match="basis"):
        zoo.basis()
    path.unlink()
    assert len(zoo.verify()) == 1
    path.write_bytes(dump_safetensors({"components": np.eye(2)}))
    record = FileRecord.of(path.read_bytes())
    write_index(zoo, {**read_index(zoo), "basis": vars(record)})
    with pytest.raises(ZooError, match="float16"):
        Zoo.open(zoo.folder).basis()


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


@pytest.mark.parametrize("name", ["bees", "birds"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["write_new", "rename", "index", "after the index"])
def test_an_interrupted_add_leaves_a_whole_zoo(zoo, monkeypatch, name, error, step):
    before = snapshot(zoo.folder)
    calls = []

    def interrupt(*args):
        calls.append(args)
        if step != "write_new" or len(calls) == 3:
            raise error
        real_write_new(*args)

    real_write_new, real_write = folders.write_new, Index.write

    def write_then_interrupt(self, folder):
        real_write(self, folder)
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        if step == "write_new":
            patch.setattr(folders, "write_new", interrupt)
        elif step == "rename":
            patch.setattr(os, "rename", interrupt)
        elif step == "index":
            patch.setattr(Index, "write", interrupt)
        else:
            patch.setattr(Index, "write", write_then_interrupt)
        add(zoo, name, 4, overwrite=True)

    reopened = Zoo.open(zoo.folder)
    if step != "after the index":
        assert snapshot(zoo.folder) == before
        assert reopened.verify() == []
    else:
        assert reopened[name].verify() == []
    add(reopened, name, 4, overwrite=True)
    assert torch.equal(reopened[name].state_dict()["stem.0.weight"], make_state(4)["stem.0.weight"])
    assert reopened.verify() == []


def test_what_a_killed_writer_left_is_cleared(zoo):
    (zoo.folder / ".tmp-0123-bees").mkdir()
    (zoo.folder / ".tmp-0123-bees" / "config.json").write_text("{")
    (zoo.folder / ".tmp-4567-index.json").write_text("{")
    shutil.copytree(zoo.folder / "birds", zoo.folder / "bees")  # renamed, not yet in the index
    problems = zoo.verify()
    assert len(problems) == 3
    add(zoo, "bees")
    assert zoo.verify() == []


class Killed(BaseException):
    """What ends a writer so suddenly that it clears nothing."""


@pytest.mark.parametrize("change", ["add", "overwrite", "remove"])
@pytest.mark.parametrize("at", ["before the index", "after the index"])
def test_folders_of_a_killed_writer_are_cleared_by_the_next(zoo, monkeypatch, change, at):
    real_write, before = Index.write, snapshot(zoo.folder)

    def killed(self, folder):
        if at == "after the index":
            real_write(self, folder)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Index, "write", killed)
        patch.setattr("supernetnas.zoo.store.clear_leftovers", lambda *_: None)
        if change == "remove":
            zoo.remove("birds")
        else:
            add(zoo, "bees" if change == "add" else "birds", 4, overwrite=True)
    reopened = Zoo.open(zoo.folder)
    changed = at == "after the index"
    assert ("bees" in reopened) == (changed and change == "add")
    assert ("birds" in reopened) == (not changed or change != "remove")
    assert reopened.verify() != []
    assert all("next one clears it" in problem for problem in reopened.verify())
    with pytest.raises(ZooError, match="no source 'wasps'"):
        reopened.remove("wasps")  # even a writer that changes nothing
    assert reopened.verify() == []
    if not changed:
        assert snapshot(zoo.folder) == before


def test_a_note_clears_only_what_a_writer_may_have_left(zoo, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("mine")
    (zoo.folder / "bees").mkdir()
    (zoo.folder / "bees" / "thesis.tex").write_text("years of work")
    names = ["bees", "birds", "index.json", ".", "..", "../mine", str(tmp_path / "mine")]
    for noted in (names, *names, {}, 3):
        (zoo.folder / ".tmp-folders").write_text(json.dumps(noted))
        with pytest.raises(ZooError, match="no source"):
            zoo.remove("wasps")
        assert (zoo.folder / "bees" / "thesis.tex").exists()
        assert (tmp_path / "mine" / "config.json").exists()
        assert Zoo.open(zoo.folder)["birds"].verify() == []


def test_a_card_that_cannot_be_written_does_not_undo_a_change(zoo, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("supernetnas.zoo.store.write_atomic", full)
    with pytest.warns(UserWarning, match=r"was changed, but not its README\.md: .*No space"):
        add(zoo, "bees")
    assert Zoo.open(zoo.folder)["bees"].verify() == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(28, "The disk is full"), (30, "read only: choose another"), (13, "may not write there")],
)
def test_a_zoo_that_cannot_be_written_to_says_what_to_do(
    zoo, tmp_path, monkeypatch, number, remedy
):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), "there")

    before = snapshot(zoo.folder)
    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_new", refuse)
        with pytest.raises(ZooError, match=f"{zoo.folder} cannot be written to.*{remedy}"):
            add(zoo, "bees")
    assert snapshot(zoo.folder) == before
    with monkeypatch.context() as patch:
        patch.setattr("filelock.FileLock.acquire", refuse)
        with pytest.raises(ZooError, match=f"cannot be written to.*Zoo.save.*{remedy}"):
            zoo.remove("birds")
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refuse)
        with pytest.raises(ZooError, match=f"new cannot be made.*{remedy}"):
            Zoo.create(tmp_path / "new", embedder_id=EMBEDDER)


def test_a_home_folder_that_nobody_knows(monkeypatch):
    def nowhere(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", nowhere)
    for make in (Zoo.open, lambda path: Zoo.create(path, embedder_id=EMBEDDER)):
        with pytest.raises(ZooError, match=r"'~/zoo' begins with a home folder.*HOME"):
            make("~/zoo")


def test_a_folder_in_the_way_is_not_deleted(zoo):
    (zoo.folder / "bees").mkdir()
    (zoo.folder / "bees" / "thesis.tex").write_text("years of work")
    with pytest.raises(ZooError, match="in the way"):
        add(zoo, "bees")
    assert (zoo.folder / "bees" / "thesis.tex").read_text() == "years of work"


def add_some(folder, names, barrier):
    torch.set_num_threads(1)
    zoo = Zoo.open(folder)
    state, signature = make_state(), make_signature()
    barrier.wait()
    for name in names:
        add(zoo, name, state_dict=state, signature=signature)


def test_two_processes_add_at_once_and_keep_each_others_sources(zoo):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    groups = [[f"{letter}{i}" for i in range(5)] for letter in "xy"]
    processes = [
        context.Process(target=add_some, args=(zoo.folder, names, barrier)) for names in groups
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert set(Zoo.open(zoo.folder, verify="full")) == {*zoo, *groups[0], *groups[1]}


def test_threads_add_at_once(zoo):
    names = [f"thread{i}" for i in range(4)]
    state, signature = make_state(), make_signature()
    threads = [
        threading.Thread(
            target=add, args=(zoo, name), kwargs={"state_dict": state, "signature": signature}
        )
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(names) <= set(Zoo.open(zoo.folder, verify="full"))


def test_a_lock_that_is_held_is_named(zoo, monkeypatch):
    monkeypatch.setattr(writing, "LOCK_TIMEOUT", 0.05)
    with writing.locked(zoo.folder), pytest.raises(ZooError, match="Another process"):
        zoo.remove("birds")


# The card


def test_the_card_is_read_by_the_hub(original):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    card = huggingface_hub.ModelCard.load(original.folder / "README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "supernetnas"
    assert data["license"] == "other"
    assert data["pipeline_tag"] == "image-classification"
    assert {"supernetnas", "search-space-s1"} <= set(data["tags"])
    assert data["datasets"] == ["Four things | <b>", "Four things | <b>"]
    assert "| birds | Four things \\| &lt;b> | Kaggle things | github a/b @ 0123abc |" in card.text
    assert "| CC0 1.0 | 40 | 4 | 0.875 |" in card.text
    assert 'zoo["all-of-them"].state_dict()' in card.text


def test_a_card_survives_what_strangers_write(zoo):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    nasty = 'a"b\n---\nlicense: mit\x07\x85 \\ {tags} 😀 | `'
    source = add(zoo, "bees", provenance={"dataset": nasty, "upstream": nasty, "licence": nasty})
    assert source.provenance["dataset"] == nasty
    card = huggingface_hub.ModelCard.load(zoo.folder / "README.md")
    assert card.data.license == "other"
    assert 'a"b --- license: mit \\ {tags} 😀 | `' in card.data.to_dict()["datasets"]


def test_a_licence_that_is_not_known_is_not_stated(zoo):
    add(zoo, "bees", provenance={})
    assert "| bees |  |  |  | not stated |  | 4 |" in (zoo.folder / "README.md").read_text()


def test_a_single_source_is_not_called_multi(tmp_path):
    zoo = Zoo.create(tmp_path / "zoo", embedder_id=EMBEDDER)
    contents = {"config": CONFIG, "state_dict": make_state()}
    with pytest.raises(ValueError, match="another name"):
        zoo.add("multi", signature=make_signature(), **contents)
    zoo.add("multi", kind="multi", **contents)


def test_a_zoo_of_the_default_embedder(tmp_path):
    assert Zoo.create(tmp_path / "zoo").embedder_id == Zoo.open("builtin").embedder_id
