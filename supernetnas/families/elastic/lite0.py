"""The elastic supernet whose largest member is EfficientNet-Lite0 with its ImageNet weights."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from ...embedding.efficientnet_lite import FEATURES, STAGES, STEM_CHANNELS
from ...embedding.embedder import lite0_state_dict
from ...training.seeds import seeded_modules
from .layers import sort_channels
from .space import Backbone, Block, ElasticArchitecture, ElasticSpace, Stage
from .supernet import ElasticConfig, ElasticSupernet

__all__ = [
    "LITE0",
    "LITE0_MEAN",
    "LITE0_MEMBERS",
    "LITE0_SHAPES",
    "LITE0_SPACE",
    "LITE0_STD",
    "adapted_stem",
    "lite0_supernet",
    "published_largest",
]

LITE0 = Backbone(
    stem=STEM_CHANNELS,
    stages=tuple(
        Stage(repeats, channels, kernel, stride, expansion)
        for repeats, channels, kernel, stride, expansion in STAGES
    ),
    features=FEATURES,
)
LITE0_SPACE = ElasticSpace(LITE0)
LITE0_MEAN, LITE0_STD = 0.5, 0.5
"""What the weights expect of every channel, in units of the largest value."""

_N_CLASSES = 1000
_RENAMED = {
    "_conv_stem": "stem",
    "_bn0": "stem_norm",
    "_conv_head": "head",
    "_bn1": "head_norm",
    "_fc": "classifier",
}


def lite0_supernet(
    *,
    members: Sequence[ElasticArchitecture] = (),
    input_channels: int = 3,
    space: ElasticSpace = LITE0_SPACE,
) -> ElasticSupernet:
    """Build the supernet from the published weights, nothing trained.

    The largest member has them as they are; so have the shared weights, their channels sorted by
    importance. The classifier is that of the 1,000 classes of ImageNet.

    Parameters
    ----------
    members : sequence of ElasticArchitecture, default=()
        Those whose statistics the supernet keeps; to be recalibrated.
    input_channels : int, default=3
        Of other numbers than 3 the stem is adapted, see `adapted_stem`.
    space : ElasticSpace
        With the backbone of EfficientNet-Lite0.

    Raises
    ------
    ImportError
        If the package with the weights is not installed; the message says how to.
    EmbedderError
        If its file has changed.
    """
    if space.backbone != LITE0:
        raise ValueError("space must have the backbone of EfficientNet-Lite0.")
    state = _trunk_and_classifier(lite0_state_dict())
    classifier = {k.removeprefix("classifier."): state.pop(k) for k in list(state) if "classi" in k}
    state["stem.weight"] = adapted_stem(state["stem.weight"], input_channels)
    config = ElasticConfig(space, input_channels, _N_CLASSES, tuple(members))
    with seeded_modules(0):
        supernet = ElasticSupernet(config)
    supernet.largest.load_state_dict(state)
    supernet.shared.load_state_dict(state)
    sort_channels(supernet.shared)
    supernet.classifier.load_state_dict(classifier)
    return supernet


def published_largest() -> dict[str, Tensor]:
    """Return the published weights of the largest member, without its classifier.

    Raises
    ------
    ImportError
        If the package with the weights is not installed; the message says how to.
    EmbedderError
        If its file has changed.
    """
    state = _trunk_and_classifier(lite0_state_dict())
    return {name: tensor for name, tensor in state.items() if not name.startswith("classifier")}


def adapted_stem(weight: Tensor, channels: int) -> Tensor:
    """Return the stem's weights for images of another number of channels.

    Of one channel it is their sum: a grey image gives what its equal channels gave. Of others the
    channels are repeated in turn, scaled, and shifted by what is still missing for equal channels
    to give the same again.

    Parameters
    ----------
    weight : torch.Tensor of shape (c_out, c_in, k, k)
    channels : int
    """
    known = weight.shape[1]
    if channels == known:
        return weight
    if channels < 1:
        raise ValueError(f"Images have at least one channel; got {channels}.")
    repeated = weight[:, torch.arange(channels) % known] * (known / channels)
    total = weight.sum(dim=1, keepdim=True)
    return repeated + (total - repeated.sum(dim=1, keepdim=True)) / channels


def _trunk_and_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the published tensors; blocks are numbered through there."""
    places = [
        f"stages.{index}.{place}"
        for index, stage in enumerate(LITE0.stages)
        for place in range(stage.repeats)
    ]
    renamed = {}
    for name, tensor in state.items():
        if match := re.match(r"_blocks\.(\d+)\.", name):
            renamed[f"{places[int(match[1])]}.{name[match.end() :]}"] = tensor
        else:
            first, rest = name.split(".", 1)
            renamed[f"{_RENAMED[first]}.{rest}"] = tensor
    return renamed


def _shape(
    expansions: tuple[int, ...], shorter: tuple[int, ...], kernel: int
) -> tuple[tuple[Block, ...], ...]:
    """Blocks of all stages, some blocks fewer than Lite0 has, kernels of at most a side."""
    return tuple(
        (Block(min(stage.kernel, kernel), expansion),) * (stage.repeats - less)
        for stage, expansion, less in zip(LITE0.stages, expansions, shorter, strict=True)
    )


_WHOLE, _ONE_LESS, _ONE_LEFT = (0,) * 7, (0, 1, 1, 1, 1, 1, 0), (0, 1, 1, 2, 2, 3, 0)

LITE0_SHAPES = {
    "expansion 4": _shape((1, *(4,) * 6), _WHOLE, 5),
    "expansion 4, shallow": _shape((1, *(4,) * 6), _ONE_LESS, 5),
    "thin to wide": _shape((1, 2, 2, 3, 4, 6, 6), (0, 1, 1, 1, 1, 2, 0), 5),
    "expansion 3, shallow": _shape((1, *(3,) * 6), _ONE_LESS, 5),
    "expansion 2, shallow": _shape((1, *(2,) * 6), _ONE_LESS, 5),
    "smallest": _shape((1, *(2,) * 6), _ONE_LEFT, 3),
}
"""Along the front of cost: 0.70, 0.50, 0.47, 0.40, 0.30 and 0.22 of Lite0's MACs."""

LITE0_MEMBERS = tuple(
    ElasticArchitecture(size, blocks) for blocks in LITE0_SHAPES.values() for size in (48, 64, 96)
)
"""Those that the pretraining trains.

Not at 128 pixels, which would cost as much as all the others, and where a wider member at fewer
pixels is better at equal cost.
"""
