"""What cards say of a zoo and its sources, and nothing of where a package might be."""

from dataclasses import replace

import pytest
from random_zoo import add
from tiny import make_zoo

from supernetnas.zoo.cards import source_card, zoo_card


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


def test_published_weights_are_named_with_their_licence(tmp_path):
    zoo = make_zoo(tmp_path / "zoo")
    index = zoo.store.index
    assert "published weights" not in zoo_card(index, "zoo")
    said = {"weights": "Net of <someone>, trained on ImageNet", "weights_licence": "Apache-2.0"}
    entry = replace(index.sources["both"], provenance=said)
    changed = replace(index, sources={**index.sources, "both": entry})
    card = zoo_card(changed, "zoo")
    line = "both began with published weights, Net of &lt;someone>, trained on ImageNet"
    assert f"{line} (licence: Apache-2.0)." in card
    own = source_card("both", entry, index.embedder_id, "org/both")
    assert "| published weights | Net of &lt;someone>, trained on ImageNet |" in own
    assert "| their licence | Apache-2.0 |" in own


def test_datasets_that_a_supernet_was_trained_on_before_are_named(tmp_path):
    index = make_zoo(tmp_path / "zoo").store.index
    assert "Started from" not in zoo_card(index, "zoo")
    said = {"warm_start": "multi", "warm_start_datasets": ["<digits>", "flowers"]}
    entries = {name: replace(entry, provenance=said) for name, entry in index.sources.items()}
    names = ", ".join(entries)
    line = f"Started from a supernet that had been trained on &lt;digits>, flowers: {names}."
    assert line in zoo_card(replace(index, sources=entries), "zoo")
    own = source_card("both", entries["both"], index.embedder_id, "org/both")
    assert "| trained before on | &lt;digits>, flowers |" in own
    entries["both"] = replace(entries["both"], provenance={"warm_start_datasets": "flowers"})
    assert "both" not in zoo_card(replace(index, sources=entries), "zoo").split("Started")[1][:200]


def test_no_card_installs_from_an_index_that_may_not_have_the_package(tmp_path):
    index = make_zoo(tmp_path / "zoo").store.index
    for card in (
        zoo_card(index, "zoo"),
        zoo_card(index, "zoo", "org/zoo"),
        source_card("both", index.sources["both"], index.embedder_id, "org/both"),
    ):
        assert "pip install" not in card and "pypi" not in card
