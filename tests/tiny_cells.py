"""Supernets of cells for tests: of all kinds of edges, and in pairs of a plain and a fused one."""

import copy

import torch
import torch.nn.functional as F

from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.space import SearchSpace, register_space
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.training.seeds import seeded_modules

SKIP, SEP3, SEP5, MAX = "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3"

# Edges of one to four operations, with `none` first, in the middle, last and not at all.
MIXED = register_space(
    SearchSpace(
        "mixed_for_tests",
        normal=(
            *((SKIP,), (SEP3, "none")),
            *((MAX, "none", SKIP), (SKIP, SEP3, SEP5, MAX), ("none", SEP3)),
            *((SKIP, SEP3), (SEP5,), (MAX, SEP5), ("none", SKIP, SEP3)),
            *((SKIP, MAX), (SEP3, "none"), (SEP5, SKIP), (SKIP,), (SEP3, SEP5)),
        ),
        reduce=((SKIP, "none"),) * 14,
    )
)


def build(space="s1", channels=4, cells=3, classes=3, inputs=3, seed=0, side=8):
    with seeded_modules(seed):
        return CellSupernet(SupernetConfig(space, channels, cells, (side, side), inputs, classes))


SPACES = ["s1", "s2", "s3", "s4", "darts", "darts_no_none"]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def pair(space, channels=4, cells=3, seed=0):
    """A plain and a fused supernet of equal weights and undecided, unequal alphas."""
    with seeded_modules(seed):
        plain = CellSupernet(SupernetConfig(space, channels, cells, (8, 8), 3, 3)).double()
        for alphas in plain.alpha_parameters():
            alphas.data.normal_(std=0.5)
    fused = copy.deepcopy(plain)
    plain.fused, fused.fused = False, True
    return plain, fused


def images(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_near(actual, expected, tolerance=1e-10):
    """Equal up to ``tolerance`` of the largest value."""
    assert actual.shape == expected.shape
    scale = expected.abs().max().clamp(min=1e-6)
    assert (actual - expected).abs().max() <= tolerance * scale


def gradients(supernet, x, labels):
    x = x.clone().requires_grad_()
    supernet.seed_noise(torch.Generator(x.device).manual_seed(5))
    scores = supernet(x)
    named = dict(supernet.named_parameters())
    values = torch.autograd.grad(
        F.cross_entropy(scores, labels), [x, *named.values()], materialize_grads=True
    )
    return scores.detach(), dict(zip(["input", *named], values, strict=True))
