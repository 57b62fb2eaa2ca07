"""A folder has its old content or the new, wherever it is and whatever interrupts the writer."""

import contextlib
import errno
import os
import signal
import subprocess
import threading

import filelock
import pytest

from supernetnas.storage import files, folders
from supernetnas.storage.files import FileError
from supernetnas.storage.folders import READY, read_member, replace_content

NAMES = {"config.json", "model", "signature", "README"}
OLD = {"config.json": b"old", "model": b"old model", "signature": b"old signature"}
NEW = {"config.json": b"new", "model": b"new model", "README": b"new"}
STEPS = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync")


def write(folder, contents):
    replace_content(folder, contents, NAMES, "config.json")


def read(folder):
    """The content that a reader finds, by its manifest; None if there is none."""
    try:
        manifest = read_member(folder, "config.json", limit=100)
    except FileError:
        return None
    wanted = OLD if manifest == b"old" else NEW
    return {name: read_member(folder, name, limit=100) for name in wanted}


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def failing(patch, at, fail, *, before=True):
    """Let the ``at``-th system call of a writer fail; returns a list of the calls to come."""
    calls = []
    for step in STEPS:
        original = getattr(os, step)

        def call(*args, _original=original, **kwargs):
            calls.append(args)
            fails = len(calls) == at
            if fails and before:
                fail()
            try:
                return _original(*args, **kwargs)
            finally:
                if fails:
                    fail()

        patch.setattr(os, step, call)
    return calls


def raising(error):
    def fail():
        raise error

    return fail


def test_the_content_is_replaced(tmp_path):
    folder = tmp_path / "a" / "b"
    write(folder, OLD)
    assert listing(folder) == OLD
    identity = folder.stat().st_ino
    write(folder, NEW)
    assert listing(folder) == NEW
    assert folder.stat().st_ino == identity


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
# Other tests' threads; the child does nothing with them.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("old", [None, OLD], ids=["into nothing", "over another"])
def test_a_kill_at_every_step(tmp_path, old, before, monkeypatch):
    seen = []
    for at in range(1, 100):
        folder = tmp_path / str(at)
        if old:
            write(folder, old)
        child = os.fork()
        if not child:
            failing(monkeypatch, at, lambda: os.kill(os.getpid(), signal.SIGKILL), before=before)
            write(folder, NEW)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seen.append(read(folder))
        assert seen[-1] in (old, NEW)
        if status == 0:
            break
        write(folder, OLD)  # the next writer finishes or clears what is there
        assert listing(folder) == OLD
    assert status == 0
    assert at > 15
    assert seen == sorted(seen, key=lambda content: content == NEW)  # never back
    assert listing(folder) == NEW


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "broken")])
@pytest.mark.parametrize("old", [None, OLD], ids=["into nothing", "over another"])
def test_an_error_at_every_step(tmp_path, old, error, monkeypatch):
    for at in range(1, 100):
        folder = tmp_path / str(at)
        if old:
            write(folder, old)
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt, OSError):
            calls = failing(patch, at, raising(error))
            write(folder, NEW)
        assert read(folder) in (old, NEW)
        if read(folder) == old:  # and there is no trace of the other
            assert (listing(folder) if folder.exists() else None) == old
        if len(calls) < at:
            break
        write(folder, OLD)
        assert listing(folder) == OLD
    assert at > 15
    assert listing(folder) == NEW


def test_a_reader_finds_every_content_while_it_is_replaced(tmp_path, monkeypatch):
    write(tmp_path, OLD)
    seen, replace = [], os.replace

    def looking(*args):
        seen.append(read(tmp_path))
        replace(*args)
        seen.append(read(tmp_path))

    monkeypatch.setattr(os, "replace", looking)
    write(tmp_path, NEW)
    assert len(seen) == 2 * len(NEW)
    assert all(content == NEW for content in seen)


def test_a_file_that_moves_while_it_is_looked_for(tmp_path, monkeypatch):
    """The reader saw it in `READY`, from where it was moved up before it was opened."""
    (tmp_path / READY).mkdir()
    (tmp_path / READY / "model").write_bytes(b"new model")
    (tmp_path / "model").write_bytes(b"old model")

    def moving(path, **arguments):
        if path.parent.name == READY:
            os.replace(path, tmp_path / "model")
        return files.read_bytes(path, **arguments)

    monkeypatch.setattr(folders, "read_bytes", moving)
    assert read_member(tmp_path, "model", limit=100) == b"new model"


def test_what_killed_writers_left_is_cleared(tmp_path):
    write(tmp_path, OLD)
    (tmp_path / ".tmp-0123").mkdir()
    (tmp_path / ".tmp-0123" / "model").write_bytes(b"half")
    (tmp_path / ".tmp-4567-config.json").write_bytes(b"half")
    (tmp_path / ".tmp-lock").touch()
    write(tmp_path, NEW)
    assert listing(tmp_path) == NEW


@pytest.mark.parametrize("step", ["unlink", "rmdir"])
def test_what_cannot_be_cleared_ends_no_save(tmp_path, monkeypatch, step):
    def busy(*_, **__):
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    write(tmp_path, OLD)
    (tmp_path / ".tmp-0123").mkdir()
    (tmp_path / ".tmp-0123" / "model").touch()
    (tmp_path / ".tmp-4567-model").touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, step, busy)
        write(tmp_path, NEW)
        assert read(tmp_path) == NEW
        write(tmp_path, OLD)
        assert read(tmp_path) == OLD
    write(tmp_path, NEW)
    assert listing(tmp_path) == NEW


def test_one_writer_waits_for_another(tmp_path, monkeypatch):
    write(tmp_path, OLD)
    (tmp_path / ".tmp-0123").mkdir()  # the other one's
    monkeypatch.setattr(folders, "LOCK_TIMEOUT", 0.05)
    with (
        filelock.FileLock(tmp_path / ".tmp-lock"),
        pytest.raises(FileError, match="Another process has been writing to"),
    ):
        write(tmp_path, NEW)
    assert (tmp_path / ".tmp-0123").exists()
    assert read(tmp_path) == OLD


def test_many_writers_and_a_reader(tmp_path):
    write(tmp_path, OLD)
    errors = []

    def repeat():
        try:
            for _ in range(5):
                write(tmp_path, OLD)
                write(tmp_path, NEW)
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=repeat) for _ in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert read_member(tmp_path, "config.json", limit=100) in (b"old", b"new")
    for writer in writers:
        writer.join()
    assert errors == []
    assert listing(tmp_path) == NEW


# Where the folder is


def test_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, OLD)
    assert set(os.listdir(".")) == OLD.keys()


@pytest.mark.parametrize("name", ["x" * 240, "ä" * 127], ids=["240 letters", "254 bytes"])
def test_long_names(tmp_path, name):
    write(tmp_path / name, OLD)
    write(tmp_path / name, NEW)
    assert listing(tmp_path / name) == NEW


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
def test_the_rights_of_a_folder_stay(tmp_path):
    tmp_path.chmod(0o2770)
    if os.geteuid() == 0:
        os.chown(tmp_path, -1, 12345)
        tmp_path.chmod(0o2770)
    before = tmp_path.stat()
    write(tmp_path, OLD)
    after = tmp_path.stat()
    assert (after.st_mode, after.st_gid) == (before.st_mode, before.st_gid)
    assert {path.stat().st_gid for path in tmp_path.iterdir()} == {before.st_gid}


def mount(folder, options):
    """Mount a file system of the memory on a folder; skips where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    try:
        allowed = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        allowed = False
    if not allowed:
        pytest.skip("mounting is not allowed here")


def unmount(folder):
    subprocess.run(["umount", str(folder)], check=True)


def test_a_mount_point(tmp_path):
    mount(tmp_path, "size=1M")
    try:
        write(tmp_path, OLD)
        write(tmp_path, NEW)
        assert listing(tmp_path) == NEW
    finally:
        unmount(tmp_path)


def test_a_full_disk(tmp_path):
    mount(tmp_path, "size=64k")
    try:
        write(tmp_path, OLD)
        with pytest.raises(OSError, match=r"No space left on device: '.*model'"):
            write(tmp_path, {**NEW, "model": b"x" * 2**17})
        assert listing(tmp_path) == OLD
    finally:
        unmount(tmp_path)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_without_fsync(tmp_path, monkeypatch, number):
    def fsync(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path, OLD)
    files.write_atomic(tmp_path / "file", "text")
    assert listing(tmp_path) == {**OLD, "file": b"text"}


def test_a_disk_that_does_not_write_is_no_such_file_system(tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"broken: '.*file'"):
        files.write_atomic(tmp_path / "file", "text")
    assert listing(tmp_path) == {}
