"""How is EfficientNet-Lite0 fine-tuned best from a few hundred images?

    python benchmarks/fine_tuning.py butterflies.npz omniglot.npz --device cuda

For every dataset, recipe and seed a fit on 300 images, and the accuracy on the other 100 and at
most 300 more; splits are those of `peers.py` with ``--most 400``. What is chosen on some datasets
is to be tested on others. A recipe is a base, all weights for 14 epochs at a rate of 5e-4, and what
it changes:

- ``frozen``: stages that stay as they are, and the stem with them;
- ``warm``: the classifier begins with a logistic regression, and not with small random weights;
- ``fresh``: how many times the rate the classifier learns at;
- ``epochs``, ``rate``, ``batch``, ``side`` (pixels);
- ``decay``: every stage learns at this share of the rate of the one behind it;
- ``average``: of an exponential average of the weights, which is what predicts;
- ``mix``: the parameter of mixup.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import add_output, write_results
from peers import Split, known, load, pixels
from torch import Tensor, nn

from supernetnas.families.elastic.lite0 import LITE0_SPACE, lite0_supernet
from supernetnas.families.elastic.network import Network
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.training.execution import Execution
from supernetnas.training.probes import linear_head


@dataclass(frozen=True)
class Recipe:
    frozen: int = 0
    warm: bool = False
    fresh: float = 10.0
    epochs: int = 14
    rate: float = 5e-4
    batch: int = 32
    side: int = 128
    decay: float = 1.0
    average: float = 0.0
    mix: float = 0.0


_LONG: dict[str, Any] = {"epochs": 25}
_FAST: dict[str, Any] = {"rate": 1e-3}
RECIPES = {
    "base": Recipe(),
    "3-frozen-warm-12-epochs": Recipe(frozen=3, warm=True, fresh=1, epochs=12),
    "warm": Recipe(warm=True, fresh=1),
    "warm-fresh-10": Recipe(warm=True),
    "3-frozen": Recipe(frozen=3),
    "2-frozen": Recipe(frozen=2),
    "1-frozen-warm": Recipe(frozen=1, warm=True, fresh=1),
    "long": Recipe(**_LONG),
    "3-frozen-warm-long": Recipe(frozen=3, warm=True, fresh=1, **_LONG),
    "3-frozen-long-fast": Recipe(frozen=3, **_LONG, **_FAST),
    "fast": Recipe(**_FAST),
    "long-fast": Recipe(**_LONG, **_FAST),
    "long-average": Recipe(**_LONG, average=0.97),
    "long-mix": Recipe(**_LONG, mix=0.2),
    "decay": Recipe(decay=0.7),
    "decay-fast": Recipe(decay=0.7, **_FAST),
    "decay-fast-long": Recipe(decay=0.7, **_LONG, **_FAST),
    "decay-fast-long-mix": Recipe(decay=0.7, **_LONG, **_FAST, mix=0.2),
    "decay-fast-40-epochs": Recipe(decay=0.7, epochs=40, **_FAST),
    "160-pixels": Recipe(side=160),
    "3-frozen-warm-12-epochs-160-pixels": Recipe(frozen=3, warm=True, fresh=1, epochs=12, side=160),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", type=Path, help=".npz files with X and y")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="cpu")
    add_output(parser, __file__, "continued if it exists")
    args = parser.parse_args()
    rows = known(args.out)
    done = {(row["dataset"], row["seed"], row["recipe"]) for row in rows}
    for seed in args.seeds:
        for name in args.recipes:
            for path in args.datasets:
                key = {"dataset": path.stem, "seed": seed, "recipe": name}
                if tuple(key.values()) in done:
                    continue
                split = load(path, 400, seed, 300)
                started = time.perf_counter()
                accuracy = fit(split, seed, RECIPES[name], torch.device(args.device))
                seconds = round(time.perf_counter() - started, 2)
                rows.append({**key, "accuracy": accuracy, "seconds": seconds})
                print(rows[-1], flush=True)
                recipes = {n: asdict(r) for n, r in RECIPES.items()}
                write_results(args.out, recipes=recipes, rows=rows)
    print(table(rows))


def fit(split: Split, seed: int, recipe: Recipe, device: torch.device) -> float:
    """Fine-tune, and return the test accuracy."""
    X, X_test, y, y_test = split
    network = lite0_supernet().network(LITE0_SPACE.largest.at(recipe.side))
    network.to(device, memory_format=torch.channels_last).eval()  # batch norms as they are
    half, photographs = torch.full((3,), 0.5), X.shape[1] > 32
    augmentation = Augmentation(flip=photographs, cutout=0.25 if photographs else 0)
    train = ImageTensors(pixels(X, recipe.side), half, half, augmentation, device)
    test = ImageTensors(pixels(X_test, recipe.side), half, half, device=device)
    draws = torch.Generator(device).manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    network.classifier = classifier(network, train, y, recipe.warm, order).to(device)
    network.dropout.share, network.dropout.generator = 0.2, draws
    network.dropout.train()
    labels = torch.from_numpy(y).to(device)
    groups = parameter_groups(network, recipe)
    trained = [parameter for group in groups for parameter in group["params"]]
    average = [parameter.detach().clone() for parameter in trained]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02)
    n_batches = max(1, round(len(y) / recipe.batch))
    size, step, n_steps = len(y) // n_batches, 0, recipe.epochs * n_batches
    for _ in range(recipe.epochs):
        for index in torch.randperm(len(y), generator=order)[: size * n_batches].split(size):
            share = min((step + 1) / (0.1 * n_steps), (1 + np.cos(np.pi * step / n_steps)) / 2)
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * share
            images = train.augmented(index.to(device), draws)
            target = F.one_hot(labels[index.to(device)], int(y.max()) + 1).float()
            if recipe.mix:
                part = np.random.default_rng([seed, step]).beta(recipe.mix, recipe.mix)
                other = torch.randperm(len(index), generator=order).to(device)
                images = part * images + (1 - part) * images[other]
                target = part * target + (1 - part) * target[other]
            with Execution().autocast(device):
                scores = network(images)
            F.cross_entropy(scores.float(), target, label_smoothing=0.1).backward()
            nn.utils.clip_grad_norm_(trained, 5.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if recipe.average:
                torch._foreach_lerp_(average, [p.detach() for p in trained], 1 - recipe.average)
    network.eval()
    with torch.no_grad():
        if recipe.average:
            for parameter, mean in zip(trained, average, strict=True):
                parameter.copy_(mean)
        batches = torch.arange(len(y_test)).split(100)
        found = torch.cat([network(test.clean(index)).argmax(1) for index in batches])
    return float((found.cpu().numpy() == y_test).mean())


def classifier(
    network: Network, train: ImageTensors, y: np.ndarray, warm: bool, generator: torch.Generator
) -> nn.Linear:
    """A new classifier: of small random weights, or those of a logistic regression."""
    n_classes = int(y.max()) + 1
    head = nn.utils.skip_init(nn.Linear, network.classifier.in_features, n_classes)
    with torch.no_grad():
        if warm:
            batches = torch.arange(len(y)).split(64)
            features = torch.cat([network.features(train.clean(index)) for index in batches])
            weight, bias = linear_head(features.cpu().numpy(), y, n_classes)
            head.weight.copy_(weight)
            head.bias.copy_(bias)
        else:
            head.weight.normal_(0, 0.01, generator=generator)
            head.bias.zero_()
    return head


def parameter_groups(network: Network, recipe: Recipe) -> list[dict[str, Any]]:
    """What is trained, and at which rate."""
    trunk = network.trunk
    parts: list[list[Tensor]] = [
        [*trunk.stem.parameters(), *trunk.stem_norm.parameters()],
        *(list(stage.parameters()) for stage in trunk.stages),
        [*trunk.head.parameters(), *trunk.head_norm.parameters()],
    ]
    network.requires_grad_(True)
    groups = []
    for place, part in enumerate(parts):
        if recipe.frozen and place <= recipe.frozen:
            for parameter in part:
                parameter.requires_grad_(False)
            continue
        base = recipe.rate * recipe.decay ** (len(parts) - 1 - place)
        groups.append({"params": part, "base": base})
    head = list(network.classifier.parameters())
    return [*groups, {"params": head, "base": recipe.rate * recipe.fresh}]


def table(rows: list[dict[str, Any]]) -> str:
    """Mean accuracies over the seeds, as Markdown."""
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    lines = [f"| recipe | {' | '.join(datasets)} | mean |", "|---" * (len(datasets) + 2) + "|"]
    for name in dict.fromkeys(row["recipe"] for row in rows):
        means = []
        for dataset in datasets:
            own = [r["accuracy"] for r in rows if (r["recipe"], r["dataset"]) == (name, dataset)]
            means.append(float(np.mean(own)) if own else float("nan"))
        cells = " | ".join(f"{mean:.3f}" for mean in means)
        lines.append(f"| {name} | {cells} | {np.mean(means):.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
