"""The example of the README: handwritten digits, from the pixels to a trained network."""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from supernetnas import SupernetTransferClassifier

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
clf = SupernetTransferClassifier(random_state=0).fit(X_train, y_train)
print(clf.score(X_test, y_test), clf.source_, clf.genotype_)
