"""
Which dataset is like mine?
===========================

Strategy ``"ot"`` starts from the source at the smallest optimal transport dataset distance. Here
the distances are measured on their own: between the sources of the zoo, and from the digits of
scikit-learn to them. No image of a source is needed; its signature is in the zoo.
"""

# %%
# Between some sources of the zoo.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from supernetnas import (
    DatasetSignature,
    DistanceDisplay,
    DistanceHeatmapDisplay,
    Zoo,
    get_embedder,
)
from supernetnas.images.reading import as_image_set
from supernetnas.selection.ranking import rank_sources

zoo = Zoo.open("builtin")
names = ["aid_aerial", "butterflies", "flowers5", "magnetic_tile", "mnist5k", "omniglot"]
signatures = [zoo[name].signature() for name in names]
distances = np.array([[a.distance(b).distance for b in signatures] for a in signatures])
DistanceHeatmapDisplay(distances, names).plot()
plt.show()

# %%
# From the digits to every source. The embedder must be the one that the zoo was made with.

X, y = load_digits(return_X_y=True)
embedder = get_embedder()
digits = DatasetSignature.from_features(
    embedder.embed(as_image_set(X[:500])), y[:500], embedder_id=embedder.identity
)
ranking = rank_sources(digits, zoo)
DistanceDisplay(ranking).plot()
plt.show()
