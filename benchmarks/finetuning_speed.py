"""How fast is a step of the fine-tuning of elastic networks, next to plain modules of torch?

    OMP_NUM_THREADS=1 python benchmarks/finetuning_speed.py

A step trains all but the first three stages of EfficientNet-Lite0, whose batch norms stay as they
are, on activations of those stages. "Plain" has convolutions and batch norms as torch has them;
"folded" has batch norms as part of the convolutions and gradients of depthwise kernels put together
from those of three columns; "bfloat16" computes products in it, besides. Then the gradient of each
depthwise kernel alone, as torch computes it and in pieces. Wall time, medians of calls in turn.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import add_output, write_results
from torch import Tensor, nn

from supernetnas.embedding.efficientnet_lite import SameConv2d
from supernetnas.families.elastic.lite0 import lite0_supernet
from supernetnas.families.elastic.network import Trunk
from supernetnas.search.latency import time_in_turn
from supernetnas.training.depthwise import kernel_gradient

_FROZEN = 3


class PlainConv2d(nn.Conv2d):
    """TensorFlow's padding, and then a convolution of torch."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, pads = self.kernel_size[0], self.stride[0], []
        for side in (x.shape[-1], x.shape[-2]):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads) if any(pads) else x)


def plain(trunk: Trunk) -> Trunk:
    """Return a copy whose convolutions are torch's."""
    result = copy.deepcopy(trunk)
    for module in result.modules():
        if isinstance(module, SameConv2d):
            module.__class__ = PlainConv2d
    return result


def step_of(trunk: Trunk, x: Tensor, labels: Tensor, bfloat16: bool) -> Callable[[], None]:
    """A step of AdamW."""
    trunk = copy.deepcopy(trunk).eval().requires_grad_(False)
    trained = nn.ModuleList([*trunk.stages[_FROZEN:], trunk.head, trunk.head_norm])
    head = nn.Linear(1280, int(labels.max()) + 1)
    weights = [*trained.requires_grad_(True).parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            scores = head(trunk.after(_FROZEN, x))
        F.cross_entropy(scores.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--repeats", type=int, default=10)
    add_output(parser, __file__)
    args = parser.parse_args()
    torch.manual_seed(0)

    trunk = lite0_supernet().largest.eval()
    images = torch.randn(args.batch_size, 3, args.size, args.size)
    labels = torch.arange(args.batch_size) % 10
    shapes = {}
    for name, module in trunk.named_modules():
        if isinstance(module, SameConv2d) and module.groups > 1:
            module.register_forward_pre_hook(
                lambda m, given, name=name: shapes.update({name: (m, given[0].shape)})
            )
    with torch.no_grad():
        x = trunk.up_to(_FROZEN, images.contiguous(memory_format=torch.channels_last))
        trunk.after(_FROZEN, x)
    trunk = lite0_supernet().largest.eval()
    ways = {"plain": (plain(trunk), False), "folded": (trunk, False), "bfloat16": (trunk, True)}
    steps = [step_of(network, x, labels, bfloat16) for network, bfloat16 in ways.values()]
    seconds = dict(zip(ways, time_in_turn(steps, args.repeats), strict=True))
    print("| step | s | plain / this |\n|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.3f} | {seconds['plain'] / value:.2f} |")

    kernels = {}
    for module, shape in shapes.values():
        side, stride = module.kernel_size[0], module.stride[0]
        kernels[shape[1], shape[2], side, stride] = None
    rows = [gradient_row(args, *key) for key in kernels if key[2] > 3]
    print("\n| channels, side, kernel, stride | torch, ms | in pieces, ms | ratio |")
    print("|---|---|---|---|")
    for row in rows:
        what = ", ".join(str(row[key]) for key in ("channels", "side", "kernel", "stride"))
        whole, pieces = 1e3 * row["torch"], 1e3 * row["pieces"]
        print(f"| {what} | {whole:.2f} | {pieces:.2f} | {row['ratio']:.1f} |")
    write_results(args.out, steps=seconds, gradients=rows)


def gradient_row(
    args: argparse.Namespace, channels: int, side: int, kernel: int, stride: int
) -> dict[str, float]:
    """Seconds of the gradient of a depthwise kernel, as torch has it and in pieces."""
    x = torch.randn(args.batch_size, channels, side, side)
    x = x.contiguous(memory_format=torch.channels_last)
    weight, padding = torch.randn(channels, 1, kernel, kernel), kernel // 2
    gradient = torch.randn_like(F.conv2d(x, weight, None, stride, padding, 1, channels))

    def of_torch() -> None:
        torch.ops.aten.convolution_backward(
            *(gradient, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0]),
            *(channels, [False, True, False]),
        )

    def in_pieces() -> None:
        kernel_gradient(x, gradient, weight, stride, padding)

    whole, pieces = time_in_turn([of_torch, in_pieces], args.repeats)
    key = {"channels": channels, "side": side, "kernel": kernel, "stride": stride}
    return {**key, "torch": whole, "pieces": pieces, "ratio": whole / pieces}


if __name__ == "__main__":
    main()
