"""Class scores of fixed images, and gradients of the operation weights alone."""

import pytest
import torch
import torch.nn.functional as F
from tiny_cells import LAYOUTS, SPACES, assert_near, images, pair

from supernetnas.families.cells.fixed_images import FixedImages
from supernetnas.training.batch_norm import frozen_batch_norm
from supernetnas.training.execution import Execution
from supernetnas.training.steps import held_constant


def scores_and_gradients(function, weights, seed_noise):
    weights = tuple(weight.detach().requires_grad_() for weight in weights)
    seed_noise()
    scores = function(weights)
    loss = F.cross_entropy(scores, torch.arange(len(scores)) % 3)
    return scores.detach(), torch.autograd.grad(loss, weights, materialize_grads=True)


@pytest.mark.parametrize(
    ("space", "cells", "layout"),
    [
        *((space, 3, torch.channels_last) for space in SPACES),
        *(("s1", cells, layout) for cells in (1, 2, 5) for layout in LAYOUTS),
    ],
)
def test_scores_and_gradients_are_those_of_the_plain_definition(space, cells, layout):
    plain, fused = pair(space, cells=cells)
    for supernet in (plain, fused):  # noise is drawn in the layout of the images
        supernet.train().to(memory_format=layout)
    x = images(6, 3, 8, 8).contiguous(memory_format=layout)
    with frozen_batch_norm(plain), frozen_batch_norm(fused), held_constant(fused.parameters()):
        of_images = fused.scores_of(x)
        assert isinstance(of_images, FixedImages)
        for share in (0.0, 0.5):  # the same images, other operation weights
            weights = tuple((1 - share) * w + share / w.shape[1] for w in plain.operation_weights())
            expected, actual = (
                scores_and_gradients(
                    function,
                    weights,
                    lambda s=s: s.seed_noise(torch.Generator().manual_seed(3)),
                )
                for function, s in ((lambda w: plain(x, w), plain), (of_images, fused))
            )
            assert_near(actual[0], expected[0])
            for a, e in zip(actual[1], expected[1], strict=True):
                assert_near(a, e)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("execution", Execution(compile=True)),
        ("execution", Execution(checkpointing=True)),
        ("merged", True),
    ],
)
def test_other_paths_compute_everything(attribute, value):
    _, fused = pair("s1")
    setattr(fused, attribute, value)
    assert not isinstance(fused.scores_of(images(2, 3, 8, 8)), FixedImages)


def test_less_is_computed():
    _, fused = pair("s1", cells=5)
    x = images(2, 3, 8, 8)
    weights = fused.operation_weights()
    of_images = fused.scores_of(x)
    with torch.profiler.profile() as whole:
        fused(x, weights)
    with torch.profiler.profile() as rest:
        of_images(weights)
    convolutions = [
        sum(event.name == "aten::convolution" for event in profiler.events())
        for profiler in (whole, rest)
    ]
    assert convolutions[1] < 0.85 * convolutions[0]
