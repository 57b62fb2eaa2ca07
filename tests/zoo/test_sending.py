"""A zoo is small to send, and means the same where it arrives."""

import copy
import os
import pickle

import pytest
from sklearn.base import BaseEstimator, clone

from supernetnas.zoo import Zoo, ZooError, places


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
