"""
Your photographs, from a folder to a saved model
================================================

A folder with one folder per class is all that is needed. The pictures here are pieces of the two
photographs that come with scikit-learn (by danielbuechele and vultilion, CC BY 2.0), and they stand
in for yours: five kinds of things to tell apart, easy ones, since pieces of one photograph resemble
each other.
"""

# %%
# Cut the pieces. Those that are trained on come from the left of each region, those that are tested
# on from its right, and no two of them overlap. With photographs of your own, see to the same: of
# pictures of one object, one scene or one patient, none is trained on while another is tested on.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image
from sklearn.datasets import load_sample_image
from sklearn.metrics import classification_report, confusion_matrix

from supernetnas import ConfusionDisplay, Retraining, SupernetTransferClassifier, load_images

REGIONS = {  # photograph, left, top, right, bottom
    "facade": ("china.jpg", 80, 130, 340, 340),
    "foliage": ("china.jpg", 380, 320, 610, 427),
    "sky": ("china.jpg", 350, 0, 640, 190),
    "petals": ("flower.jpg", 180, 110, 420, 340),
    "shade": ("flower.jpg", 430, 0, 640, 400),
}
SIDE, STEP = 48, 28

folder = Path(tempfile.mkdtemp())
for name, (photograph, left, top, right, bottom) in REGIONS.items():
    picture = Image.fromarray(load_sample_image(photograph))
    middle = left + 2 * (right - left) // 3
    for part, x0, x1 in (("train", left, middle), ("test", middle, right)):
        (folder / part / name).mkdir(parents=True)
        for y in range(top, bottom - SIDE + 1, STEP):
            for x in range(x0, x1 - SIDE + 1, STEP):
                piece = picture.crop((x, y, x + SIDE, y + SIDE))
                piece.save(folder / part / name / f"{x:03}-{y:03}.jpg", quality=95)

# %%
# Read the folders. The images stay files until they are needed.

files, labels = load_images(folder / "train")
test_files, test_labels = load_images(folder / "test")
print(f"{len(files)} images to train on, {len(test_files)} to test on")

figure, axes = plt.subplots(1, 5, figsize=(7, 1.8), layout="constrained", facecolor="none")
for ax, name in zip(axes, REGIONS, strict=True):
    own = [file for file, label in zip(files, labels, strict=True) if label == name]
    ax.imshow(Image.open(own[len(own) // 2]))
    ax.set_title(name, fontsize="small", color="gray")  # to be read on white and on black
    ax.axis("off")
plt.show()

# %%
# Fit a network with ImageNet weights, which photographs usually do best with. Without ``"multi"``
# and the family, cells are tried as well. Five epochs are few; leave ``retraining`` out for a
# result that counts.

clf = SupernetTransferClassifier(
    "multi", family="elastic", retraining=Retraining(epochs=5), random_state=0
)
clf.fit(files, labels)
print(f"started from {clf.source_}, sees {clf.image_size_[0]} x {clf.image_size_[1]} pixels")
print(f"{clf.n_parameters_:,} parameters, {clf.n_macs_:,} multiply-accumulates an image")

# %%
# How good is it, on pieces that it has not seen? Overall, class by class, and what it takes for
# what.

predicted = clf.predict(test_files)
print(classification_report(test_labels, predicted, zero_division=0))
ConfusionDisplay(confusion_matrix(test_labels, predicted), clf.classes_).plot(colorbar=False)
plt.show()

# %%
# The files that it gets wrong, most confident first, are worth a look: some will have a wrong
# label, as the pieces of sky that a treetop reaches into.

probabilities = clf.predict_proba(test_files).max(axis=1)
wrong = [i for i in probabilities.argsort()[::-1] if predicted[i] != test_labels[i]]
for i in wrong[:5]:
    path = Path(test_files[i])
    print(f"{path.parent.name}/{path.name} looks like {predicted[i]} ({probabilities[i]:.2f})")
print(f"{len(wrong)} of {len(test_files)} are wrong")

# %%
# Keep the model, and use it in another program. The folder holds no code.

clf.save_pretrained(folder / "model")
again = SupernetTransferClassifier.from_pretrained(folder / "model")
print(again.predict(test_files[:3]))
