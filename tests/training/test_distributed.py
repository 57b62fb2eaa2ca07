"""Several processes train one supernet as one process would."""

import dataclasses
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tiny_pretraining import TINY, make

from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.search.bilevel import BilevelSearch
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.pretraining.multi_dataset import MixedImages
from supernetnas.pretraining.sources import pretrain_multi
from supernetnas.training.batches import LabelledImages
from supernetnas.training.checkpoints import load_checkpoint, save_checkpoint
from supernetnas.training.distributed import ALONE, Processes, is_first
from supernetnas.training.seeds import seeded_modules
from supernetnas.training.steps import cosine_schedule, evaluate
from supernetnas.zoo import Zoo

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")

SIZES = (11, 14)  # images of the two datasets, 2 and 3 classes: neither sum nor parts are even
LONGER = dataclasses.replace(TINY, multi_epochs=3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Doubles(MixedImages):
    def augmented(self, index, generator):
        return super().augmented(index, generator).double()

    def clean(self, index):
        return super().clean(index).double()


def data(seed, processes=ALONE, shift=0.0, kind=Doubles):
    """Two datasets of unequal size, of which the second is augmented."""
    parts, labels = [], []
    for number, n in enumerate(SIZES):
        pixels = torch.randn(n, 3, 8, 8, generator=seeded(10 * seed + number))
        augmentation = Augmentation(shift if number else 0.0)
        parts.append(ImageTensors(pixels, torch.zeros(3), torch.ones(3), augmentation))
        labels.append(torch.arange(n) % (2 + number) + 2 * number)
    return LabelledImages(kind(parts, processes), torch.cat(labels))


def build(space="s1", cells=3):
    with seeded_modules(0):
        return CellSupernet(SupernetConfig(space, 2, cells, (8, 8), 3, 5)).double()


def search(processes=ALONE, *, shift=0.0, space="s1", cells=3, **settings):
    settings = SearchSettings(**{"epochs": 2, "batch_size": 8, "learning_rate": 0.1, **settings})
    return BilevelSearch(
        build(space, cells),
        data(1, processes, shift),
        data(2, processes, shift),
        settings,
        seeded(),
        processes=processes,
        dataset_of_class=torch.tensor([0, 0, 1, 1, 1]),
    )


SEARCHES = {
    "plain": {"perturbation": "none"},
    "random": {"shift": 0.25, "cells": 1},
    "adversarial": {"perturbation": "adversarial", "space": "s4", "shift": 0.25, "cells": 1},
}


def run_searches(rank, size, folder):
    """What each process of a group does."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting{size}", rank=rank, world_size=size
    )
    processes = Processes(rank, size)
    if size == 2:
        for name, arguments in SEARCHES.items():
            one = search(processes, **arguments)
            one.run_epoch()
            save_checkpoint(folder / f"{name}{rank}", *one.state())
        assert processes.any(rank == 1)
        assert not processes.any(False)
        assert processes.sum(torch.tensor([rank + 1.0])).tolist() == [3.0]
        averaged = processes.average([torch.full((2, 3), float(rank)), None, torch.ones(1)])
        assert averaged[0].tolist() == [[0.5] * 3] * 2
        assert averaged[1] is None
        assert averaged[2].tolist() == [1.0]
        with pytest.raises(RuntimeError, match=r"differ in the weather: \[0, 1\]"):
            processes.check_same(rank, "the weather")
        with pytest.raises(ValueError, match="2 processes need at least 4 images"):
            processes.check_enough(100, 3)
    datasets = [make("b", 1, 3), make("a", 2, 2)]
    stops = 2 if size == 2 else 3
    one = pretrain_multi(
        datasets,
        LONGER,
        folder / "multi.ckpt",
        device="cpu",
        on_epoch=lambda search: search.epoch == stops,
    )
    assert one.processes.size == size
    save_checkpoint(folder / f"multi{size}{rank}", *one.state())
    dist.destroy_process_group()


def start(size, folder):
    """Run processes that need not import torch again, where the system can."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    if method == "forkserver":
        multiprocessing.set_forkserver_preload(["pytest", "supernetnas.pretraining.sources"])
    torch.multiprocessing.start_processes(
        run_searches, (size, folder), nprocs=size, start_method=method
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left, and then three that went on."""
    folder = tmp_path_factory.mktemp("ranks")
    start(2, folder)
    (folder / "after2").write_bytes((folder / "multi.ckpt").read_bytes())
    start(3, folder)
    return folder


def assert_equal_states(first, second):
    (tensors, state), (others, other) = first, second
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]) or name == "noise", name
    timeless = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in one["history"]]
        for one in (state, other)
    ]
    assert timeless[0] == timeless[1]


class TestTwoProcesses:
    @pytest.mark.parametrize("name", SEARCHES)
    def test_all_processes_end_up_the_same(self, folder, name):
        """Weights, alphas, statistics, optimizers, draws and history, to the last bit."""
        assert_equal_states(*(load_checkpoint(folder / f"{name}{rank}") for rank in (0, 1)))

    def test_an_epoch_is_that_of_one_process_which_averages_two_halves(self, folder):
        """Every step anew, with plain autograd on the halves of each batch."""
        supernet, generator = build(), seeded()
        torch.randint(2**31 - 1, (), generator=generator)  # the seed of the noise
        train, validation = data(1), data(2)
        n = len(train) - 1
        halves = [
            [
                part.tensor_split(3)
                for part in torch.randperm(n + 1, generator=generator)[:n].view(-1, 2).T
            ]
            for _ in range(2)
        ]
        owner = torch.tensor([0, 0, 1, 1, 1])

        def gradients(parameters, images, index):
            total = [torch.zeros_like(parameter) for parameter in parameters]
            losses = []
            for half in index:
                scores, labels = supernet(images.images.clean(half)), images.labels[half]
                masked = scores.float().masked_fill(
                    owner[None] != owner[labels][:, None], -torch.inf
                )
                loss = F.cross_entropy(masked, labels)
                for sum_, g in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                    sum_ += g / 2
                losses.append(loss.item() * len(half))
            return total, losses

        alphas, weights = supernet.alpha_parameters(), supernet.weight_parameters()
        adam = torch.optim.Adam(alphas, lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
        sgd = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=3e-4)
        losses = []
        for step in range(3):
            first, second = ([half[step] for half in part] for part in halves)
            for alpha, g in zip(alphas, gradients(alphas, validation, second)[0], strict=True):
                alpha.grad = g
            adam.step()
            sgd.param_groups[0]["lr"] = cosine_schedule(step / 6, 0.1, 0.001, 0.1)
            found, of_step = gradients(weights, train, first)
            for weight, g in zip(weights, found, strict=True):
                weight.grad = g
            losses += of_step
            torch.nn.utils.clip_grad_norm_(weights, 5.0)
            sgd.step()
        tensors, state = load_checkpoint(folder / "plain0")
        for name, parameter in supernet.named_parameters():
            torch.testing.assert_close(
                tensors[f"supernet.{name}"], parameter.detach(), rtol=0, atol=1e-9
            )
        assert state["history"][0]["train_loss"] == pytest.approx(
            sum(losses) / n, rel=1e-6
        )  # of float32

    def test_a_step_is_not_that_of_a_whole_batch(self, folder):
        """Else the test above would show nothing: batch norm sees half a batch."""
        alone = search(**SEARCHES["plain"])
        alone.run_epoch()
        tensors, _ = load_checkpoint(folder / "plain0")
        difference = tensors["supernet.stem.0.weight"] - alone.supernet.stem[0].weight
        assert difference.abs().max() > 1e-4

    def test_statistics_are_the_mean_of_both(self, folder):
        tensors, _ = load_checkpoint(folder / "plain0")
        assert tensors["supernet.stem.1.num_batches_tracked"] == 6
        module = torch.nn.BatchNorm2d(2)
        module.running_mean.copy_(torch.tensor([1.0, 2.0]))

        class Mean(Processes):
            def mean(self, tensor):
                return (tensor + torch.tensor([3.0, 3.0, 2.0, 2.0])) / 2

        Mean(0, 2).average_statistics(module)
        assert module.running_mean.tolist() == [2.0, 2.5]
        assert module.running_var.tolist() == [1.5, 1.5]


class TestAnotherNumberOfProcesses:
    def test_three_go_on_where_two_stopped(self, folder):
        states = [load_checkpoint(folder / f"multi3{rank}") for rank in range(3)]
        assert_equal_states(states[0], states[1])
        assert_equal_states(states[0], states[2])
        after2 = load_checkpoint(folder / "after2")[1]["history"]
        history = states[0][1]["history"]
        assert len(after2) == 2
        assert len(history) == 3
        assert history[:2] == after2
        assert np.isfinite(history[2]["train_loss"])

    def test_one_goes_on_where_two_stopped(self, folder, tmp_path):
        (tmp_path / "c").write_bytes((folder / "after2").read_bytes())
        datasets = [make("b", 1, 3), make("a", 2, 2)]
        one = pretrain_multi(datasets, LONGER, tmp_path / "c", device="cpu")
        assert one.processes is ALONE
        assert [row["epoch"] for row in one.history] == [1, 2, 3]
        assert one.history[:2] == load_checkpoint(folder / "after2")[1]["history"]


class TestAlone:
    def test_nothing_changes(self):
        module, tensor = torch.nn.BatchNorm2d(2), torch.ones(2)
        gradients = [tensor, None]
        assert ALONE.sum(tensor) is tensor
        assert ALONE.average(gradients)[0] is tensor
        assert ALONE.own_part(torch.arange(5)).tolist() == [0, 1, 2, 3, 4]
        generator = seeded()
        assert ALONE.own_generator(generator) is generator
        ALONE.average_statistics(module)
        ALONE.equalise(module)
        ALONE.wait()
        assert is_first()

    def test_parts_are_equal_and_different(self):
        parts = [Processes(rank, 3).own_part(torch.arange(11)) for rank in range(3)]
        assert torch.cat(parts).sort().values.tolist() == list(range(9))
        assert {len(part) for part in parts} == {3}

    def test_own_generators_differ_and_the_common_ones_stay_equal(self):
        common = [seeded(), seeded()]
        own = [Processes(r, 2).own_generator(g) for r, g in enumerate(common)]
        assert torch.equal(common[0].get_state(), common[1].get_state())
        first, second = (torch.rand(4, generator=generator) for generator in own)
        assert not torch.equal(first, second)


def test_evaluation_is_divided():
    """Under running statistics, the sum of the parts is what one process gets."""
    supernet = build(cells=1).eval()
    alone = evaluate(supernet, data(1), 10)

    class Part(Processes):
        def sum(self, tensor):
            return tensor

    parts = [evaluate(supernet, data(1), 10, processes=Part(rank, 2)) for rank in (0, 1)]
    np.testing.assert_allclose(np.sum(parts, axis=0), alone, rtol=1e-6)  # of float32


@pytest.mark.slow
def test_torchrun_fills_a_zoo(tmp_path):
    for seed, name in enumerate("abc"):
        dataset = make(name, seed)
        np.savez(tmp_path / f"{name}.npz", X=dataset.images, y=dataset.labels)
    small = "--set init_channels=4 --set n_cells=3 --image-size 8"
    small += " --batch-size 8 --steps 2 --min-epochs 2"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += [
        "-m",
        "supernetnas",
        "zoo",
        "pretrain",
        *(str(tmp_path / f"{n}.npz") for n in "abc"),
    ]
    command += ["--out", str(tmp_path / "zoo"), "--multi-epochs", "2", *small.split()]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300
    )
    assert result.returncode == 0, result.stderr
    zoo = Zoo.open(tmp_path / "zoo", verify="full")
    assert zoo.names == ["a", "b", "c", "multi"]
    assert not (zoo.folder / ".pretraining").exists()
    names = [line.split()[0] for line in result.stdout.splitlines()]
    assert names == ["source", "a", "b", "c", "multi"]  # one process reports
