"""What was written to a zoo is read from it, to the bit."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from random_zoo import (
    CONFIG,
    EMBEDDER,
    HISTORY,
    METRICS,
    PROVENANCE,
    add,
    make_signature,
    make_state,
    snapshot,
)

from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.zoo import Zoo, ZooError, weights


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


@pytest.mark.parametrize(("own", "before"), [("a", None), (["a"], []), (None, "a")])
def test_names_of_datasets_may_stand_alone(zoo, own, before):
    provenance = {**PROVENANCE, "datasets": own, "warm_start_datasets": before}
    add(zoo, "own", 9, provenance=provenance)
    seen = ["a"] if own else ["a", "own"]
    assert Zoo.open(zoo.folder)["own"].trained_on == seen


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
