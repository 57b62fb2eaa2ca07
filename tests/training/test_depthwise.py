"""Depthwise convolutions against torch's own gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from supernetnas.training.depthwise import DepthwiseConv2d, depthwise_conv, kernel_gradient

SIZES = [(1, 1), (2, 3), (3, 7), (4, 4), (5, 5), (8, 6), (11, 16)]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def both(x, kernel, stride, padding):
    """Results and gradients, as they are computed here and by torch."""
    bias = random(x.shape[1], seed=3, dtype=x.dtype).requires_grad_()
    plain = F.conv2d(x, kernel, bias, stride, padding, 1, x.shape[1])
    upstream = random(*plain.shape, seed=2, dtype=x.dtype)
    for result in (depthwise_conv(x, kernel, stride, padding, bias), plain):
        yield result, *torch.autograd.grad(result, (x, kernel, bias), upstream)


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("size", SIZES)
def test_against_the_plain_convolution(size, kernel, stride, channels):
    weight = random(channels, 1, kernel, kernel, seed=1).requires_grad_()
    for padding in {kernel // 2, 0}:
        if min(size) + 2 * padding < kernel:
            continue
        for layout in (torch.contiguous_format, torch.channels_last):
            x = random(4, channels, *size).contiguous(memory_format=layout).requires_grad_()
            ours, plain = both(x, weight, stride, padding)
            torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("side", [4, 8, 16])
def test_in_single_precision(side):
    """As it is computed in trainings, by other kernels of the processor than in double."""
    weight = random(32, 1, 5, 5, seed=1, dtype=torch.float32).requires_grad_()
    x = random(4, 32, side, side, dtype=torch.float32).requires_grad_()
    ours, plain = both(x.contiguous(memory_format=torch.channels_last), weight, 1, 2)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_bfloat16_images_and_single_precision_weights():
    weight = random(16, 1, 5, 5, seed=1, dtype=torch.float32).requires_grad_()
    x = random(4, 16, 8, 8, dtype=torch.bfloat16).requires_grad_()
    result = depthwise_conv(x, weight, 2, 2)
    assert result.dtype == torch.bfloat16
    upstream = random(*result.shape, seed=2, dtype=torch.bfloat16)
    of_x, of_weight = torch.autograd.grad(result, (x, weight), upstream)
    assert of_x.dtype == torch.bfloat16 and of_weight.dtype == torch.float32
    exact = F.conv2d(x.float(), weight, None, 2, 2, 1, 16)
    expected = torch.autograd.grad(exact, (x, weight), upstream.float())
    torch.testing.assert_close(of_x, expected[0], rtol=0.02, atol=0.05)
    torch.testing.assert_close(of_weight, expected[1], rtol=1e-4, atol=1e-4)


def test_only_what_is_wanted():
    x, weight = random(2, 4, 6, 6), random(4, 1, 5, 5, seed=1).requires_grad_()
    (found,) = torch.autograd.grad(depthwise_conv(x, weight, 1, 2).sum(), weight)
    upstream = torch.ones(2, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(found, kernel_gradient(x, upstream, weight.detach(), 1, 2))
    with torch.no_grad():
        assert not depthwise_conv(x, weight, 1, 2).requires_grad


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_gradients_of_gradients(kernel, stride):
    x = random(2, 16, 6, 6).requires_grad_()
    weight = random(16, 1, kernel, kernel, seed=1).requires_grad_()
    found = []
    for convolve in (depthwise_conv, lambda *given: F.conv2d(*given[:2], None, *given[2:], 1, 16)):
        result = convolve(x, weight, stride, kernel // 2)
        (of_x,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(of_x.square().sum(), (x, weight)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("stride", [1, 2])
def test_single_precision_images_under_autocast(stride):
    x = random(2, 16, 6, 6, dtype=torch.float32).requires_grad_()
    weight = random(16, 1, 5, 5, seed=1, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        result = depthwise_conv(x, weight, stride, 2)
        plain = F.conv2d(x, weight, None, stride, 2, 1, 16)
    assert result.dtype == plain.dtype == torch.bfloat16
    upstream = random(*result.shape, seed=2, dtype=torch.bfloat16)
    ours, torchs = (torch.autograd.grad(y, (x, weight), upstream) for y in (result, plain))
    torch.testing.assert_close(ours, torchs, rtol=0.02, atol=0.1)


def test_transforms_and_traces():
    module, x = DepthwiseConv2d(4, 5).double(), random(2, 4, 6, 6)
    module.weight.data = random(4, 1, 5, 5, seed=1)
    weights = dict(module.named_parameters())

    def loss(weights, image):
        return torch.func.functional_call(module, weights, (image[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)["weight"]
    for image, found in zip(x, each, strict=True):
        (expected,) = torch.autograd.grad(module(image[None]).square().sum(), module.weight)
        torch.testing.assert_close(found, expected)
    with pytest.warns(DeprecationWarning):  # of torch
        traced = torch.jit.trace(module, x)
    torch.testing.assert_close(traced(x), module(x))
    torch.testing.assert_close(torch.fx.symbolic_trace(module)(x), module(x))


def test_the_module_is_torchs():
    ours, plain = DepthwiseConv2d(16, 5, 2), nn.Conv2d(16, 16, 5, 2, 2, groups=16, bias=False)
    plain.load_state_dict(ours.state_dict())
    x = random(3, 16, 9, 9, dtype=torch.float32)
    torch.testing.assert_close(ours(x), plain(x))
    ours.bias = plain.bias = nn.Parameter(torch.arange(16.0))
    torch.testing.assert_close(ours(x), plain(x))
