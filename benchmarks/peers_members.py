"""Are the networks of a front better trained together, or one after another?

    python benchmarks/peers_members.py ZOO flowers5.npz sports.npz --seeds 0 1 --most 400

Arguments are those of ``peers.py``. All peers train the same members, which the search of a front
chooses, on the same images, those that it does not hold out, in as many epochs and by the same
optimiser; the largest and its smaller input sizes keep the same first stages. The largest teaches.

- "front": all in one fit; the smaller members share their weights.
- "one after another": the largest alone, then each member alone. As "one by one fair" members begin
  with the shared weights and the statistics that the front begins with, too; as "slices" with a
  slice of the fine-tuned largest, and statistics of the images that they are trained on. Seconds
  are those of either with the largest.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from common import add_output, write_results
from peers import Row, Split, add_arguments, front, known, measure, table
from torch import Tensor, nn

from supernetnas import Retraining, SupernetTransferClassifier
from supernetnas.families.base import get_family
from supernetnas.families.elastic import ElasticArchitecture, ElasticSupernet
from supernetnas.families.elastic.layers import sort_channels
from supernetnas.families.elastic.lite0 import LITE0_SPACE
from supernetnas.families.elastic.member_search import Front, MemberSearch
from supernetnas.families.elastic.network import Network
from supernetnas.fitting.retraining import retrain
from supernetnas.images.augmentation import StandardisedImages
from supernetnas.search.distillation import divergence
from supernetnas.search.method import SearchTask
from supernetnas.training.clock import Stopwatch
from supernetnas.training.probes import linear_head
from supernetnas.training.seeds import seeded_modules

_SIZE = 96  # as in the peer "front"
_N_FROZEN = 3  # stages: what "auto" is
_DROPOUT = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, list(PEERS))
    add_output(parser, __file__, "continued if it exists")
    arguments = parser.parse_args()
    rows = known(arguments.out)
    for _ in measure(arguments, PEERS, rows):
        write_results(arguments.out, rows=rows)
    print(table(rows))


def one_after_another(split: Split, seed: int, zoo: str) -> list[Row]:
    """The largest alone, then every other member alone, from each start."""
    X, X_test, y, y_test = split
    began = time.process_time()
    method = BegunFront()
    clf = SupernetTransferClassifier(
        "multi",
        family="elastic",
        zoo=zoo,
        search=method,
        image_size=_SIZE,
        random_state=seed,
        retraining=Retraining(1, learning_rate=1e-9),
    ).fit(X, y)  # for its members and images, and to predict with
    search = method.begun
    settings = Retraining().settings(get_family("elastic").retraining(True), 32)

    def trained(network: Network, teacher: Network | None) -> Row:
        alone = Alone(network, search.deviation, teacher)
        generator = torch.Generator().manual_seed(seed)
        retrain(alone, search.train, settings, generator)
        clf.network_ = network.eval()
        macs = search.supernet.costs(network.config.architecture).macs
        return {"accuracy": clf.score(X_test, y_test), "macs": macs}

    largest = with_head(search.supernet, search.members[0], search.heads[0])
    first = trained(largest, None)
    shared, rows = time.process_time() - began, []
    for name, starts in (("one by one fair", as_in_front), ("slices", from_largest)):
        began = time.process_time()
        found = [first, *(trained(network, largest) for network in starts(search, largest))]
        seconds = round(shared + time.process_time() - began, 1)
        for place, row in enumerate(found):
            rows.append({"peer": f"{name} {place}", **row, "seconds": seconds})
    return rows


def as_in_front(search: MemberSearch, largest: Network) -> list[Network]:
    """Members but the largest, from where the front begins."""
    begun = zip(search.members[1:], search.heads[1:], strict=True)
    return [with_head(search.supernet, member, head) for member, head in begun]


def from_largest(search: MemberSearch, largest: Network) -> list[Network]:
    """Members but the largest, as slices of the fine-tuned largest."""
    members, train = search.members[1:], search.train
    supernet = sliced(search.supernet, largest, members, train.images)
    found = []
    for member in members:
        features = _features(supernet, member, train.images)
        head = linear_head(features, train.labels.numpy(), supernet.config.n_classes)
        found.append(with_head(supernet, member, head))
    return found


class BegunFront(Front):
    """A front that keeps its search as it is before anything is trained."""

    begun: MemberSearch

    def derive(
        self, search: MemberSearch, task: SearchTask, stopwatch: Stopwatch | None = None
    ) -> ElasticArchitecture:
        """Return the architecture."""
        self.begun = copy.copy(search)
        self.begun.supernet = copy.deepcopy(search.supernet).eval()
        return super().derive(search, task, stopwatch)


class Alone(nn.Module):
    """A member that is trained alone, by the loss that `FineTuning` gives it beside others.

    Parameters
    ----------
    network : Network
        In which the largest member's first stages, if it is that one, stay as they are.
    deviation : torch.Tensor of shape (features,)
        Of the largest member's features before its training.
    teacher : Network, optional
        The largest, which is not trained any more. Without it labels alone teach.
    """

    def __init__(self, network: Network, deviation: Tensor, teacher: Network | None) -> None:
        super().__init__()
        self.network, self.deviation = network.requires_grad_(True), deviation
        self.teacher = None if teacher is None else teacher.requires_grad_(False)
        if LITE0_SPACE.is_whole(network.config.architecture):
            trunk = network.trunk
            for module in (trunk.stem, trunk.stem_norm, trunk.stages[:_N_FROZEN]):
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> Alone:
        """Set the mode, but of batch norms, which keep their statistics."""
        super().train(mode)
        self.network.trunk.eval()
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        return self.network(images)

    def training_loss(
        self, images: Tensor, labels: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Loss of a batch, and the class scores."""
        features = self.network.features(images)
        scores = self.network.classifier(self.network.dropout(features))
        loss = criterion(scores, labels)
        if self.teacher is not None:
            with torch.no_grad():
                seen = self.teacher.features(images)
                taught = self.teacher.classifier(seen)
            loss = (loss + divergence(scores, taught, "kl", 1.0)) / 2
            loss = loss + F.smooth_l1_loss(features / self.deviation, seen / self.deviation)
        return loss, scores


def sliced(
    supernet: ElasticSupernet,
    largest: Network,
    members: Sequence[ElasticArchitecture],
    images: StandardisedImages,
) -> ElasticSupernet:
    """Return a supernet whose members are slices of a trained largest one.

    Their channels are sorted by importance anew; their statistics are those of the images.
    """
    smaller = tuple(member for member in members if not LITE0_SPACE.is_whole(member))
    with seeded_modules(0):
        found = ElasticSupernet(replace(supernet.config, members=smaller, front=()))
    for trunk in (found.largest, found.shared):
        trunk.load_state_dict(largest.trunk.state_dict())
    sort_channels(found.shared)
    found.recalibrate(images, generator=torch.Generator().manual_seed(0))
    return found.eval()


def with_head(
    supernet: ElasticSupernet, member: ElasticArchitecture, head: tuple[Tensor, Tensor]
) -> Network:
    """Return the network of a member, with a classifier and dropout."""
    network = supernet.network(member, dropout=_DROPOUT)
    network.classifier.load_state_dict(dict(zip(("weight", "bias"), head, strict=True)))
    return network


@torch.no_grad()
def _features(
    supernet: ElasticSupernet, member: ElasticArchitecture, images: StandardisedImages
) -> np.ndarray:
    batches = torch.arange(len(images)).split(64)
    return torch.cat([supernet.features(images.clean(i), member) for i in batches]).numpy()


PEERS: dict[str, Callable[[Split, int, str], list[Row]]] = {
    "front": front,
    "one after another": one_after_another,
}


if __name__ == "__main__":
    main()
