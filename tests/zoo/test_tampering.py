"""A zoo is read with suspicion: what is none, is damaged or was planted is refused."""

import contextlib
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from random_zoo import (
    EMBEDDER,
    make_basis,
    make_signature,
    make_state,
    read_index,
    write_index,
)

from supernetnas.storage.formats import dump_safetensors
from supernetnas.zoo import Source, Zoo, ZooError
from supernetnas.zoo.entries import FileRecord

FILES = ["config.json", "history.csv", "signature.safetensors", "supernet.safetensors"]
HASH = "0" * 64


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
        (lambda i, s: s["provenance"].update(datasets=3), "its datasets are no list"),
        (lambda i, s: s["provenance"].update(warm_start_datasets=[1]), "no list of names"),
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


# Files that the index agrees with


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
