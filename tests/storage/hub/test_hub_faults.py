"""A Hub that fails, and a cache that stands in for it."""

import errno
import sys
import time
from pathlib import Path

import pytest
from tiny import patterns, tiny_classifier

pytest.importorskip("huggingface_hub")


from hub_zoo import weights

from supernetnas import SupernetTransferClassifier, Zoo
from supernetnas.storage.hub import HubError
from supernetnas.storage.hub_cache import CacheFolder

pytestmark = [
    pytest.mark.hub,
    # What the library says to a size that is a lie, before we refuse it.
    pytest.mark.filterwarnings("ignore:Not enough free disk space"),
]


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


def test_a_full_disk_is_named(pull, server, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CacheFolder, "add", full)
    with pytest.raises(HubError, match=r"index\.json of .*org/zoo.* into the cache .*org--zoo"):
        pull()


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
