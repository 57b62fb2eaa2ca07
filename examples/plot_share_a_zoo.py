"""
Share what was learnt
=====================

A fitted classifier has a searched supernet. Put it into a zoo, share the zoo, and the next task of
the kind starts from there, on whatever computer.

The zoo is shared through the Hub that ``HF_ENDPOINT`` names, if it is set, and else as a folder, so
that this page needs no network. To see it go through a Hub without an account, start the one of the
package's tests, ``python tests/hub_server.py``, and set the variables that it prints.
"""

# %%
# A zoo of your own begins with a part of the builtin one, or empty.

import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from supernetnas import (
    DistanceDisplay,
    Retraining,
    SmoothDARTS,
    SupernetTransferClassifier,
    Zoo,
)

folder = Path(tempfile.mkdtemp())
zoo = Zoo.open("builtin").save(folder / "zoo", ["cifar10", "flowers5", "mnist5k", "omniglot"])
print(zoo)

# %%
# Somebody solves a task with it, here a third of scikit-learn's digits, in few epochs. Strategy
# ``"ot"`` keeps a signature of the images, which a source is chosen by.

X, y = load_digits(return_X_y=True)
X_mine, X_yours, y_mine, y_yours = train_test_split(X, y, train_size=0.3, random_state=0)
settings = {"search": SmoothDARTS(epochs=2), "retraining": Retraining(epochs=8), "random_state": 0}
clf = SupernetTransferClassifier("ot", zoo=zoo, **settings).fit(X_mine, y_mine)
accuracy = clf.score(X_yours, y_yours)
print(f"started from {clf.source_}, {accuracy:.3f} of the others are right")

# %%
# The searched supernet becomes a source. The card says where its images come from, under which
# licence, and how well it does.

card = {
    "dataset": "Optical recognition of handwritten digits",
    "upstream": "UCI Machine Learning Repository, test set",
    "licence": "CC BY 4.0",
    "metrics": {"accuracy": accuracy},
}
zoo.add_classifier(clf, "digits", card=card)
assert zoo.verify() == []

# %%
# Sharing it is one line: one commit to a repository, which is made if need be.

if "HF_ENDPOINT" in os.environ:
    print(zoo.push_to_hub("org/digits-zoo").url)
    shared = Zoo.from_pretrained("org/digits-zoo")
else:
    shared = zoo.save(folder / "shared")
print(shared)

# %%
# Somebody else has other images of digits. To rank the sources, the signatures are fetched; then
# the supernet of the nearest source alone. It is the one that was shared.

theirs = SupernetTransferClassifier("ot", zoo=shared, **settings).fit(X_yours[:400], y_yours[:400])
assert theirs.source_ == "digits"
DistanceDisplay(theirs.distances_).plot()
plt.show()
