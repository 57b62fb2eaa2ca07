"""
An architecture for handwritten digits
======================================

Search an architecture for the digits of scikit-learn, starting from the supernet that was
pretrained on many datasets, and look at what was found.
"""

# %%
# Half of the images, so that the example runs in seconds.

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from supernetnas import (
    CellDisplay,
    Retraining,
    SearchCurveDisplay,
    SmoothDARTS,
    SupernetTransferClassifier,
)

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, train_size=0.5, stratify=y, random_state=0
)
clf = SupernetTransferClassifier(
    search=SmoothDARTS(epochs=4), retraining=Retraining(epochs=10), random_state=0
)
clf.fit(X_train, y_train)
print(f"accuracy {clf.score(X_test, y_test):.3f}")
print(f"{clf.n_parameters_:,} parameters, {clf.n_macs_:,} multiply-accumulates an image")

# %%
# The search: accuracy of the supernet, epoch by epoch.

SearchCurveDisplay.from_estimator(clf)
plt.show()

# %%
# The normal cell. ``c_{k-1}`` and ``c_{k-2}`` are the outputs of the two cells before; each of the
# four nodes adds up two operations.

CellDisplay.from_estimator(clf, cell="normal")
plt.show()

# %%
# The cell that halves the image.

CellDisplay.from_estimator(clf, cell="reduce")
plt.show()
