"""Zoos and models on the Hub: pulled and pushed through a real server, which can fail."""

import contextlib
import copy
import hashlib
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import patterns, tiny_classifier
from twins import TwinConfig, register

pytest.importorskip("huggingface_hub")

from hub_server import TOKEN, HubServer

from supernetnas import SupernetTransferClassifier, Zoo, ZooError
from supernetnas.fitting.parameter_values import decode_parameters, encode_parameters
from supernetnas.selection.ranking import rank_sources
from supernetnas.storage import hub
from supernetnas.storage.files import FileError
from supernetnas.storage.hub import HubError, hub_address
from supernetnas.zoo import bundles as bundles_module
from supernetnas.zoo import publishing

pytestmark = [
    pytest.mark.hub,
    # What the library says to a size that is a lie, before we refuse it.
    pytest.mark.filterwarnings("ignore:Not enough free disk space"),
]

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = "_signatures/0000.bin"


@pytest.fixture(scope="module")
def server():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def files(server, tiny_zoo):
    """What `Zoo.push_to_hub` made of the tiny zoo."""
    tiny_zoo.push_to_hub("org/zoo", endpoint=server.url, token=TOKEN)
    return {path: server.get("org/zoo", path) for path in server.paths("org/zoo")}


@pytest.fixture(autouse=True)
def fresh(server, files, monkeypatch):
    """Forget what earlier tests have asked for; wait for nothing."""
    monkeypatch.setattr(hub, "_PAUSE", 0.0)
    server.reset()
    yield
    server.reset()


@pytest.fixture
def pull(server, tmp_path):
    """Return a function that opens a zoo with a cache of this test alone."""

    def pull(repo_id="org/zoo", **options):
        options = {"endpoint": server.url, "cache_dir": tmp_path / "cache", **options}
        return Zoo.from_pretrained(repo_id, **options)

    return pull


@pytest.fixture
def publish(server, files):
    """Return a function that publishes the zoo with some files changed, and its name."""

    def publish(changes=None, index=None, repo_id="org/changed"):
        server.repositories.pop(repo_id, None)
        content = files | (changes or {})
        if index is not None:
            content["index.json"] = json.dumps(index(json.loads(files["index.json"]))).encode()
        server.put(repo_id, content)
        return repo_id

    return publish


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


def python(code, server, home, **environment):
    """Run code in a process that takes the server for the Hub."""
    variables = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    command = [sys.executable, *(["-c", code] if isinstance(code, str) else code)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


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


# Faults


def weights(zoo, name="bars"):
    return zoo[name].state_dict()


def test_a_dropped_connection_is_taken_up_again(pull, server):
    server.fail("GET /cdn.*bars/supernet", drop_after=10_000)
    assert weights(pull())


@pytest.mark.parametrize("request_", ["GET /cdn.*bars/supernet", "GET .*index.json", "HEAD .*json"])
def test_an_unavailable_moment_passes(pull, server, request_):
    fault = server.fail(request_, status=503)
    assert weights(pull())
    assert fault.times == 0


def test_a_server_that_stays_unavailable(pull, server):
    zoo = pull()
    server.fail("GET /cdn.*bars/supernet", status=503, times=99)
    with pytest.raises(HubError, match=r"bars/supernet.safetensors of hf://org/zoo@.*503"):
        weights(zoo)


@pytest.mark.parametrize(
    ("status", "remedy", "requests"),
    [
        (401, "Check your token", 1),
        (403, "Check your token", 1),
        (404, "Check the name", 1),
        (418, "Is this a Hub", 1),
        (429, "log in", 3),
        (500, "Try again later", 3),
        (503, "Try again later", 3),
    ],
)
@pytest.mark.parametrize("request_", ["HEAD .*index.json", "GET .*index.json"])
def test_an_answer_is_named_by_its_status(pull, server, status, remedy, requests, request_):
    server.fail(request_, status=status, times=99)
    with pytest.raises(HubError, match=f"status {status}.*{remedy}"):
        pull()
    method = request_.split()[0]
    assert [r.status for r in server.requests if r.method == method] == [status] * requests


def test_a_push_is_refused_by_its_status(push, tiny_zoo, server):
    server.fail("POST .*commit", status=418)
    with pytest.raises(HubError, match=r"push to org/new failed: .* status 418.*Nothing was"):
        push(tiny_zoo, "org/new")


@pytest.fixture
def impatient(monkeypatch):
    """Wait for a server for 0.2 s."""
    constants = pytest.importorskip("huggingface_hub.constants")
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, name, 0.2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("request_", "times"), [("HEAD .*index.json", 1), ("GET .*index.json", 3)])
def test_a_silent_server_is_given_up(pull, server, request_, times):
    fault = server.fail(request_, silent=5.0, times=99)
    start = time.monotonic()
    with pytest.raises(HubError, match=r"did not answer for 0.2 s.*HF_HUB_ETAG_TIMEOUT"):
        pull()
    assert time.monotonic() - start < 4
    assert fault.times == 99 - times


@pytest.mark.usefixtures("impatient")
def test_a_silent_server_ends_a_push(push, tiny_zoo, server):
    server.fail("HEAD /", silent=5.0, times=99)
    start = time.monotonic()
    with pytest.raises(HubError, match=r"push to org/new failed: .* did not answer for 0.2 s"):
        push(tiny_zoo, "org/new")
    assert time.monotonic() - start < 4


def test_a_mistyped_path_is_said_to_be_no_folder(fitted_model, tmp_path, monkeypatch):
    """Nothing listens where the environment of the tests puts the Hub."""
    monkeypatch.chdir(tmp_path)
    fitted_model.save_pretrained("models/flowers")
    message = "could not be reached.*no folder 'models/flower' here, but 'models/flowers'"
    for load in (SupernetTransferClassifier.from_pretrained, Zoo.open):
        with pytest.raises(HubError, match=message):
            load("models/flower")
    with pytest.raises(HubError) as error:
        Zoo.open("hf://models/flowers")
    assert "folder" not in str(error.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"\[hub\].*no folder 'models/flower' here, but"):
        SupernetTransferClassifier.from_pretrained("models/flower")


@pytest.fixture
def fitted_model():
    X, y = patterns()
    return tiny_classifier(search__epochs=0, retraining__epochs=1).fit(X, y)


def test_the_cache_serves_a_branch_when_the_hub_is_down(pull, server):
    expected = pull().where
    for status in (401, 500):
        server.fail("HEAD .*index.json", status=status, times=9)
        assert pull().where == expected
        server.reset()


def test_the_cache_is_as_the_library_leaves_it(pull, server, tmp_path):
    import huggingface_hub

    zoo = pull()
    weights(zoo)
    index = huggingface_hub.hf_hub_download(
        "org/zoo", "index.json", cache_dir=tmp_path / "cache", local_files_only=True
    )
    assert Path(index).parent == zoo.folder
    report = huggingface_hub.scan_cache_dir(tmp_path / "cache")
    (repository,) = report.repos
    assert not report.warnings and repository.repo_id == "org/zoo"
    assert [*repository.refs] == ["main"]
    sizes = {file.file_name: file.size_on_disk for file in next(iter(repository.revisions)).files}
    assert sizes["supernet.safetensors"] == len(server.get("org/zoo", "bars/supernet.safetensors"))
    huggingface_hub.hf_hub_download(  # and the other way round
        "org/zoo", "spots/supernet.safetensors", endpoint=server.url, cache_dir=tmp_path / "cache"
    )
    server.reset()
    assert weights(zoo, "spots") and not server.requests


# A mirror that is hostile


@pytest.mark.parametrize("header", ["ETag", "X-Linked-ETag"])
@pytest.mark.parametrize("form", ["{}", "W/{}", "../../../{}", "a/../../../../{}", ".{}", "..", ""])
def test_an_etag_names_no_file_outside_the_cache(pull, server, tmp_path, header, form):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    etag = form.format(victim if form.startswith(("{", "W")) else "victim")
    zoo = pull()
    before = sorted(tmp_path.rglob("*"))
    server.fail("HEAD .*bars/supernet", headers={"X-Linked-ETag": "", header: f'"{etag}"'}, times=9)
    with pytest.raises(HubError, match=r"answered with the ETag .*Is this a Hub"):
        weights(zoo)
    with pytest.raises(HubError, match="ETag"):
        zoo.store.place.repository.fetch({"bars/supernet.safetensors": 10**6}, force=True)
    assert victim.read_text() == "mine" and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("status", [None, 404])
@pytest.mark.parametrize("commit", ["{}", "../../../{}", "main", "", "0" * 39])
def test_a_commit_names_no_folder_outside_the_cache(pull, server, tmp_path, commit, status):
    commit = commit.format(tmp_path / "victim" if commit == "{}" else "victim")
    headers = {"X-Repo-Commit": commit}
    if status:
        headers |= {"X-Error-Code": "EntryNotFound"}
    server.fail("HEAD .*index.json", status=status, headers=headers, times=9)
    with pytest.raises(HubError, match="no file 'index.json'" if status else "with the commit"):
        pull()
    assert not list(tmp_path.rglob("*"))


def test_a_push_trusts_no_commit_of_the_server(push, tiny_zoo, server, tmp_path):
    push(tiny_zoo, "org/lying")
    server.repositories["org/lying"].find("main").oid = "../../../victim"
    with pytest.raises(HubError, match=r"newest commit of org/lying is said to be '\.\./"):
        push(tiny_zoo, "org/lying")


def test_missing_things_are_named(pull, server, publish):
    with pytest.raises(HubError, match="no repository 'org/nothing'"):
        pull("org/nothing")
    repo_id = publish({"bars/supernet.safetensors": b""})
    server.put(repo_id, {"bars/supernet.safetensors": None})
    with pytest.raises(HubError, match=f"{repo_id}@.* has no file 'bars/supernet.safetensors'"):
        weights(pull(repo_id))
    server.put("org/other", {"README.md": b"hello"})
    with pytest.raises(HubError, match=r"org/other@main has no file 'index.json'"):
        pull("org/other")


def test_a_refused_token(pull):
    with pytest.raises(HubError, match="refuses access to hf://org/zoo"):
        pull(token="hf_wrong")


def test_a_file_other_than_the_index_says_is_fetched_once_more_and_refused(pull, server, files):
    zoo = pull()
    server.fail("GET /cdn.*bars/supernet", corrupt=True)
    assert weights(zoo)  # the second time it was right
    server.fail("GET /cdn.*spots/supernet", corrupt=True, times=99)
    with pytest.raises(ZooError, match=r"'spots' is not as the zoo's index says.*was changed"):
        weights(zoo, "spots")
    server.reset()
    assert weights(zoo, "spots")  # what was wrong in the cache does not stay


def test_a_damaged_cache_heals(pull, server):
    zoo = pull()
    weights(zoo)
    path = zoo.folder / "bars" / "supernet.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.resolve().write_bytes(data)
    with pytest.raises(ZooError, match="in the cache of the Hub; delete it"):
        weights(pull(local_files_only=True))
    assert weights(pull())


def test_a_bundle_other_than_the_index_says(pull, publish, files):
    data = bytearray(files[BUNDLE])
    data[100] ^= 1
    zoo = pull(publish({BUNDLE: bytes(data)}))
    with pytest.raises(ZooError, match="was changed"):
        zoo["bars"].signature()


def test_the_index_and_the_weights_are_of_one_commit(pull, server, publish, files):
    repo_id = publish(repo_id="org/moving")
    zoo = pull(repo_id)
    changed = files["spots/supernet.safetensors"]
    server.put(repo_id, {"bars/supernet.safetensors": changed})
    for key, tensor in weights(zoo).items():
        np.testing.assert_array_equal(tensor, weights(pull())[key])
    with pytest.raises(ZooError, match="'bars' is not as the zoo's index says"):
        weights(pull(repo_id))


@pytest.mark.parametrize("pattern", ["HEAD .*bars/supernet", "GET /cdn.*bars/supernet"])
def test_a_huge_declared_size_is_refused_unread(pull, server, pattern):
    zoo = pull()
    server.fail(pattern, size=10**13, times=99)
    with pytest.raises(
        ZooError, match=r"is said to have 10000000000000 bytes|too large to be downloaded"
    ):
        weights(zoo)
    assert server.sent < 100_000


def test_a_huge_index_is_refused_unread(pull, server):
    server.fail("HEAD .*index.json", size=10**12, times=99)
    server.fail("GET .*index.json", size=10**12, times=99)
    with pytest.raises(ZooError, match=r"index .* cannot be read: .*(is said to have|too large)"):
        pull()


def test_an_endless_answer_is_cut_off(pull, server, tmp_path):
    zoo = pull()
    server.fail("GET /cdn.*bars/supernet", stream=2**28)
    with pytest.raises(ZooError, match="has more than the 46"):
        weights(zoo)
    kept = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert kept < 2**20


def record(data):
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def with_file(name, file, data):
    """Change an index so that it expects a content."""

    def change(index):
        index["sources"][name]["files"][file] = record(data)
        return index

    return change


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends before its header"),
        (b"12345", "ends before its header"),
        (struct.pack("<Q", 2**62) + b"{}", "declares a header of"),
        (struct.pack("<Q", 4) + b"nope" + b" " * 50, "is not valid JSON"),
        (struct.pack("<Q", 2) + b"[]" + b" " * 50, "header is no mapping"),
        (struct.pack("<Q", 2) + b"{}" + b" " * 50, "not hold the expected tensors: it lacks"),
        (b"\x80\x04}." + b" " * 50, "is not a safetensors file"),
    ],
)
def test_malformed_weights_are_refused(pull, publish, data, message):
    repo_id = publish(
        {"bars/supernet.safetensors": data}, with_file("bars", "supernet.safetensors", data)
    )
    with pytest.raises(ZooError, match=message):
        weights(pull(repo_id))


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "it ran"))


def test_a_planted_pickle_never_runs(pull, publish, files, server, tmp_path):
    crater = tmp_path / "crater"
    bomb = pickle.dumps(Bomb(crater))
    pickle.loads(bomb)
    assert crater.exists()  # it does work
    crater.unlink()
    repo_id = publish(
        {
            "pytorch_model.bin": bomb,
            "bars/supernet.safetensors": bomb,
            "bars/supernet.bin": bomb,
            "bars/config.json": bomb,
            "bars/signature.safetensors": bomb,
        },
        with_file("bars", "supernet.safetensors", bomb),
    )
    zoo = pull(repo_id)
    for read in (weights, Zoo.verify, lambda z: z.save(tmp_path / "copy")):
        try:
            problems = read(zoo)
        except ZooError:
            continue
        assert problems
    for path in files:
        server.put("org/bombs", {path: bomb})
        for name in ("config.json", "model.safetensors", "supernet.safetensors", "model.bin"):
            server.put("org/bombs", {name: bomb})
    with pytest.raises(ZooError):
        pull("org/bombs")
    with pytest.raises(FileError):
        load_model("org/bombs", server, tmp_path)
    assert not crater.exists()


def edit(*keys):
    """Return a function that sets the value at the keys of an index."""
    *keys, value = keys

    def change(index):
        part = index
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
        return index

    change.__name__ = f"{'.'.join(keys)}={value}"
    return change


def rename(new):
    def change(index):
        index["sources"][new] = index["sources"].pop("bars")
        index["sources"][new]["folder"] = new
        return index

    change.__name__ = f"name={new}"
    return change


ORIGIN = {"repo_id": "org/zoo", "commit": "0" * 40, "subfolder": ""}


@pytest.mark.parametrize(
    "change",
    [
        rename("../../x"),
        rename("/etc/x"),
        rename("C:\\x"),
        rename(".hidden"),
        rename("_signatures"),
        edit("sources", "bars", "folder", "../../x"),
        edit("sources", "bars", "folder", "/etc"),
        edit("sources", "bars", "files", "../../x", {"sha256": "0" * 64, "size": 1}),
        edit("sources", "bars", "files", "/etc/passwd", {"sha256": "0" * 64, "size": 1}),
        edit("sources", "bars", "files", "supernet.safetensors", "size", 10**15),
        edit("sources", "bars", "files", "supernet.safetensors", "size", -1),
        edit("sources", "bars", "files", "supernet.safetensors", "sha256", "../../x"),
        edit("bundles", {"../../x": {"sha256": "0" * 64, "size": 1, "sources": []}}),
        edit("bundles", {BUNDLE: {"sha256": "0" * 64, "size": 1, "sources": ["bars"]}}),
        edit("bundles", {BUNDLE: {"sha256": "0" * 64, "size": 0, "sources": ["nobody"]}}),
        edit("bundles", {BUNDLE: {"sha256": "0" * 64, "size": 2**40, "sources": []}}),
        edit("bundles", []),
        edit("sources", "bars", "origin", {**ORIGIN, "repo_id": "../x"}),
        edit("sources", "bars", "origin", {**ORIGIN, "repo_id": "http://127.0.0.1/x"}),
        edit("sources", "bars", "origin", {**ORIGIN, "commit": "main"}),
        edit("sources", "bars", "origin", {**ORIGIN, "subfolder": "../x"}),
        edit("sources", "bars", "origin", {**ORIGIN, "subfolder": "/x"}),
        edit("sources", "bars", "origin", {**ORIGIN, "endpoint": "http://127.0.0.1"}),
        edit("sources", "bars", "surprise", 1),
        edit("sources", []),
        edit("embedder_id", 3),
        edit("format", "another"),
        edit("format_version", 4),
    ],
    ids=lambda change: change.__name__,
)
def test_an_index_of_a_stranger_is_refused(pull, publish, server, change, request):
    with pytest.raises(ZooError) as error:
        pull(publish(index=change, repo_id="org/refused"))
    assert len(str(error.value)) < 1000
    asked = [r.path for r in server.requests if "org/refused" in r.path]  # not late ones of others
    assert asked and all(path.endswith("index.json") for path in asked)
    if "format_version" in str(error.value):
        assert "Update it" in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\x80\x04.", b"[" * 100_000, b'{"format": NaN}', b"[]"])
def test_an_index_that_is_none(pull, publish, data):
    with pytest.raises(ZooError, match=r"index"):
        pull(publish({"index.json": data}))


# Pushing


@pytest.fixture
def push(server):
    def push(zoo, repo_id, **options):
        return zoo.push_to_hub(repo_id, **{"endpoint": server.url, "token": TOKEN, **options})

    return push


@pytest.fixture
def local(tiny_zoo, tmp_path):
    """Return a copy of the zoo, to be written to."""
    return tiny_zoo.save(tmp_path / "local")


def commits(server, repo_id):
    return [c.title for c in server.repositories[repo_id].commits.values()]


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


# Models


def load_model(repo_id, server, tmp_path, **options):
    options = {"endpoint": server.url, "cache_dir": tmp_path / "models", **options}
    return SupernetTransferClassifier.from_pretrained(repo_id, device="cpu", **options)


CARD = {
    "title": "Bars",
    "dataset": "Four kinds of bars",
    "licence": "CC BY 4.0",
    "metrics": {"accuracy": 0.875},
}


@pytest.fixture(scope="module")
def model(server, files, tiny_zoo):
    """A fitted classifier, and where it was pushed to."""
    clf = tiny_classifier(tiny_zoo, "ot").fit(*patterns())
    clf.checkpoint_dir = "/tmp/of/somebody"
    with pytest.warns(UserWarning, match="embedder"):
        clf.push_to_hub("org/model", card=CARD, endpoint=server.url, token=TOKEN)
    return clf


def test_a_model_comes_back_from_the_hub(model, server, tmp_path):
    X = patterns(seed=5)[0]
    loaded = load_model("org/model", server, tmp_path)
    assert loaded.predict_proba(X).tobytes() == model.predict_proba(X).tobytes()
    assert loaded.signature_ is None  # it was not published
    assert loaded.distances_ == model.distances_
    assert "config.json" in server.downloads()  # by which the Hub counts downloads
    commit = server.head("org/model")
    server.reset()
    load_model("org/model", server, tmp_path, revision=commit)
    load_model(f"org/model@{commit}", server, tmp_path, local_files_only=True)
    assert server.requests == []


def test_what_a_model_tells_the_hub(model, server):
    from huggingface_hub import ModelCard

    text = server.get("org/model", "README.md").decode()
    card = ModelCard(text)
    assert card.data.library_name == "supernetnas"
    assert card.data.license == "cc-by-4.0"
    assert card.data.datasets == ["Four kinds of bars"]
    assert card.data.metrics == ["accuracy"]
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.875)
    assert result.task_type == "image-classification"
    assert 'from_pretrained("org/model")' in text and "| search space | s1 |" in text
    assert "| accuracy | 0.875 | given by the authors |" in text
    config = server.get("org/model", "config.json").decode()
    assert "tmp" not in config
    parameters = json.loads(config)["parameters"]
    assert parameters["zoo"] is None and parameters["checkpoint_dir"] is None


def test_a_signature_is_published_if_asked_for(model, server, tmp_path):
    with pytest.warns(UserWarning, match="embedder"):
        model.push_to_hub("org/signed", signature=True, endpoint=server.url, token=TOKEN)
    loaded = load_model("org/signed", server, tmp_path)
    assert loaded.signature_.metadata() == model.signature_.metadata()
    with pytest.warns(UserWarning, match="embedder"):
        model.push_to_hub("org/signed", endpoint=server.url, token=TOKEN)
    assert "signature.safetensors" not in server.paths("org/signed")


def test_models_do_not_replace_what_is_none(model, server):
    for path in ("pytorch_model.bin", "config.json"):
        server.repositories.pop("org/theirs", None)
        server.put("org/theirs", {path: b"{}"})
        with (
            pytest.raises(FileError, match=f"holds '{path}', which is not of a saved classifier"),
            pytest.warns(UserWarning, match="embedder"),
        ):
            model.push_to_hub("org/theirs", endpoint=server.url, token=TOKEN)


@pytest.mark.parametrize(
    "keys",
    [
        ("fitted", "network", "n_cells", 10**9),
        ("fitted", "supernet", "n_cells", 10**9),
        ("fitted", "network", "init_channels", 10**30),
        ("fitted", "network", "n_classes", 10**9),
        ("fitted", "network", None),
        ("format_version", 3),
        ("class", "Pipeline"),
        ("sha256", []),
    ],
    ids=str,
)
def test_a_model_of_a_stranger_is_refused(model, server, tmp_path, keys):
    config = edit(*keys)(json.loads(server.get("org/model", "config.json")))
    changed = {p: server.get("org/model", p) for p in server.paths("org/model")}
    server.repositories.pop("org/strange", None)
    server.put("org/strange", changed | {"config.json": json.dumps(config).encode()})
    with pytest.raises(FileError, match=r"config.json"):
        load_model("org/strange", server, tmp_path)


def test_damaged_models(model, server, tmp_path):
    server.fail("GET .*model.safetensors", corrupt=True)
    load_model("org/model", server, tmp_path)
    server.fail("GET /cdn.*model/resolve.*model.safetensors", corrupt=True, times=99)
    with pytest.raises(FileError, match="is not the file that was saved"):
        load_model("org/model", server, tmp_path / "again")
    server.reset()
    server.fail("HEAD .*model.safetensors", size=10**12, times=99)
    with pytest.raises(FileError, match=r"said to have 1000000000000 bytes|too large to be"):
        load_model("org/model", server, tmp_path / "third")
    with pytest.raises(ValueError, match="needs a repository"):
        load_model(tmp_path, server, tmp_path, revision="v1")


# What others see


@pytest.mark.slow
@pytest.mark.parametrize("where", ["hub", "folder"])
def test_the_example_of_sharing(server, tmp_path, where):
    environment = {"MPLBACKEND": "Agg", "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}
    environment = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    del environment["HF_ENDPOINT"]
    if where == "hub":
        environment["HF_ENDPOINT"] = server.url
    command = [sys.executable, str(ROOT / "examples" / "plot_share_a_zoo.py")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    if where == "hub":
        assert "digits/supernet.safetensors" in server.paths("org/digits-zoo")
        pulled = [path for path in server.downloads() if path.endswith("supernet.safetensors")]
        assert pulled == ["digits/supernet.safetensors"]
        assert "hf://org/digits-zoo@" in result.stdout
    else:
        assert not server.requests


@pytest.mark.slow
def test_through_a_mirror_of_a_third_party(server, tmp_path, files):
    """Pull through ``olah``, a caching mirror of the Hub from PyPI, in front of the server."""
    command = olah(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    netloc = server.url.removeprefix("http://")
    (tmp_path / "olah.toml").write_text(
        f"""[basic]
host = "127.0.0.1"
port = {port}
repos-path = "{tmp_path / "repos"}"
hf-scheme = "http"
hf-netloc = "{netloc}"
hf-lfs-netloc = "{netloc}"
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:{port}"
mirror-lfs-netloc = "127.0.0.1:{port}"
mirrors-path = []

[accessibility]
offline = false

[[accessibility.proxy]]
repo = "*"
allow = true
"""
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [command, "-c", str(tmp_path / "olah.toml")],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(port, process)
        zoo = Zoo.from_pretrained(
            "org/zoo", endpoint=f"http://127.0.0.1:{port}", cache_dir=tmp_path / "cache"
        )
        assert zoo.where == f"hf://org/zoo@{server.head('org/zoo')}"
        clf = tiny_classifier(None, "ot").set_params(zoo=zoo).fit(*patterns())
        assert clf.source_ == "bars"
        assert zoo.save(tmp_path / "saved").verify() == []
        assert {r.path for r in server.requests if "index.json" in r.path}  # it asked for us
    finally:
        process.terminate()
        process.wait()


def olah(folder):
    """Path of the mirror's command, which is installed if it is not there."""
    if (command := shutil.which("olah-cli")) is not None:
        return command
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    install = [folder / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "olah"]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip("olah cannot be installed here")
    return folder / "venv" / "bin" / "olah-cli"


def wait_for(port, process, seconds=120):
    for _ in range(seconds * 10):
        if process.poll() is not None:
            pytest.fail("the mirror ended")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    pytest.fail("the mirror does not answer")
