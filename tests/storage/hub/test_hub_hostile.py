"""A mirror of the Hub that is hostile."""

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("huggingface_hub")


from hub_zoo import BUNDLE, edit, load_model, weights

from supernetnas import Zoo, ZooError
from supernetnas.storage.files import FileError
from supernetnas.storage.hub import HubError

pytestmark = [
    pytest.mark.hub,
    # What the library says to a size that is a lie, before we refuse it.
    pytest.mark.filterwarnings("ignore:Not enough free disk space"),
]


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
