"""Names of zoos on the Hub, and pulling them through a real server."""

import copy
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import patterns, tiny_classifier

pytest.importorskip("huggingface_hub")

from hub_server import TOKEN
from hub_zoo import BUNDLE, python

from supernetnas import Zoo
from supernetnas.fitting.parameter_values import decode_parameters, encode_parameters
from supernetnas.selection.ranking import rank_sources
from supernetnas.storage.hub import HubError, hub_address

pytestmark = [
    pytest.mark.hub,
    # What the library says to a size that is a lie, before we refuse it.
    pytest.mark.filterwarnings("ignore:Not enough free disk space"),
]


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/zoo", ("org/zoo", None)),
        ("org/zoo@v1.0", ("org/zoo", "v1.0")),
        ("org/zoo@refs/pr/3", ("org/zoo", "refs/pr/3")),
        ("hf://org/zoo", ("org/zoo", None)),
        ("Org-1/my_zoo.v2", ("Org-1/my_zoo.v2", None)),
        ("zoo", None),
        ("./org/zoo", None),
        ("/org/zoo", None),
        ("../zoo", None),
        ("a/b/c", None),
        ("org/zoo@", None),
        ("org/zoo@a..b", None),
        ("org/..", None),
        ("org/a b", None),
        ("org\\zoo", None),
        ("~/zoo", None),
        (Path("org/zoo"), None),
        (3, None),
    ],
)
def test_names_of_repositories(name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_address(name) == expected


def test_a_folder_comes_first_and_a_scheme_before_it(tmp_path, monkeypatch, tiny_zoo):
    monkeypatch.chdir(tmp_path)
    tiny_zoo.save("org/zoo")
    assert hub_address("org/zoo") is None
    assert hub_address("hf://org/zoo") == ("org/zoo", None)
    assert Zoo.open("org/zoo").folder == tmp_path / "org" / "zoo"
    with pytest.raises(ValueError, match="not of the form 'hf://organisation/name"):
        hub_address("hf://zoo")


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'supernetnas\[hub\]'.*no folder 'org/zoo'"):
        Zoo.open("org/zoo")


# Pulling


def test_a_zoo_on_the_hub_is_the_zoo_that_was_pushed(pull, tiny_zoo, server):
    zoo = pull()
    assert zoo.names == tiny_zoo.names and zoo.embedder_id == tiny_zoo.embedder_id
    assert server.downloads() == ["index.json"]
    assert zoo.where == f"hf://org/zoo@{server.head('org/zoo')}"
    for name, source in tiny_zoo.items():
        for key, tensor in source.state_dict().items():
            np.testing.assert_array_equal(zoo[name].state_dict()[key], tensor)
    assert zoo.verify() == []


def test_ranking_fetches_no_supernet_and_fitting_the_chosen_one(pull, server, tiny_zoo):
    zoo = pull()
    X, y = patterns()
    clf = tiny_classifier(None, "ot").set_params(zoo=zoo).fit(X, y)
    assert server.downloads() == ["index.json", BUNDLE, f"{clf.source_}/supernet.safetensors"]
    local = tiny_classifier(tiny_zoo, "ot").fit(X, y)
    assert clf.distances_ == local.distances_
    np.testing.assert_array_equal(clf.predict_proba(X), local.predict_proba(X))


def test_what_is_pinned_and_cached_makes_no_request(pull, server):
    commit = server.head("org/zoo")
    pull(revision=commit).download()
    server.reset()
    zoo = pull(revision=commit)
    assert len(rank_sources(zoo["bars"].signature(), zoo)) == 2
    zoo["spots"].state_dict()
    assert zoo["both"].classes == []
    assert server.requests == []
    pull()  # has to ask what "main" is
    assert [(r.method, r.status) for r in server.requests] == [("HEAD", 200)]


def test_revisions(pull, server, publish):
    repo_id = publish(repo_id="org/revisions")
    old = server.head(repo_id)
    server.repositories[repo_id].tags["v1"] = old
    new = server.put(repo_id, {"spots/history.csv": b""})
    assert pull(repo_id).where.endswith(new)
    for zoo in (pull(repo_id, revision="v1"), pull(f"{repo_id}@v1"), pull(repo_id, revision=old)):
        assert zoo.where.endswith(old)
    with pytest.raises(HubError, match="org/revisions has no branch, tag or commit 'v2'"):
        pull(repo_id, revision="v2")


def test_local_files_only(pull, server):
    with pytest.raises(HubError, match=r"network is off.*cache lacks.*index.json"):
        pull(local_files_only=True)
    pull().download(weights=False)
    server.reset()
    zoo = pull(local_files_only=True)
    rank_sources(zoo["bars"].signature(), zoo)
    with pytest.raises(HubError) as error:
        zoo.download()
    size = zoo.store.index.sources["bars"].files["supernet.safetensors"].size / 2**20
    assert f"bars/supernet.safetensors ({size:.2f} MiB)" in str(error.value)
    assert "both/config.json" in str(error.value) and "_signatures" not in str(error.value)
    with pytest.raises(HubError, match=r"spots/supernet.safetensors"):
        zoo["spots"].state_dict()
    assert server.requests == []


OFFLINE = """
import sys
from supernetnas import Zoo
zoo = Zoo.open("org/zoo")
print(zoo.names, len(zoo["bars"].state_dict()) > 10, zoo["bars"].signature().form)
try:
    zoo["spots"].state_dict()
except OSError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_command_pulls_and_everything_works_offline_afterwards(server, tmp_path):
    command = ["-c", "import sys; from supernetnas.cli import main; sys.exit(main())", "zoo"]
    out = tmp_path / "bundle"
    result = python([*command, "pull", "org/zoo", "bars"], server, tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"hf://org/zoo@{server.head('org/zoo')}" in result.stdout
    server.reset()
    result = python(OFFLINE, server, tmp_path, HF_HUB_OFFLINE="1")
    assert "['bars', 'both', 'spots'] True full" in result.stdout, result.stderr
    assert "the cache lacks" in result.stdout
    assert "spots/supernet.safetensors (0.04 MiB). Pull them" in result.stdout
    assert server.requests == []
    result = python([*command, "pull", "org/zoo", "--all", "--out", str(out)], server, tmp_path)
    assert result.returncode == 0, result.stderr
    assert Zoo.open(out, verify="full").names == ["bars", "both", "spots"]
    assert not (out / "_signatures").exists()
    result = python([*command, "push", str(out), "org/by-command"], server, tmp_path)
    assert result.returncode == 0, result.stderr
    assert server.head("org/by-command") in result.stdout
    result = python([*command, "pull", "org/zoo", "--out", str(out)], server, tmp_path)
    assert result.returncode == 2 and "--all" in result.stderr


def test_a_zoo_travels_as_repository_and_commit_without_the_token(pull, server):
    server.put("org/private", {"a": b""}, private=True)
    for path in server.paths("org/zoo"):
        server.put("org/private", {path: server.get("org/zoo", path)})
    with pytest.raises(HubError, match=r"no repository .* token.*no folder"):
        pull("org/private")
    zoo = pull("org/private", token=TOKEN)
    assert TOKEN not in repr(zoo.store.place) and TOKEN.encode() not in pickle.dumps(zoo)
    cloned = copy.deepcopy(zoo)  # as scikit-learn clones it
    assert cloned == zoo and len(cloned["bars"].state_dict()) > 10
    travelled = pickle.loads(pickle.dumps(zoo))
    assert travelled == zoo and len(travelled["bars"].state_dict()) > 10  # it is cached
    with pytest.raises(HubError, match="private"):
        travelled["spots"].state_dict()
    assert all(r.token is None for r in server.requests if r.path.startswith("/cdn"))
    assert any(r.token == TOKEN for r in server.requests)
    assert decode_parameters(encode_parameters({"zoo": zoo})) == {"zoo": None}
