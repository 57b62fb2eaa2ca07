import pytest
from PIL import Image

from supernetnas import load_images
from supernetnas.images.class_folders import is_foreign, training_split
from supernetnas.images.image_files import image_paths


@pytest.mark.parametrize(
    ("names", "training"),
    [
        (["test", "train", "unlabeled"], "train"),
        (["Test Set", "Training Set"], "Training Set"),
        (["test_set", "train_set"], "train_set"),
        (["TestData", "TrainData"], "TrainData"),
        (["testset", "trainset"], "trainset"),
        (["test-images", "train-images"], "train-images"),
        (["train2017", "val2017"], "train2017"),
        (["seg_pred", "seg_test", "seg_train"], "seg_train"),
        (["asl_alphabet_test", "asl_alphabet_train"], "asl_alphabet_train"),
        (["annotations", "train", "val"], "train"),
        (["dev", "eval"], "dev"),
        (["fold1", "fold2", "fold3"], "fold1"),
        (["train"], "train"),
    ],
)
def test_splits(names, training):
    assert training_split(names) == training


@pytest.mark.parametrize(
    "names",
    [
        ["bus", "car", "train"],
        ["test strip", "test tube"],
        ["train_cat", "train_dog"],
        ["data", "images"],
        ["set1", "set2"],
        ["cat", "test"],
        ["contest", "trainer", "valley"],
        ["1", "2"],
        ["日本", "中国"],
        ["cat"],
        [],
    ],
)
def test_classes(names):
    assert training_split(names) is None


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "@EADIR", ".cache", "lost+found"])
def test_foreign_folders(tmp_path, name):
    assert is_foreign(name)
    for path in ("cat/1.jpg", "dog/1.jpg", f"{name}/1.jpg", f"cat/{name}/1.jpg/THUMB_M.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / path)
    assert load_images(tmp_path)[1].tolist() == ["cat", "dog"]
    assert len(image_paths(tmp_path)) == 2


@pytest.mark.parametrize("other", ["__MACOSX", "test", "Test Set"])
def test_load_images_says_which_to_load(tmp_path, other):
    for name in ("train", other):
        (tmp_path / name / "cat").mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / name / "cat/1.png")
    with pytest.raises(ValueError, match=r"splits of a dataset.*one of them instead: '.*train'"):
        load_images(tmp_path)
