"""From a zoo and a target to the supernets to start from."""

import shutil

import numpy as np
import pytest
from tiny import EMBEDDER, coarse_pixels, patterns, state
from twins import TwinConfig, register

from supernetnas import Zoo, ZooError, get_embedder
from supernetnas.distance.signing import sign as sign_set
from supernetnas.images.reading import as_image_set
from supernetnas.selection.ranking import rank_sources
from supernetnas.selection.select import open_zoo, select_sources


def sign(images, labels, **arguments):
    return sign_set(as_image_set(images), labels, EMBEDDER, **arguments)


def unexpected():
    raise AssertionError("the target was embedded")


def select(strategy, zoo, seed=0, signature=unexpected):
    return select_sources(
        strategy, zoo, signature=signature, random_state=np.random.RandomState(seed)
    )


@pytest.mark.parametrize("kind", ["bars", "spots"])
def test_the_nearest_source_is_of_the_same_kind(tiny_zoo, kind):
    images, labels = patterns(kind=kind, colour=True)
    selection = select("ot", tiny_zoo, signature=lambda: sign(images, labels))
    assert [source.name for source in selection.candidates] == [kind]
    assert next(iter(selection.distances)) == kind
    assert list(selection.distances.values()) == sorted(selection.distances.values())
    assert selection.distances == rank_sources(sign(images, labels), tiny_zoo)


@pytest.mark.parametrize(
    ("strategy", "names"),
    [("scratch", []), ("multi", ["both"]), ("oracle", ["bars", "spots"]), ("spots", ["spots"])],
)
def test_other_strategies_embed_nothing(tiny_zoo, strategy, names):
    selection = select(strategy, tiny_zoo)
    assert [source.name for source in selection.candidates] == names
    assert selection.distances is None


def test_random_follows_its_seed(tiny_zoo):
    names = [select("random", tiny_zoo, seed).candidates[0].name for seed in range(20)]
    assert set(names) == {"bars", "spots"}
    assert names == [select("random", tiny_zoo, seed).candidates[0].name for seed in range(20)]


def test_scratch_needs_no_zoo():
    assert open_zoo("scratch", "nowhere") is None


def test_a_zoo_is_opened_or_taken(tiny_zoo):
    assert open_zoo("ot", tiny_zoo.folder, EMBEDDER) == tiny_zoo
    assert open_zoo("ot", tiny_zoo, EMBEDDER) is tiny_zoo
    with pytest.raises(ZooError, match="nowhere"):
        open_zoo("ot", "nowhere")


@pytest.mark.parametrize("strategy", ["bar", 3, None, ["ot"]])
def test_an_unknown_strategy(tiny_zoo, strategy):
    with pytest.raises(ValueError, match=r"must be one of .* \(bars, both, spots\)"):
        open_zoo(strategy, tiny_zoo)


def test_a_zoo_that_lacks_what_is_needed(tiny_zoo):
    with pytest.raises(ValueError, match=r"kind 'multi'.* name of a source: bars"):
        open_zoo("multi", tiny_zoo.subset(["bars"]))
    for strategy in ("ot", "oracle", "random"):
        with pytest.raises(ValueError, match="needs single sources"):
            open_zoo(strategy, tiny_zoo.subset(["both"]))


def test_another_embedder(tiny_zoo):
    with pytest.raises(ValueError, match=r"coarse_pixels @ 8x8.*coarse_pixels @ 16x16"):
        open_zoo("ot", tiny_zoo, get_embedder(coarse_pixels, input_size=16))


def test_signatures_are_read_before_the_target_is_embedded(tiny_zoo, tmp_path):
    shutil.copytree(tiny_zoo.folder, tmp_path / "zoo")
    (tmp_path / "zoo" / "bars" / "signature.safetensors").unlink()
    with pytest.raises(ZooError, match="missing"):
        select("ot", Zoo.open(tmp_path / "zoo"), signature=unexpected)


def test_one_family_alone_is_chosen_from(tiny_zoo, tmp_path, monkeypatch):
    register(monkeypatch)
    zoo = tiny_zoo.save(tmp_path / "zoo")
    config = TwinConfig(**zoo["both"].config.to_dict())
    zoo.add("all-twins", config=config, state_dict=state(3), kind="multi")
    zoo.add("twin", config=config, state_dict=state(4), dataset="bars")
    for family, names in (("cells", ["bars", "both", "spots"]), ("twins", ["all-twins", "twin"])):
        assert open_zoo("ot", zoo, family=family).names == names
    chosen = open_zoo("multi", zoo, family="twins")
    assert [source.name for source in select("multi", chosen).candidates] == ["all-twins"]
    assert open_zoo("ot", tiny_zoo, family="cells") is tiny_zoo
    with pytest.raises(ValueError, match=r"needs single sources; .* has none"):
        open_zoo("ot", tiny_zoo, family="twins")
