"""Sources are pretrained side by side, lose nothing when workers die, and end up the same."""

import os
import signal
import sys
import time
from dataclasses import replace

import joblib
import numpy as np
import pytest
import torch
from tiny_pretraining import TINY, assert_same_zoo, make, pretrain

from supernetnas import cli
from supernetnas.pretraining.jobs import _check_threads
from supernetnas.zoo import Zoo


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A zoo whose sources were pretrained one after the other."""
    return pretrain(tmp_path_factory.mktemp("zoos") / "zoo", n_threads=1)


class Epochs:
    """Writes down which process ran each epoch; picklable."""

    def __init__(self, folder):
        folder.mkdir(exist_ok=True)
        self.folder = folder

    def __call__(self, search):
        name = f"{os.getpid()}-{torch.get_num_threads()}-{time.monotonic_ns()}"
        (self.folder / name).write_text("")

    def read(self):
        """Process and number of threads of every epoch."""
        return [tuple(map(int, p.name.split("-")[:2])) for p in self.folder.iterdir()]


class KilledOnce(Epochs):
    """Kills the process after the first epoch of all, as the out-of-memory killer does."""

    def __call__(self, search):
        super().__call__(search)
        try:
            (self.folder.parent / "killed").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


class TestLocalProcesses:
    def test_two_jobs_give_what_one_gives(self, whole, tmp_path):
        epochs = Epochs(tmp_path / "epochs")
        zoo = pretrain(tmp_path / "zoo", n_jobs=2, n_threads=1, on_epoch=epochs)
        assert_same_zoo(whole, zoo)
        assert zoo.verify() == []
        assert not (zoo.folder / ".pretraining").exists()
        processes = {process for process, _ in epochs.read()}
        assert 1 <= len(processes) <= 2  # one may be done before the other has started
        assert os.getpid() not in processes

    def test_threads_do_not_depend_on_the_jobs(self, tmp_path):
        """joblib would give each of two workers half of the CPUs."""
        before = torch.get_num_threads()
        for n_jobs in (1, 2):
            epochs = Epochs(tmp_path / f"epochs{n_jobs}")
            pretrain(tmp_path / f"{n_jobs}", n_jobs=n_jobs, n_threads=1, on_epoch=epochs)
            assert {threads for _, threads in epochs.read()} == {1}
        assert torch.get_num_threads() == before

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
    def test_work_of_a_killed_worker_is_finished(self, whole, tmp_path):
        epochs = KilledOnce(tmp_path / "epochs")
        zoo = pretrain(tmp_path / "zoo", n_jobs=2, n_threads=1, on_epoch=epochs)
        assert (tmp_path / "killed").exists()
        assert_same_zoo(whole, zoo)
        # Of each source two epochs, none twice: each was saved before the worker died. The other
        # worker may have been stopped between an epoch and its report.
        assert len(epochs.read()) in (5, 6)

    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_errors_are_raised_when_the_rest_is_finished(self, whole, tmp_path, n_jobs):
        with pytest.raises(ArithmeticError, match="source of three classes") as caught:
            pretrain(tmp_path / "zoo", n_jobs=n_jobs, n_threads=1, on_epoch=fail_on_three_classes)
        assert caught.value.__notes__ == ["While source 'b' was pretrained."]
        assert Zoo.open(tmp_path / "zoo").names == ["a", "multi"]
        assert_same_zoo(whole, pretrain(tmp_path / "zoo", n_jobs=n_jobs, n_threads=1))

    @pytest.mark.slow
    def test_a_task_that_kills_every_worker_ends_the_call(self, tmp_path):
        # Each attempt gets an epoch further: of two epochs, the checkpoint would soon have both.
        long = replace(TINY, min_epochs=30)
        with pytest.raises(joblib.externals.loky.process_executor.TerminatedWorkerError):
            pretrain(
                tmp_path / "zoo",
                n_jobs=2,
                n_threads=1,
                on_epoch=kill_on_three_classes,
                pretraining=long,
            )
        assert "b" not in Zoo.open(tmp_path / "zoo")

    def test_command_line(self, tmp_path, capsys):
        for number, name in enumerate("ab"):
            dataset = make(name, number)
            np.savez(tmp_path / f"{name}.npz", X=dataset.images, y=dataset.labels)
        small = "--set init_channels=4 --set n_cells=3 --image-size 8 --steps 1 --min-epochs 1 "
        small += "--no-multi --quiet"
        arguments = ["zoo", "pretrain", str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]
        arguments += ["--out", str(tmp_path / "zoo"), "--jobs", "2", "--threads", "1"]
        assert cli.main([*arguments, *small.split()]) == 0
        assert Zoo.open(tmp_path / "zoo", verify="full").names == ["a", "b"]
        assert capsys.readouterr().out.count("single") == 2

    def test_numbers_are_checked(self, tmp_path):
        for wrong in ({"n_jobs": 0}, {"n_jobs": "all"}, {"n_threads": 0}, {"n_threads": 1.5}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                pretrain(tmp_path / "zoo", **wrong)
        assert not (tmp_path / "zoo").exists()

    def test_too_many_threads_are_noticed(self, monkeypatch):
        monkeypatch.setattr(os, "cpu_count", lambda: 4)
        with pytest.warns(UserWarning, match=r"2 supernets with 3 threads .* 4 CPUs .*n_threads=2"):
            _check_threads(2, 3)
        _check_threads(2, 2)
        with joblib.parallel_config(backend="threading"):
            _check_threads(2, 3)


def fail_on_three_classes(search):
    if search.supernet.config.n_classes == 3:
        raise ArithmeticError("no source of three classes today")


def kill_on_three_classes(search):
    if search.supernet.config.n_classes == 3:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
class TestClusters:
    @pytest.mark.parametrize("kill", [False, True])
    def test_dask(self, whole, tmp_path, kill):
        distributed = pytest.importorskip("distributed")
        epochs = (KilledOnce if kill else Epochs)(tmp_path / "epochs")
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=":0"
            ) as cluster,
            distributed.Client(cluster),
            joblib.parallel_config(backend="dask"),
        ):
            zoo = pretrain(tmp_path / "zoo", n_threads=1, on_epoch=epochs)
        assert (tmp_path / "killed").exists() == kill
        assert_same_zoo(whole, zoo)
        assert os.getpid() not in {process for process, _ in epochs.read()}

    @pytest.mark.parametrize("kill", [False, True])
    def test_ray(self, whole, tmp_path, kill):
        ray = pytest.importorskip("ray")
        from ray.util.joblib import register_ray

        register_ray()
        epochs = (KilledOnce if kill else Epochs)(tmp_path / "epochs")
        # Its workers import this module, which is not installed.
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
        try:
            with joblib.parallel_config(backend="ray"):
                zoo = pretrain(tmp_path / "zoo", n_jobs=2, n_threads=1, on_epoch=epochs)
        finally:
            ray.shutdown()
        assert (tmp_path / "killed").exists() == kill
        assert_same_zoo(whole, zoo)
        assert os.getpid() not in {process for process, _ in epochs.read()}
