"""Speed and memory of the search: a module written as the reference is, against the fast paths.

    python benchmarks/search_speed.py --repeats 5
    python benchmarks/search_speed.py --device cuda --repeats 20

Per network and perturbation, for one full step (alphas, then weights): seconds (interleaved
repeats in one process; best, median and the ratios of each), operations launched, bytes that
operations read and write, bytes kept for the backward passes, and peak memory. Then images per
second of the augmentation and of a derived network.

The reference computes every operation of every edge by itself, in the default memory format, takes
dilated convolutions of stride 2 as they are, and computes in each half of the step, and in each
step of an attack, the gradients of weights and alphas in one backward pass though it uses one of
them. It attacks in evaluation mode, as the authors' code of SmoothDARTS does; its optimizers go
tensor by tensor.

"Launched" counts what torch dispatches, views and allocations aside: it does not depend on the
device. One operation on a list of tensors counts once. On a GPU the profiler's count of kernels
stands beside it, and a row has the step captured as a CUDA graph, which is launched as one.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import add_output, random_genotype, write_results
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from kept import saved_bytes

from supernetnas.families.cells.config import NetworkConfig, SupernetConfig
from supernetnas.families.cells.folding import folded
from supernetnas.families.cells.network import Network
from supernetnas.families.cells.operations import DilatedConv
from supernetnas.families.cells.search.bilevel import BilevelSearch, adversarial_perturbation
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.search.costs import count_macs
from supernetnas.training.batch_norm import frozen_batch_norm
from supernetnas.training.batches import LabelledImages
from supernetnas.training.devices import resolve_device
from supernetnas.training.execution import Execution
from supernetnas.training.seeds import seeded_modules

NETWORKS = {  # space, channels, cells, side
    "small": ("s1", 16, 5, 32),
    "s1": ("s1", 16, 8, 32),
    "darts": ("darts", 16, 8, 32),
    "s1-64": ("s1", 16, 8, 64),
    "small-8": ("s1", 16, 5, 8),
}


class ReferenceDilatedConv(DilatedConv):
    """A dilated convolution of stride 2 as one."""

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return super().forward(x)
        kernel = self.depthwise.weight
        x = F.conv2d(
            F.relu(x),
            kernel,
            stride=2,
            padding=kernel.shape[-1] - 1,
            dilation=2,
            groups=len(kernel),
        )
        return self.bn(self.pointwise(x))


class ReferenceSearch(BilevelSearch):
    """Steps that compute all gradients and use some."""

    def __init__(self, supernet: CellSupernet, *args, **kwargs) -> None:
        supernet.fused = False
        supernet.to(memory_format=torch.contiguous_format)
        for module in supernet.modules():
            if type(module) is DilatedConv:
                module.__class__ = ReferenceDilatedConv
        super().__init__(supernet, *args, **kwargs)
        for optimizer in (self.alpha_optimizer, self.weight_optimizer):
            for group in optimizer.param_groups:
                group["foreach"] = False

    def _alpha_step(self, index: Tensor, train_index: Tensor) -> None:
        images = self.validation.images.augmented(index, self._draws).contiguous()
        self.supernet.zero_grad()
        self._loss(self.scores(images), self.validation.labels_at(index)).backward()
        self.alpha_optimizer.step()

    def _weight_step(self, index: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        images = self.train.images.augmented(index, self._draws).contiguous()
        labels = self.train.labels_at(index)
        weights = self._operation_weights(images, labels, radius)
        weights = tuple(weight.requires_grad_() for weight in weights)
        self.supernet.zero_grad()
        scores = self.scores(images, weights)
        loss = self._loss(scores, labels)
        loss.backward()
        parameters = self.supernet.weight_parameters()
        nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm, foreach=False)
        self.weight_optimizer.step()
        return loss.detach(), (scores.argmax(1) == labels).sum()

    def _operation_weights(self, images, labels, radius):
        if self.settings.perturbation != "adversarial":
            return super()._operation_weights(images, labels, radius)
        with torch.no_grad():
            weights = self.supernet.operation_weights()

        def loss(perturbed: tuple[Tensor, Tensor]) -> Tensor:
            value = self._loss(self.scores(images, perturbed), labels)
            if not value.requires_grad:
                return value
            self.supernet.zero_grad()
            value.backward()  # the gradients of the network's weights, too
            # Has the gradient that was just computed, so that the attack needs no second pass.
            return sum((weight * weight.grad).sum() for weight in perturbed)

        masks = self.supernet.operation_masks()
        self.supernet.eval()  # the reference attacks under running statistics
        attacked = adversarial_perturbation(loss, weights, masks, radius, self._draws)
        self.supernet.train()
        return attacked


class Launches(TorchDispatchMode):
    """Counts launched operations and the bytes of their operands."""

    FREE = frozenset(
        [
            *("view", "_unsafe_view", "_reshape_alias", "transpose", "permute", "t", "expand"),
            *("split", "split_with_sizes", "unbind", "slice", "select", "as_strided", "unfold"),
            *("unsqueeze", "squeeze", "detach", "alias", "lift_fresh"),
            *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
        ]
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in self.FREE:
            self.count += 1
            self.bytes += sum(map(_bytes, (args, result)))
        return result


def _bytes(value: object) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0


class Peak(TorchDispatchMode):
    """Follows the bytes of all storages that operations make, and their largest sum.

    What a kernel needs for itself meanwhile is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """Most memory that tensors take at a time while a function runs, above that before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    with Peak() as mode:
        function()
    return mode.peak


def searches(
    name: str, perturbation: str, device: torch.device, batch_size: int, precision: str
) -> dict[str, BilevelSearch]:
    """The same search as the reference is written, and on the fast paths."""
    space, channels, cells, side = NETWORKS[name]
    n = 2 * batch_size
    pixels = torch.randint(256, (n, 3, side, side), dtype=torch.uint8)
    tensors = ImageTensors(
        *(pixels, torch.full((3,), 0.5), torch.full((3,), 0.25), Augmentation(0.125, True), device)
    )
    data = LabelledImages(tensors, (torch.arange(n) % 10).to(device))
    with seeded_modules(0):
        supernet = CellSupernet(SupernetConfig(space, channels, cells, (side, side), 3, 10))
    supernet.to(device)
    settings = SearchSettings(batch_size=batch_size, perturbation=perturbation)
    found: dict[str, BilevelSearch] = {}
    for path in ("reference", "fused", "merged"):
        if path == "merged" and device.type == "cpu":
            continue  # for launches alone, see `counts`
        own = copy.deepcopy(supernet)
        kind = ReferenceSearch if path == "reference" else BilevelSearch
        if path == "fused":
            own.to(memory_format=torch.channels_last)
        own.merged = path == "merged"
        found[path] = kind(own, data, data, settings, torch.Generator().manual_seed(0))
    ways = {}
    if precision == "bfloat16":
        fast = "merged" if device.type == "cuda" else "fused"
        ways[f"{fast}, bfloat16"] = Execution("bfloat16")
    if device.type == "cuda":
        path = "merged, graph" + (", bfloat16" if precision == "bfloat16" else "")
        ways[path] = Execution(precision, compile="graph")
    for path, execution in ways.items():
        own = copy.deepcopy(supernet)
        own.merged = path.startswith("merged")
        own.execution = execution
        generator = torch.Generator().manual_seed(0)
        found[path] = BilevelSearch(own, data, data, settings, generator)
    return found


def step(search: BilevelSearch, batch_size: int) -> None:
    """One step of the alphas and one of the weights."""
    device = search.train.labels.device
    validation, train = torch.arange(2 * batch_size, device=device).split(batch_size)
    search._run(validation, train, 0.025, 0.1)


def seconds(function: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    # With one thread the time that the process computed, which neighbours do not change much.
    busy = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if busy else time.perf_counter
    start = clock()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def kept_bytes(search: BilevelSearch, batch_size: int) -> int:
    """Bytes kept for the backward pass of a weight step."""
    device = search.train.labels.device
    images = search.train.images.clean(torch.arange(batch_size, device=device))
    if isinstance(search, ReferenceSearch):
        images = images.contiguous()
        weights = None
    else:
        with torch.no_grad():
            weights = search.supernet.operation_weights()
    with frozen_batch_norm(search.supernet):
        return saved_bytes(lambda: search.scores(images, weights))


def kernels(function: Callable[[], object]) -> int:
    """Kernels that a GPU ran, by the profiler."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        function()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events())


def measure_steps(arguments: argparse.Namespace, device: torch.device) -> list[dict]:
    rows = []
    for name in arguments.networks:
        for perturbation in arguments.perturbations:
            size = arguments.batch_size
            found = searches(name, perturbation, device, size, arguments.precision)
            times: dict[str, list[float]] = {path: [] for path in found}
            graphs = contextlib.ExitStack()
            for search in found.values():
                graphs.enter_context(search.capturing())
                for _ in range(4 if search.supernet.execution.captured else 1):
                    step(search, size)  # what is set up once
            for _ in range(arguments.repeats):
                for path, search in found.items():
                    times[path].append(seconds(partial(step, search, size), device))
            for path, search in found.items():
                with Launches() as launches:
                    step(search, size)
                row = {
                    "network": name,
                    "perturbation": perturbation,
                    "path": path,
                    "seconds": min(times[path]),
                    "median": statistics.median(times[path]),
                    "ratio": min(times["reference"]) / min(times[path]),
                    "median ratio": statistics.median(times["reference"])
                    / statistics.median(times[path]),
                    "launched": launches.count,
                    "traffic": launches.bytes,
                    "kept": kept_bytes(search, size),
                }
                if not search.supernet.execution.captured:  # whose memory is there before
                    row["peak"] = peak_bytes(partial(step, search, size), device)
                if device.type == "cuda":
                    row["kernels"] = kernels(partial(step, search, size))
                rows.append(row)
                show_step(row)
            graphs.close()
            if device.type == "cpu":
                rows.append(count_merged(name, perturbation))
                show_step(rows[-1])
    return rows


def count_merged(name: str, perturbation: str) -> dict:
    """Operations of the path for GPUs, which do not depend on the number of images."""
    search = searches(name, perturbation, torch.device("cpu"), 2, "float32")["fused"]
    search.supernet.merged = True
    step(search, 2)
    with Launches() as launches:
        step(search, 2)
    return {
        "network": name,
        "perturbation": perturbation,
        "path": "merged (for GPUs)",
        "launched": launches.count,
    }


def show_step(row: dict) -> None:
    def gigabytes(key: str) -> str:
        return f"{row[key] / 1e9:.2f}" if key in row else ""

    timing = ["", "", "", ""]
    if "seconds" in row:
        timing = [f"{row['seconds']:.3f}", f"{row['ratio']:.2f}"]
        timing += [f"{row['median']:.3f}", f"{row['median ratio']:.2f}"]
    cells = [
        *(row["network"], row["perturbation"], row["path"], *timing, f"{row['launched']:,}"),
        *(str(row.get("kernels", "")), gigabytes("traffic"), gigabytes("kept"), gigabytes("peak")),
    ]
    print("| " + " | ".join(cells) + " |", flush=True)


def floor(device: torch.device) -> tuple[float, float]:
    """Floating-point operations and bytes per second: a large product, a large copy."""
    n = 2048 if device.type == "cpu" else 8192
    a = torch.randn(n, n, device=device)
    rate = 2 * n**3 / min(seconds(lambda: a @ a, device) for _ in range(5))
    source = torch.empty(2**28 // 4 if device.type == "cpu" else 2**30, device=device)
    target = torch.empty_like(source)
    copied = (
        2
        * source.numel()
        * 4
        / min(seconds(lambda: target.copy_(source), device) for _ in range(5))
    )
    return rate, copied


def epochs(rows: list[dict], arguments: argparse.Namespace, device: torch.device) -> None:
    """Seconds per search epoch of 50,000 images, half of them for validation, and its floor."""
    rate, bandwidth = floor(device)
    print(f"\nmatrix product {rate / 1e12:.2f} TFLOP/s, copy {bandwidth / 1e9:.0f} GB/s\n")
    print("| network | path | seconds per epoch | floor by arithmetic | by traffic |")
    print("|---|---|---|---|---|")
    for row in rows:
        if row["perturbation"] != "random" or "seconds" not in row:
            continue
        space, channels, cells, side = NETWORKS[row["network"]]
        supernet = CellSupernet(SupernetConfig(space, channels, cells, (side, side), 3, 10))
        # Forward twice, backward to the inputs twice, to the weights once.
        operations = 2 * 5 * count_macs(supernet, (3, side, side)) * arguments.batch_size
        steps = 25_000 / arguments.batch_size
        parts = (row["seconds"], operations / rate, row["traffic"] / bandwidth)
        shown = " | ".join(f"{part * steps:.1f}" for part in parts)
        print(f"| {row['network']} | {row['path']} | {shown} |")


def measure_augmentation(device: torch.device, repeats: int) -> list[dict]:
    rows = []
    print("\n| side | augmentation | images/s |\n|---|---|---|")
    for side in (32, 64):
        pixels = torch.randint(256, (2048, 3, side, side), dtype=torch.uint8)
        for label, augmentation in (
            ("shift", Augmentation(0.125)),
            ("shift, flip, cutout", Augmentation(0.125, True, 0.5)),
        ):
            images = ImageTensors(
                pixels, torch.full((3,), 0.5), torch.full((3,), 0.25), augmentation, device
            )
            generator = torch.Generator(device).manual_seed(0)
            index = torch.arange(2048, device=device).split(64)

            def run(images=images, generator=generator, index=index) -> None:
                for batch in index:
                    images.augmented(batch, generator)

            run()
            best = min(seconds(run, device) for _ in range(repeats))
            rows.append({"side": side, "augmentation": label, "images_per_second": 2048 / best})
            print(f"| {side} | {label} | {2048 / best:,.0f} |", flush=True)
    return rows


def measure_inference(arguments: argparse.Namespace, device: torch.device) -> list[dict]:
    genotype = random_genotype("darts", np.random.RandomState(0))
    with seeded_modules(0):
        network = Network(NetworkConfig(genotype, 16, 8, 3, 10))
    network.to(device).eval()
    images = torch.randn(256, 3, 32, 32, device=device)
    fast = images.contiguous(memory_format=torch.channels_last)
    plain = copy.deepcopy(network)
    plain.fused = False
    dense = copy.deepcopy(network).to(memory_format=torch.channels_last)
    variants = {
        "plain": (plain, images),
        "channels_last": (dense, fast),
        "channels_last, folded": (folded(dense), fast),
    }
    if arguments.compile:
        variants["channels_last, folded, compiled"] = (torch.compile(folded(dense)), fast)
    times: dict[str, list[float]] = {name: [] for name in variants}
    with torch.inference_mode():
        for module, batch in variants.values():
            module(batch)
        for _ in range(arguments.repeats):
            for name, (module, batch) in variants.items():
                times[name].append(seconds(lambda m=module, b=batch: m(b), device))
    print("\n| inference, darts space, 16 channels, 8 cells | images/s | ratio |\n|---|---|---|")
    rows = []
    for name, found in times.items():
        rate, ratio = 256 / min(found), min(times["plain"]) / min(found)
        rows.append({"variant": name, "images_per_second": rate, "ratio": ratio})
        print(f"| {name} | {rate:,.0f} | {ratio:.2f} |", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=["small", "s1", "darts"])
    parser.add_argument(
        "--perturbations",
        nargs="*",
        default=["random", "adversarial"],
        choices=["random", "adversarial", "none"],
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16"],
        default="float32",
        help="bfloat16 adds a row",
    )
    parser.add_argument("--compile", action="store_true", help="compile a derived network, too")
    add_output(parser, __file__)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {where}, {torch.get_num_threads()} threads\n")

    print(
        "| network | perturbation | path | best s | ratio | median s | ratio | launched | kernels "
        "| traffic GB | kept GB | peak GB |\n|" + "---|" * 12
    )
    steps = measure_steps(arguments, device)
    epochs(steps, arguments, device)
    write_results(
        arguments.out,
        device=where,
        batch_size=arguments.batch_size,
        steps=steps,
        augmentation=measure_augmentation(device, arguments.repeats),
        inference=measure_inference(arguments, device),
    )


if __name__ == "__main__":
    main()
