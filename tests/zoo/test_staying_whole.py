"""A zoo stays whole though writers are interrupted, killed, refused by the disk, or several."""

import json
import multiprocessing
import os
import shutil
import threading

import pytest
import torch
from random_zoo import EMBEDDER, add, make_signature, make_state, snapshot

from supernetnas.storage import folders
from supernetnas.zoo import Zoo, ZooError, writing
from supernetnas.zoo.index import Index

# Writers that do not come to their end


@pytest.mark.parametrize("name", ["bees", "birds"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["write_new", "rename", "index", "after the index"])
def test_an_interrupted_add_leaves_a_whole_zoo(zoo, monkeypatch, name, error, step):
    before = snapshot(zoo.folder)
    calls = []

    def interrupt(*args):
        calls.append(args)
        if step != "write_new" or len(calls) == 3:
            raise error
        real_write_new(*args)

    real_write_new, real_write = folders.write_new, Index.write

    def write_then_interrupt(self, folder):
        real_write(self, folder)
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        if step == "write_new":
            patch.setattr(folders, "write_new", interrupt)
        elif step == "rename":
            patch.setattr(os, "rename", interrupt)
        elif step == "index":
            patch.setattr(Index, "write", interrupt)
        else:
            patch.setattr(Index, "write", write_then_interrupt)
        add(zoo, name, 4, overwrite=True)

    reopened = Zoo.open(zoo.folder)
    if step != "after the index":
        assert snapshot(zoo.folder) == before
        assert reopened.verify() == []
    else:
        assert reopened[name].verify() == []
    add(reopened, name, 4, overwrite=True)
    assert torch.equal(reopened[name].state_dict()["stem.0.weight"], make_state(4)["stem.0.weight"])
    assert reopened.verify() == []


def test_what_a_killed_writer_left_is_cleared(zoo):
    (zoo.folder / ".tmp-0123-bees").mkdir()
    (zoo.folder / ".tmp-0123-bees" / "config.json").write_text("{")
    (zoo.folder / ".tmp-4567-index.json").write_text("{")
    shutil.copytree(zoo.folder / "birds", zoo.folder / "bees")  # renamed, not yet in the index
    problems = zoo.verify()
    assert len(problems) == 3
    add(zoo, "bees")
    assert zoo.verify() == []


class Killed(BaseException):
    """What ends a writer so suddenly that it clears nothing."""


@pytest.mark.parametrize("change", ["add", "overwrite", "remove"])
@pytest.mark.parametrize("at", ["before the index", "after the index"])
def test_folders_of_a_killed_writer_are_cleared_by_the_next(zoo, monkeypatch, change, at):
    real_write, before = Index.write, snapshot(zoo.folder)

    def killed(self, folder):
        if at == "after the index":
            real_write(self, folder)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Index, "write", killed)
        patch.setattr("supernetnas.zoo.store.clear_leftovers", lambda *_: None)
        if change == "remove":
            zoo.remove("birds")
        else:
            add(zoo, "bees" if change == "add" else "birds", 4, overwrite=True)
    reopened = Zoo.open(zoo.folder)
    changed = at == "after the index"
    assert ("bees" in reopened) == (changed and change == "add")
    assert ("birds" in reopened) == (not changed or change != "remove")
    assert reopened.verify() != []
    assert all("next one clears it" in problem for problem in reopened.verify())
    with pytest.raises(ZooError, match="no source 'wasps'"):
        reopened.remove("wasps")  # even a writer that changes nothing
    assert reopened.verify() == []
    if not changed:
        assert snapshot(zoo.folder) == before


def test_a_note_clears_only_what_a_writer_may_have_left(zoo, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("mine")
    (zoo.folder / "bees").mkdir()
    (zoo.folder / "bees" / "thesis.tex").write_text("years of work")
    names = ["bees", "birds", "index.json", ".", "..", "../mine", str(tmp_path / "mine")]
    for noted in (names, *names, {}, 3):
        (zoo.folder / ".tmp-folders").write_text(json.dumps(noted))
        with pytest.raises(ZooError, match="no source"):
            zoo.remove("wasps")
        assert (zoo.folder / "bees" / "thesis.tex").exists()
        assert (tmp_path / "mine" / "config.json").exists()
        assert Zoo.open(zoo.folder)["birds"].verify() == []


# Places that refuse


def test_a_card_that_cannot_be_written_does_not_undo_a_change(zoo, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("supernetnas.zoo.store.write_atomic", full)
    with pytest.warns(UserWarning, match=r"was changed, but not its README\.md: .*No space"):
        add(zoo, "bees")
    assert Zoo.open(zoo.folder)["bees"].verify() == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(28, "The disk is full"), (30, "read only: choose another"), (13, "may not write there")],
)
def test_a_zoo_that_cannot_be_written_to_says_what_to_do(
    zoo, tmp_path, monkeypatch, number, remedy
):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), "there")

    before = snapshot(zoo.folder)
    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_new", refuse)
        with pytest.raises(ZooError, match=f"{zoo.folder} cannot be written to.*{remedy}"):
            add(zoo, "bees")
    assert snapshot(zoo.folder) == before
    with monkeypatch.context() as patch:
        patch.setattr("filelock.FileLock.acquire", refuse)
        with pytest.raises(ZooError, match=f"cannot be written to.*Zoo.save.*{remedy}"):
            zoo.remove("birds")
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refuse)
        with pytest.raises(ZooError, match=f"new cannot be made.*{remedy}"):
            Zoo.create(tmp_path / "new", embedder_id=EMBEDDER)


def test_a_home_folder_that_nobody_knows(monkeypatch):
    def nowhere(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", nowhere)
    for make in (Zoo.open, lambda path: Zoo.create(path, embedder_id=EMBEDDER)):
        with pytest.raises(ZooError, match=r"'~/zoo' begins with a home folder.*HOME"):
            make("~/zoo")


def test_a_folder_in_the_way_is_not_deleted(zoo):
    (zoo.folder / "bees").mkdir()
    (zoo.folder / "bees" / "thesis.tex").write_text("years of work")
    with pytest.raises(ZooError, match="in the way"):
        add(zoo, "bees")
    assert (zoo.folder / "bees" / "thesis.tex").read_text() == "years of work"


# Several at once


def add_some(folder, names, barrier):
    torch.set_num_threads(1)
    zoo = Zoo.open(folder)
    state, signature = make_state(), make_signature()
    barrier.wait()
    for name in names:
        add(zoo, name, state_dict=state, signature=signature)


def test_two_processes_add_at_once_and_keep_each_others_sources(zoo):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    groups = [[f"{letter}{i}" for i in range(5)] for letter in "xy"]
    processes = [
        context.Process(target=add_some, args=(zoo.folder, names, barrier)) for names in groups
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert set(Zoo.open(zoo.folder, verify="full")) == {*zoo, *groups[0], *groups[1]}


def test_threads_add_at_once(zoo):
    names = [f"thread{i}" for i in range(4)]
    state, signature = make_state(), make_signature()
    threads = [
        threading.Thread(
            target=add, args=(zoo, name), kwargs={"state_dict": state, "signature": signature}
        )
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(names) <= set(Zoo.open(zoo.folder, verify="full"))


def test_a_lock_that_is_held_is_named(zoo, monkeypatch):
    monkeypatch.setattr(writing, "LOCK_TIMEOUT", 0.05)
    with writing.locked(zoo.folder), pytest.raises(ZooError, match="Another process"):
        zoo.remove("birds")
