"""Where results go is tried before long work, and a refusal says what helps."""

import errno
import os
import threading

import pytest

from supernetnas.storage.destinations import check_file, check_folder, user_path, write_file
from supernetnas.storage.files import FileError, clear_temporaries, write_atomic
from supernetnas.storage.formats import dump_csv, dump_json


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_tried_without_a_trace(tmp_path):
    check_folder(tmp_path / "a" / "b")
    assert listing(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot be written to.*choose another folder"):
        check_folder(tmp_path / "file" / "model")
    with pytest.raises(OSError, match=r"cannot be written to.*Choose a shorter name"):
        check_folder(tmp_path / "a" / ("x" * 256))
    assert listing(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["mkdir", "fsync"])
def test_a_folder_that_refuses(tmp_path, monkeypatch, step):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "there")

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(PermissionError, match=r"model cannot be written to.*You may not write"):
        check_folder(tmp_path / "model")
    assert listing(tmp_path) == []


def test_a_file_is_tried_without_a_trace(tmp_path):
    (tmp_path / "old.csv").write_text("old")
    for name in ("old.csv", "new.csv", "x" * 255):
        check_file(tmp_path / name, "--csv")
    assert listing(tmp_path) == ["old.csv"]
    assert (tmp_path / "old.csv").read_text() == "old"
    with pytest.raises(OSError, match=r"--csv .*Choose a shorter name"):
        check_file(tmp_path / ("x" * 256), "--csv")
    with pytest.raises(IsADirectoryError, match=r"--csv .*is a folder"):
        check_file(tmp_path, "--csv")
    with pytest.raises(FileNotFoundError, match=r"--csv .*no such folder"):
        check_file(tmp_path / "none" / "p.csv", "--csv")
    assert listing(tmp_path) == ["old.csv"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "p.csv").symlink_to(tmp_path / "far" / "p.csv")
    check_file(tmp_path / "p.csv", "--csv")
    write_file(tmp_path / "p.csv", b"text")
    assert (tmp_path / "p.csv").is_symlink()
    assert (tmp_path / "far" / "p.csv").read_bytes() == b"text"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    check_file(tmp_path / "pipe", "--csv")
    write_file(tmp_path / "pipe", b"text")
    reader.join()
    assert got == [b"text"]
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_that_is_a_mount_point_is_written_to(tmp_path, monkeypatch):
    def busy(*_):
        raise OSError(errno.EBUSY, "Device or resource busy")

    (tmp_path / "p.csv").write_text("old and longer")
    monkeypatch.setattr(os, "replace", busy)
    write_file(tmp_path / "p.csv", b"new")
    assert (tmp_path / "p.csv").read_bytes() == b"new"
    assert listing(tmp_path) == ["p.csv"]


@pytest.mark.parametrize("name", ["x" * 250, "ä" * 120, "[a]*?.csv"])
def test_names_that_leave_no_room_or_are_patterns(tmp_path, name):
    write_atomic(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"

    def cut(*_):
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(os, "replace", cut)
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        write_atomic(tmp_path / name, "half")
    assert len(listing(tmp_path)) == 2
    clear_temporaries(tmp_path / name)
    assert listing(tmp_path) == [name]


@pytest.mark.parametrize("path", ["~/model", "~nobody-of-this-name/model"])
def test_a_home_folder_that_nobody_knows(monkeypatch, path):
    monkeypatch.delenv("HOME", raising=False)
    pwd = pytest.importorskip("pwd")

    def unknown(_):
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(FileError, match=f"'{path}' begins with a home folder.*HOME"):
        user_path(path)


def test_text_that_is_no_unicode_is_refused():
    for value in ("caf\udce9", {"caf\udce9": 1}, ["a", "caf\udce9"]):
        with pytest.raises(TypeError, match="not valid Unicode"):
            dump_json(value)
        with pytest.raises(TypeError, match="not valid Unicode"):
            dump_csv([{"a": value} if isinstance(value, str) else {"caf\udce9": 1}])
