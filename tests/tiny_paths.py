"""The smallest supernet of single paths, which knows nothing of any family."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from supernetnas.search.costs import Costs
from supernetnas.search.protocols import Step
from supernetnas.training.seeds import seeded_modules


@dataclass(frozen=True)
class Path:
    choices: tuple[int, ...]

    def to_dict(self):
        return {"choices": list(self.choices)}


@dataclass(frozen=True)
class PathSpace:
    layers: int = 4
    choices: int = 3

    @cached_property
    def genes(self):
        return (self.choices,) * self.layers

    @property
    def smallest(self):
        return Path((0,) * self.layers)

    @property
    def largest(self):
        return Path((self.choices - 1,) * self.layers)

    def encode(self, architecture):
        return architecture.choices

    def decode(self, genes):
        return Path(tuple(int(gene) for gene in genes))


class Pool(nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3))


def block(kernel, channels, affine):
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
        nn.ReLU(),
    )


class TinyPaths(nn.Module):
    """Layers of convolutions of kernel 1, 3, 5, ...; of equal channels."""

    def __init__(self, space=None, n_classes=3, channels=4):
        super().__init__()
        self.space, self.n_classes = space or PathSpace(), n_classes
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels, affine=False),
        )
        self.layers = nn.ModuleList(
            nn.ModuleList(block(2 * c + 1, channels, False) for c in range(self.space.choices))
            for _ in range(self.space.layers)
        )
        self.pool = Pool()
        self.classifier = nn.Linear(channels, n_classes)

    def features(self, images, architecture=None):
        x = self.stem(images)
        chosen = (architecture or self.space.largest).choices
        for layer, choice in zip(self.layers, chosen, strict=True):
            x = layer[choice](x)
        return self.pool(x)

    def forward(self, images, architecture=None):
        return self.classifier(self.features(images, architecture))

    def space_for(self, shape):
        return self.space

    def weight_parameters(self):
        return self.parameters()

    def costs(self, architecture):
        parameters = sum(
            p.numel()
            for layer, choice in zip(self.layers, architecture.choices, strict=True)
            for p in layer[choice].parameters()
        )
        return Costs(64 * parameters, parameters)

    def cheapest(self, limits):
        if not limits.keep(*self.costs(self.space.smallest)):
            raise ValueError(f"the smallest has {self.costs(self.space.smallest)}")
        return self.space.smallest

    def network(self, architecture):
        chosen = zip(self.layers, architecture.choices, strict=True)
        parts = [self.stem, *(layer[choice] for layer, choice in chosen)]
        with seeded_modules(0):
            network = TinyPaths(self.space, self.n_classes, self.classifier.in_features)
        copied = nn.Sequential(
            network.stem,
            *(
                layer[choice]
                for layer, choice in zip(network.layers, architecture.choices, strict=True)
            ),
            network.pool,
            network.classifier,
        )
        for mine, theirs in zip(copied, [*parts, self.pool, self.classifier], strict=True):
            mine.load_state_dict(theirs.state_dict())
        return copied.to(self.classifier.weight)

    def steps(self, architecture):
        return [
            Step("stem", self.stem),
            *(
                Step((place, choice), self.layers[place][choice])
                for place, choice in enumerate(architecture.choices)
            ),
            Step("pool", self.pool),
            Step("classifier", self.classifier),
        ]


def tiny_paths(seed=0, **sizes):
    with seeded_modules(seed):
        return TinyPaths(**sizes)


def drawn(space, n, seed=0):
    """Different architectures, among them some that share their first choices."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    while len(found) < n:
        genes = [int(torch.randint(k, (), generator=generator)) for k in space.genes]
        found[space.decode(genes)] = None
    return list(found)
