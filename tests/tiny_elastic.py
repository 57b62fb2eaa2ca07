"""The smallest elastic supernet, and a referee that shares no code with it."""

import torch
import torch.nn.functional as F

from supernetnas.families.elastic import (
    Backbone,
    Block,
    ElasticArchitecture,
    ElasticConfig,
    ElasticSpace,
    ElasticSupernet,
    Stage,
)
from supernetnas.training.seeds import seeded_modules

BACKBONE = Backbone(
    stem=4,
    stages=(Stage(1, 4, 3, 1, 1), Stage(2, 5, 3, 2, 6), Stage(3, 6, 5, 2, 6), Stage(1, 7, 5, 1, 4)),
    features=9,
)
SPACE = ElasticSpace(BACKBONE, sizes=(16, 17, 32))

MEMBERS = (
    SPACE.smallest,
    ElasticArchitecture(
        17,
        (
            (Block(3, 1),),
            (Block(3, 4), Block(3, 2)),
            (Block(5, 3), Block(3, 6)),
            (Block(3, 3),),
        ),
    ),
    ElasticArchitecture(
        32,
        ((Block(3, 1),), (Block(3, 6),), (Block(3, 2), Block(5, 2), Block(3, 4)), (Block(5, 4),)),
    ),
)


def tiny_supernet(members=MEMBERS, input_channels=3, n_classes=4, seed=0):
    """A supernet of random weights, all of which matter, in float64."""
    config = ElasticConfig(SPACE, input_channels, n_classes, tuple(members))
    with seeded_modules(seed):
        supernet = ElasticSupernet(config).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in supernet.state_dict().items():
            drawn = not any(kind in name for kind in ("transforms", "norm", "_bn", "statistics"))
            if not drawn and tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.add_(0.3 * noise)
    return supernet


def tiny_images(n=3, side=16, channels=3, seed=0):
    """Standardised images of random pixels, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, side, side, generator=generator, dtype=torch.float64)


def referee(weights, transforms, statistics, architecture, images, training):
    """Pooled features of a member, from the full shared weights, block by block.

    ``weights`` are the shared parameters by name, ``transforms`` the kernel transforms by
    (stage, place), ``statistics`` pairs of running mean and variance by name, changed in place.
    """

    def same(x, weight, stride=1, groups=1):
        kernel, pads = weight.shape[-1], []
        for side in (x.shape[3], x.shape[2]):
            steps = (side + stride - 1) // stride
            missing = max(0, (steps - 1) * stride + kernel - side)
            pads += [missing // 2, missing - missing // 2]
        return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)

    def norm(x, name, n):
        gain, offset = (weights[f"{name}.{k}"][:n].view(1, -1, 1, 1) for k in ("weight", "bias"))
        mean, variance = statistics[name]
        if training:
            now = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            count = x.numel() / x.shape[1]
            with torch.no_grad():
                mean.mul_(0.9).add_(0.1 * now[0])
                variance.mul_(0.9).add_(0.1 * now[1] * count / (count - 1))
            mean, variance = now
        shape = (1, -1, 1, 1)
        return (x - mean.view(shape)) / (variance.view(shape) + 1e-3).sqrt() * gain + offset

    def relu6(x):
        return x.clamp(0, 6)

    x = relu6(norm(same(images, weights["stem.weight"], 2), "stem_norm", BACKBONE.stem))
    channels = BACKBONE.stem
    for i, blocks in enumerate(architecture.stages):
        stage = BACKBONE.stages[i]
        for j in range(len(blocks)):
            kernel, expansion = blocks[j]
            name, width, stride = f"stages.{i}.{j}", channels * expansion, 1 if j else stage.stride
            out = x
            if stage.expansion > 1:
                out = same(out, weights[f"{name}._expand_conv.weight"][:width])
                out = relu6(norm(out, f"{name}._bn0", width))
            depthwise = weights[f"{name}._depthwise_conv.weight"][:width]
            if kernel == 3 and stage.kernel == 5:
                centre = depthwise[:, :, 1:4, 1:4].reshape(width, 9)
                depthwise = (centre @ transforms[i, j].T).reshape(width, 1, 3, 3)
            out = relu6(norm(same(out, depthwise, stride, width), f"{name}._bn1", width))
            out = same(out, weights[f"{name}._project_conv.weight"][:, :width])
            out = norm(out, f"{name}._bn2", stage.channels)
            x = x + out if stride == 1 and channels == stage.channels else out
            channels = stage.channels
    x = relu6(norm(same(x, weights["head.weight"]), "head_norm", BACKBONE.features))
    return x.mean((2, 3))
