"""Zoos, and sources in repositories of their own, are pushed to the Hub."""

import json

import numpy as np
import pytest
from tiny import patterns, tiny_classifier
from twins import TwinConfig, register

pytest.importorskip("huggingface_hub")

from hub_server import TOKEN
from hub_zoo import BUNDLE, commits, weights

from supernetnas import Zoo, ZooError
from supernetnas.selection.ranking import rank_sources
from supernetnas.storage.hub import HubError
from supernetnas.zoo import bundles as bundles_module
from supernetnas.zoo import publishing

pytestmark = [
    pytest.mark.hub,
    # What the library says to a size that is a lie, before we refuse it.
    pytest.mark.filterwarnings("ignore:Not enough free disk space"),
]


# Pushing


def test_a_push_is_one_commit_and_nothing_new_is_none(push, tiny_zoo, server):
    pushed = push(tiny_zoo, "org/pushed", message="First")
    assert commits(server, "org/pushed") == ["initial commit", "First"]
    assert pushed.commit == server.head("org/pushed") and pushed.commit in pushed.url
    assert push(tiny_zoo, "org/pushed") == pushed
    assert len(commits(server, "org/pushed")) == 2
    assert not server.repositories["org/pushed"].private


def test_the_card_says_what_the_hub_needs(files):
    from huggingface_hub import ModelCard

    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "supernetnas"
    assert {"supernetnas", "search-space-s1", "supernet"} <= set(card.data.tags)
    assert card.data.datasets == ["bars", "spots"]
    assert 'zoo="org/zoo"' in card.text and 'with the extra "hub"' in card.text


def test_pushes_add_and_replace_only_if_told(push, pull, local, server):
    push(local.subset(["bars"]), "org/grown")
    push(local.subset(["spots", "both"]), "org/grown")
    zoo = pull("org/grown")
    assert zoo.names == ["bars", "both", "spots"] and zoo.verify() == []
    assert set(zoo.store.index.bundles[BUNDLE].sources) == {"bars", "spots"}
    bars = local["bars"]
    local.add(
        "bars",
        config=bars.config,
        state_dict=local["spots"].state_dict(),
        signature=bars.signature(),
        overwrite=True,
    )
    with pytest.raises(ZooError, match="other sources of the names bars; overwrite=True"):
        push(local, "org/grown")
    local.remove("both")
    push(local, "org/grown", overwrite=True)
    zoo = pull("org/grown")
    assert zoo.names == ["bars", "both", "spots"] and zoo.verify() == []
    np.testing.assert_array_equal(
        weights(zoo)["stem.0.weight"], weights(local, "spots")["stem.0.weight"]
    )
    push(local, "org/grown", prune=True)
    assert pull("org/grown").names == ["bars", "spots"]
    assert not [path for path in server.paths("org/grown") if path.startswith("both/")]


def test_two_who_push_at_once_both_get_in(push, pull, tiny_zoo, server):
    push(tiny_zoo.subset(["both"]), "org/busy")
    server.fail(
        "POST .*/preupload/main", before=lambda: push(tiny_zoo.subset(["spots"]), "org/busy")
    )
    push(tiny_zoo.subset(["bars"]), "org/busy")
    assert any(r.status == 412 for r in server.requests)
    zoo = pull("org/busy")
    assert zoo.names == ["bars", "both", "spots"] and zoo.verify() == []


def test_branches_and_pull_requests(push, pull, tiny_zoo, server):
    push(tiny_zoo.subset(["both"]), "org/branches")
    before = server.head("org/branches")
    pushed = push(tiny_zoo, "org/branches", revision="dev")
    assert pushed.revision == "dev" and pull("org/branches", revision="dev").names[0] == "bars"
    pushed = push(tiny_zoo, "org/branches", create_pr=True)
    assert pushed.revision == "refs/pr/1" and pushed.url.endswith("/discussions/1")
    assert pull("org/branches", revision="refs/pr/1").verify() == []
    assert server.head("org/branches") == before
    with pytest.raises(ValueError, match="pull request is made to 'main'"):
        push(tiny_zoo, "org/branches", create_pr=True, revision="dev")
    with pytest.raises(HubError, match="no repository 'org/none'"):
        push(tiny_zoo, "org/none", create_pr=True)


def test_a_broken_push_changes_nothing_and_is_gone_on_with(push, pull, local, server):
    push(local.subset(["both"]), "org/broken")
    before, known = server.head("org/broken"), set(server.objects)
    new = local["bars"]
    local.add("extra", config=new.config, state_dict=new.state_dict(), signature=new.signature())
    for name, tensor in (state := new.state_dict()).items():
        if tensor.is_floating_point():
            state[name] = tensor + 1
    local.add("more", config=new.config, state_dict=state, signature=new.signature())
    sha256 = local.store.index.sources["more"].files["supernet.safetensors"].sha256
    server.fail(f"PUT /lfs/{sha256}", status=400, times=99)
    with pytest.raises(HubError, match=r"push to org/broken failed.*Push again to go on"):
        push(local, "org/broken")
    assert server.head("org/broken") == before
    assert sha256 not in server.objects
    arrived = {f"/lfs/{oid}" for oid in set(server.objects) - known}
    server.reset()
    push(local, "org/broken")
    sent = {r.path for r in server.requests if r.method == "PUT"}
    assert f"/lfs/{sha256}" in sent and not sent & arrived
    assert pull("org/broken").verify() == []


def test_a_large_push_sends_the_index_last(push, pull, tiny_zoo, server, monkeypatch):
    monkeypatch.setattr(publishing, "_MAX_OPERATIONS", 3)
    push(tiny_zoo, "org/large", message="Add")
    titles = commits(server, "org/large")
    assert titles[1] == "Add (files, part 1 of 3)" and titles[-1] == "Add"
    history = list(server.repositories["org/large"].commits.values())
    assert all("index.json" not in commit.files for commit in history[:-1])
    assert pull("org/large").verify() == []


def test_what_does_not_belong_together_is_not_pushed(push, tiny_zoo, local, server, tmp_path):
    server.put("org/foreign", {"model.gguf": b"1"})
    with pytest.raises(ZooError, match=r"is not a zoo: it holds 'model.gguf'"):
        push(tiny_zoo, "org/foreign")
    other = Zoo.create(tmp_path / "other", embedder_id="another")
    with pytest.raises(ZooError, match="has another embedder"):
        push(other, "org/zoo")
    path = local.folder / "bars" / "supernet.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ZooError, match="Nothing was pushed"):
        push(local, "org/damaged")
    assert server.paths("org/damaged") == []


def test_without_the_right_to_write(push, tiny_zoo, server):
    with pytest.raises(HubError, match=r"does not let you write to org/mine.*hf auth login"):
        push(tiny_zoo, "org/mine", token=False)
    with pytest.raises(ValueError, match="'organisation/name'"):
        push(tiny_zoo, "../mine")
    with pytest.raises(ValueError, match="commit cannot be pushed to"):
        push(tiny_zoo, "org/mine", revision="0" * 40)


def test_bundles_are_kept_where_nothing_changes(push, pull, local, server, monkeypatch):
    monkeypatch.setattr(bundles_module, "_TARGET", 6000)  # a signature has 5200 bytes
    push(local, "org/bundles")
    before = pull("org/bundles").store.index.bundles
    assert len(before) == 2
    bars = local["bars"]
    for name in ("a1", "a2"):
        local.add(name, config=bars.config, state_dict=weights(local), signature=bars.signature())
    push(local, "org/bundles")
    after = pull("org/bundles")
    assert after.verify() == []
    grown = set(after.store.index.bundles) - set(before)
    assert grown  # each bundle was split in two, by the names of its sources
    for path, bundle in before.items():
        new = after.store.index.bundles[path].sources
        assert set(new) - {"a1", "a2"} <= set(bundle.sources)
    server.reset()
    local.remove("a1")
    push(local, "org/bundles", prune=True)
    changed = [r.path for r in server.requests if r.method == "PUT"]
    assert len(changed) <= 1


def test_few_signatures_of_a_large_bundle_come_alone(push, pull, local, server):
    bars = local["bars"]
    for name in ("a1", "a2"):
        local.add(name, config=bars.config, state_dict=weights(local), signature=bars.signature())
    push(local, "org/large")
    (path, bundle), *others = pull("org/large").store.index.bundles.items()
    assert not others and len(bundle.sources) == 4
    zoo = pull("org/large")
    server.reset()
    zoo.download(["bars"], weights=False)
    asked = " ".join(r.path for r in server.requests)
    assert "bars/signature" in asked and path not in asked
    server.reset()
    assert zoo["bars"].signature().counts.tolist() == bars.signature().counts.tolist()
    assert server.requests == []
    zoo.download(["a1"], weights=False)
    server.reset()
    zoo.download(["bars", "a1"], weights=False)  # half of it, but each is there
    assert server.requests == []
    zoo.download(["a2", "spots"], weights=False)  # half of it
    asked = " ".join(r.path for r in server.requests)
    assert path in asked and "spots/signature" not in asked
    server.reset()
    zoo.download(weights=False)
    zoo["a1"].signature()
    assert server.requests == []


def test_sources_of_one_dataset_share_its_signature(push, pull, local, server, monkeypatch):
    register(monkeypatch)
    push(local, "org/twins")
    config = TwinConfig(**local["bars"].config.to_dict())
    local.add("twin", config=config, state_dict=local["bars"].state_dict(), dataset="bars")
    push(local.subset(["twin"]), "org/twins")
    server.reset()
    zoo = pull("org/twins")
    assert len(rank_sources(local["bars"].signature(), zoo)) == 3
    assert server.downloads() == ["index.json", BUNDLE]
    assert zoo.names == ["bars", "both", "spots", "twin"] and zoo.verify() == []
    assert json.loads(server.get("org/twins", "index.json"))["format_version"] == 3
    shared = zoo["bars"].entry.path("signature.safetensors")
    assert shared == zoo["twin"].entry.path("signature.safetensors")
    stored = [p for p in server.paths("org/twins") if p.endswith("safetensors")]
    assert [p for p in stored if "supernet" not in p] == [shared, "spots/signature.safetensors"]
    assert zoo.store.index.bundles[BUNDLE].sources == ("bars", "spots")
    assert push(local, "org/twins").commit == server.head("org/twins")
    local.remove("bars")
    push(local, "org/twins", prune=True)
    zoo = pull("org/twins")
    assert zoo.names == ["both", "spots", "twin"] and zoo.verify() == []


def test_a_vector_of_another_dataset_is_not_kept(push, pull, local):
    """Where spaces differ, that of the repository stays, but not if the dataset is another."""
    local.index_vectors()
    push(local, "org/vectors")
    local.index_vectors(random_state=1)
    changed = local["spots"]
    local.add(
        "bars",
        config=changed.config,
        state_dict=changed.state_dict(),
        signature=changed.signature(),
        overwrite=True,
    )
    push(local, "org/vectors", overwrite=True)
    zoo = pull("org/vectors")
    assert zoo["bars"].vector() is None and zoo["spots"].vector() is not None


# Sources in repositories of their own


def test_a_source_in_its_own_repository(push, pull, tiny_zoo, server, tmp_path):
    pushed = tiny_zoo["bars"].push_to_hub("org/bars", endpoint=server.url, token=TOKEN)
    assert server.paths("org/bars") == sorted(
        ["README.md", "config.json", "signature.safetensors", "supernet.safetensors"]
    )
    zoo = tiny_zoo.save(tmp_path / "linking", ["spots"])
    source = zoo.link("bars", "org/bars", endpoint=server.url)
    assert source.origin == f"hf://org/bars@{pushed.commit}"
    assert not (zoo.folder / "bars").exists()
    assert json.loads((zoo.folder / "index.json").read_text())["format_version"] == 2
    # Reached through the default Hub, which is none here, but for the cache.
    assert Zoo.open(zoo.folder)["bars"] == source
    server.put("org/bars", {"supernet.safetensors": b"replaced"})
    push(zoo, "org/linked")
    assert not [path for path in server.paths("org/linked") if path.startswith("bars/")]
    linked = pull("org/linked")
    server.reset()
    clf = tiny_classifier(None, "ot").set_params(zoo=linked).fit(*patterns())
    assert clf.source_ == "bars"
    assert server.downloads() == [BUNDLE, "supernet.safetensors"]
    saved = linked.save(tmp_path / "saved")
    assert saved.verify() == [] and saved["bars"].origin is None
    with pytest.raises(ZooError, match="'bars' and 'spots' are of one dataset, 'spots'"):
        zoo.link("bars", "org/bars", dataset="spots", overwrite=True, endpoint=server.url)
    with pytest.raises(ZooError, match=r"org/bars@.* cannot be linked:"):
        zoo.link("x", "org/bars", endpoint=server.url)
