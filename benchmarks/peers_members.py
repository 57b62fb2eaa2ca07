"""Are the networks of a front better trained together, or one after another?

    python benchmarks/peers_members.py ZOO flowers5.npz sports.npz --seeds 0 1 --most 400

Arguments are those of ``peers.py``. All peers train the same members, which the search of a front
chooses, on the same images, those that it does not hold out, in as many epochs, by the same losses
and the same optimiser; the largest keeps the same first stages, and teaches after its training.

- "front": one fit; the smaller members are trained together and share their weights.
- "one after another": the largest, then each member of another shape alone. As "one by one fair"
  members begin with the shared weights and the statistics that the front begins with, too; as
  "slices" with a slice of the fine-tuned largest, and statistics of the images that they are
  trained on. Seconds are those of either with the largest.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from common import add_output, write_results
from peers import Row, Split, add_arguments, front, known, measure, table
from torch import Tensor

from supernetnas import Retraining, SupernetTransferClassifier
from supernetnas.families.base import get_family
from supernetnas.families.elastic import ElasticArchitecture, ElasticSupernet
from supernetnas.families.elastic.finetuning import FineTuning, Taught
from supernetnas.families.elastic.layers import sort_channels
from supernetnas.families.elastic.member_search import Front, MemberSearch
from supernetnas.fitting.retraining import retrain
from supernetnas.images.augmentation import StandardisedImages
from supernetnas.search.method import SearchTask
from supernetnas.training.clock import Stopwatch
from supernetnas.training.probes import linear_head
from supernetnas.training.seeds import seeded_modules

_SIZE = 96  # as in the peer "front"


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
    search, family = method.begun, get_family("elastic")
    settings = Retraining().settings(family.retraining(True), 32)
    seen = family.input((_SIZE, _SIZE), X.shape[-1], _SIZE)
    stages = family.planned(search.supernet, None, seen, method, settings.epochs)
    patient = replace(settings, epochs=stages["teach"][0])  # as in the front
    largest = search.members[0]
    first, _ = family.learner(search, largest, dropout=settings.dropout, seed=seed, pretrained=True)
    generator = torch.Generator().manual_seed(seed)
    retrain(first, family.training_data(first, search.train, generator), settings, generator)

    def measured(module: FineTuning | Taught, member: ElasticArchitecture) -> Row:
        clf.network_ = family.trained(module, member)
        macs = search.supernet.costs(member).macs
        return {"accuracy": clf.score(X_test, y_test), "macs": macs}

    rows = []
    row_of_largest = measured(first, largest)
    shared = time.process_time() - began
    for name, start in (("one by one fair", as_in_front), ("slices", from_largest)):
        began = time.process_time()
        found = {0: row_of_largest}
        for place, member in enumerate(search.members):
            if search.supernet.config.space.is_whole(member):
                continue
            module = family.taught(start(search, first, member))
            retrain(module, search.train, patient, torch.Generator().manual_seed(seed))
            found[place] = measured(module, member)
        seconds = round(shared + time.process_time() - began, 1)
        for place, row in found.items():
            rows.append({"peer": f"{name} {place}", **row, "seconds": seconds})
    return rows


def as_in_front(search: MemberSearch, first: FineTuning, member: ElasticArchitecture) -> FineTuning:
    """The trained largest, and a member as the front begins with it."""
    head = dict(zip(search.members[1:], search.heads, strict=True))[member]
    return _alone(first, copy.deepcopy(first.supernet), member, head)


def from_largest(
    search: MemberSearch, first: FineTuning, member: ElasticArchitecture
) -> FineTuning:
    """The trained largest, and a member as a slice of it."""
    train = search.train
    supernet = sliced(first.supernet, member, train.images)
    with torch.no_grad():
        batches = torch.arange(len(train)).split(64)
        features = [supernet.features(train.images.clean(index), member) for index in batches]
    head = linear_head(torch.cat(features).numpy(), train.labels.numpy(), supernet.config.n_classes)
    return _alone(first, supernet, member, head)


def _alone(
    first: FineTuning,
    supernet: ElasticSupernet,
    member: ElasticArchitecture,
    head: tuple[Tensor, Tensor],
) -> FineTuning:
    """Return a trained largest that is to teach one member of a supernet, which has it, too."""
    own = first.supernet.heads[0]
    found = copy.deepcopy(first)
    found.supernet, found.members = supernet, (first.members[0], member)
    supernet.take_heads(found.members, [(own.weight.detach(), own.bias.detach()), head])
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


def sliced(
    supernet: ElasticSupernet, member: ElasticArchitecture, images: StandardisedImages
) -> ElasticSupernet:
    """Return a supernet with the same largest member, of which another member is a slice.

    Channels are sorted by importance anew; the member's statistics are those of the images.
    """
    with seeded_modules(0):
        found = ElasticSupernet(replace(supernet.config, members=(member,), front=()))
    for trunk in (found.largest, found.shared):
        trunk.load_state_dict(supernet.largest.state_dict())
    sort_channels(found.shared)
    found.recalibrate(images, generator=torch.Generator().manual_seed(0))
    return found.eval()


PEERS: dict[str, Callable[[Split, int, str], list[Row]]] = {
    "front": front,
    "one after another": one_after_another,
}


if __name__ == "__main__":
    main()
