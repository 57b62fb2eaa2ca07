"""What cards say of weights that others have published."""

from dataclasses import replace

from tiny import make_zoo

from supernetnas.zoo.cards import source_card, zoo_card


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
