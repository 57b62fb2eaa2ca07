"""Supernets of any family are pretrained; a zoo keeps those of several apart."""

from dataclasses import replace

import pytest
from tiny_pretraining import FAMILY, TINY, pretrain
from twins import TwinConfig, Twins, register

from supernetnas import ZooError, cli
from supernetnas.families.cells.family import Cells
from supernetnas.pretraining.settings import Pretraining

TWINS = replace(TINY, family=Twins(init_channels=4, n_cells=3))


def test_equal_pretrainings_are_told_by_their_values():
    assert TINY.to_dict() == replace(TINY).to_dict()
    assert TINY.to_dict() == replace(TINY, settings=FAMILY.pretraining_settings()).to_dict()
    others = [
        replace(TINY, family=Cells("s2", 4, 3)),
        replace(TINY, settings=replace(TINY.search_settings, learning_rate=0.3)),
        replace(TINY, random_state=1),
        TWINS,
    ]
    for other in others:
        assert other.to_dict() != TINY.to_dict()
    assert Pretraining().to_dict()["family"]["name"] == "cells"


def test_two_families_are_pretrained_into_one_zoo(tmp_path, monkeypatch):
    register(monkeypatch)
    pretrain(tmp_path / "zoo")
    zoo = pretrain(tmp_path / "zoo", pretraining=TWINS)
    assert zoo.names == ["a", "a-twins", "b", "b-twins", "multi", "multi-twins"]
    assert zoo.verify() == []
    for name in ("a", "b"):
        twin = zoo[f"{name}-twins"]
        assert (twin.family, twin.dataset, type(twin.config)) == ("twins", name, TwinConfig)
        assert twin.entry.path("signature.safetensors") == zoo[name].entry.path(
            "signature.safetensors"
        )
        for key, value in zoo[name].state_dict().items():  # the same but for the name
            assert (twin.state_dict()[key] == value).all()
    assert zoo.multi("twins").name == "multi-twins"
    before = {path: path.read_bytes() for path in zoo.folder.rglob("*") if path.is_file()}
    pretrain(tmp_path / "zoo", pretraining=TWINS)
    assert before == {path: path.read_bytes() for path in zoo.folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="it is of the family 'cells', not 'twins'"):
        pretrain(tmp_path / "other", pretraining=TWINS, warm_start=zoo["a"])


def test_a_difference_is_told_by_what_differs(tmp_path):
    zoo = pretrain(tmp_path / "zoo", multi=False)
    assert TINY.difference(zoo["a"]) is None
    assert replace(TINY, image_side=16).difference(zoo["a"]) is None
    other = replace(TINY, family=Cells("s2", 4, 3))
    assert other.difference(zoo["a"]) == "its search space is s1, not s2"
    with pytest.raises(ZooError, match="another supernet, that of its source 'a'"):
        pretrain(tmp_path / "zoo", multi=False, pretraining=other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--family", "trees"], "Unknown family 'trees'"),
        (["--set", "depth=3"], "Invalid parameter 'depth'"),
        (["--set", "n_cells=0"], "--set n_cells=... must be int >= 1"),
    ],
)
def test_the_command_line_refuses_families_and_sizes_that_there_are_not(
    tmp_path, capsys, options, message
):
    (tmp_path / "d").mkdir()
    for name in ("x", "y"):
        (tmp_path / "d" / name).mkdir()
        for number in range(2):
            (tmp_path / "d" / name / f"{number}.png").write_bytes(b"")
    command = ["zoo", "pretrain", str(tmp_path / "d"), "--out", str(tmp_path / "zoo"), *options]
    assert cli.main(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "zoo").exists()
