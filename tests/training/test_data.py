"""`MaskedImages`: who trains, validates and tests, and batches that do not depend on how they are read."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from zennit_isnet.errors import InvalidValueError
from zennit_isnet.training import ISNetClassifier, MaskedData, MaskedImages

COLUMNS = ("file", "mask", "label", "part", "patient")


@pytest.fixture
def table(tmp_path):
    """Twelve images of six patients and three classes, in a table with names of its own."""
    rows = []
    for index in range(12):
        for kind, level in (("image", 20 * index), ("mask", 255)):
            picture = Image.new("L", (20, 10), level if kind == "image" else 0)
            picture.paste(255 if kind == "mask" else level + 10, (2, 2, 12, 8))
            picture.save(tmp_path / f"{kind}{index}.png")
        part = ("train", "train", "val", "test")[index % 4]
        label = ("normal", "covid", "other")[index // 2 % 3]
        rows.append((f"image{index}.png", f"mask{index}.png", label, part, f"p{index // 2}"))
    with (tmp_path / "films.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return str(tmp_path / "films.csv")


def opened(table, **options):
    return MaskedImages(table, columns={"image": "file"}, size=8, fit="whole", batch_size=2, **options)


def names(data, part):
    """The images of a part by their numbers."""
    part = getattr(data, part)
    found = []
    for index in range(len(part)):
        inner, at = part, index
        while hasattr(inner, "indices"):
            inner, at = inner.dataset, inner.indices[at]
        found.append(int(inner.name(at).rpartition("image")[2].removesuffix(".png")))
    return found


def test_a_column_says_who_trains_validates_and_tests(table):
    data = opened(table, split="part")
    assert names(data, "train") == [0, 1, 4, 5, 8, 9]
    assert names(data, "val") == [2, 6, 10]
    assert data.describe("test", [0]) == [(table.replace("films.csv", "image3.png"),) * 2]


def test_a_group_stays_together(table):
    data = opened(table, group="patient", val_share=0.3)
    train, val = ({number // 2 for number in names(data, part)} for part in ("train", "val"))
    assert train | val == set(range(6))
    assert not train & val
    # of each class one of its two patients
    assert sorted(number % 3 for number in val) == [0, 1, 2]
    assert opened(table, group="patient", val_share=0.3, seed=1).val.indices != data.val.indices


def test_classes_have_the_order_that_is_given_and_others_are_left_out(table):
    data = opened(table, classes=["normal", "covid"])
    assert data.classes == ["normal", "covid"]
    assert set(names(data, "train")) | set(names(data, "val")) == {0, 1, 2, 3, 6, 7, 8, 9}
    labels = {number: int(data.train[at][2]) for at, number in enumerate(names(data, "train"))}
    assert all(label == (number // 2 % 3 == 1) for number, label in labels.items())


@pytest.fixture
def abroad(table, tmp_path):
    """The folder of another hospital, with as many images and the same numbers of patients."""
    return shutil.copytree(tmp_path, tmp_path / "abroad")


def test_another_table_tests_with_the_classes_of_the_training(table, abroad):
    tests = {"abroad": [str(abroad / "films.csv")]}
    data = opened(table, classes=["normal", "covid"], tests=tests, group="patient")
    images, masks, labels, has_mask, _ = next(iter(data.test_dataloader()[0]))
    assert images.shape == (2, 3, 8, 8)
    assert masks.dtype == torch.bool
    assert has_mask.all()
    assert [group for _, group in data.describe("abroad", [2, 0])] == ["p1", "p0"]
    assert set(labels.tolist()) <= {0, 1}


def test_numbers_of_classes_stand_for_their_names_and_a_test_may_lack_a_class(tmp_path):
    Image.new("1", (9, 9), 1).save(tmp_path / "mask.png")
    for name, labels in (("home", (0, 1, 0, 1)), ("abroad", (1, 1))):
        for number in range(len(labels)):
            Image.new("RGB", (9, 9)).save(tmp_path / f"{name}{number}.png")
        lines = ["image,mask,label", *(f"{name}{number}.png,mask.png,{label}" for number, label in enumerate(labels))]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    files = {"images": str(tmp_path / "home.csv"), "tests": {"abroad": [str(tmp_path / "abroad.csv")]}}
    data = MaskedImages(**files, classes=["normal", "covid"], size=8, val_share=0.5)
    assert data.classes == ["normal", "covid"]
    assert [data.tests["abroad"][index][2] for index in range(2)] == [1, 1]


def test_a_test_table_may_have_a_folder_of_its_own(table, abroad, tmp_path):
    (tmp_path / "tables").mkdir()
    moved = str((abroad / "films.csv").rename(tmp_path / "tables" / "films.csv"))
    data = opened(table, val=[moved, str(abroad)], tests={"abroad": [moved, str(abroad)]})
    assert (len(data.val), len(data.tests["abroad"])) == (12, 12)
    assert torch.equal(data.val[3][0], data.tests["abroad"][3][0])


def test_a_training_image_is_neither_tested_nor_used_for_validation(table, abroad):
    (abroad / "image7.png").unlink()
    (abroad / "image7.png").symlink_to(Path(table).parent / "image7.png")
    source = {"tests": {"abroad": [str(abroad / "films.csv")]}, "split": "part"}
    assert opened(table, **source).describe("abroad", [7]), "it is tested at home too"
    (abroad / "image8.png").unlink()
    (abroad / "image8.png").symlink_to(Path(table).parent / "image8.png")
    with pytest.raises(InvalidValueError, match=r"got 1 of 12 in 'abroad': .*image8\.png"):
        opened(table, **source)
    with pytest.raises(InvalidValueError, match="got 12 of 12 in 'val'"):
        opened(table, val=[table])


def test_patients_of_one_table_are_not_trained_and_tested_in_two_versions_of_their_images(table, abroad):
    with pytest.raises(InvalidValueError, match=r"must not be split; 'p\d' is in \w+ and in enhanced"):
        opened(table, group="patient", tests={"enhanced": [table, str(abroad)]})


def test_an_image_in_several_rows_stays_in_one_part(table):
    head, *rows = Path(table).read_text().splitlines()
    Path(table).write_text("\n".join([head, *rows, *rows, *rows]))
    data = opened(table, val_share=0.4)
    assert set(names(data, "val")).isdisjoint(names(data, "train"))


def test_an_image_with_a_blank_cell_is_a_group_of_its_own(table):
    text = Path(table).read_text()
    Path(table).write_text(text.replace(",p1", ",").replace(",p3", ", ").replace(",p5", ","))
    with pytest.warns(UserWarning, match="^6 of 12 images have a blank cell in the column 'patient'") as warned:
        data = opened(table, group="patient", split="part")
    assert len(warned) == 1
    assert data.describe("test", [0]) == [(table.replace("films.csv", "image3.png"),) * 2]


def test_a_run_is_not_resumed_on_other_images_but_tested(table, abroad, net, trainer, tmp_path):
    def run(epochs, **options):
        one = trainer(epochs)
        one.fit(ISNetClassifier(net(), weight=0.0), opened(table, classes=["normal", "covid"]), **options)
        return one

    last = tmp_path / "last.ckpt"
    run(1).save_checkpoint(last)
    run(2, ckpt_path=last)
    rows = Path(table).read_text().splitlines()
    Path(table).write_text("\n".join(rows[:1] + rows[2:]))
    with pytest.raises(InvalidValueError, match="training and validation images, and labels, that it began with"):
        run(2, ckpt_path=last)
    data = opened(table, classes=["normal", "covid"], tests={"abroad": [str(abroad / "films.csv")]})
    tested = ISNetClassifier(net())
    trainer(1).test(tested, data, ckpt_path=last, verbose=False)
    assert len(tested.results["abroad"]["labels"]) == 8


def test_a_test_table_has_as_many_labels_an_image_as_the_training_has(table, tmp_path):
    (tmp_path / "several.csv").write_text("file,mask,label\nimage0.png,mask0.png,normal|covid\n")
    with pytest.raises(InvalidValueError, match="must have one label"):
        opened(table, tests={"several": [str(tmp_path / "several.csv")]})


def test_a_test_table_needs_the_column_of_the_groups(table, abroad):
    (abroad / "bare.csv").write_text("file,mask,label\nimage0.png,mask0.png,normal\n")
    with pytest.raises(InvalidValueError, match="column must be one of image, mask, label; got 'patient'"):
        opened(table, group="patient", tests={"bare": [str(abroad / "bare.csv")]})


def test_grey_images_have_one_channel(table):
    data = opened(table, channels=1)
    assert data.train[0][0].shape == (1, 8, 8)
    assert data.mean == [pytest.approx(0.449)]


@pytest.mark.parametrize(("fit", "sees"), [("crop", False), ("whole", True)])
def test_only_the_whole_image_has_its_corners(tmp_path, fit, sees):
    for kind in ("images", "masks"):
        for name in ("a", "b"):
            (tmp_path / kind / name).mkdir(parents=True)
            for number in range(3):
                picture = Image.new("L", (64, 64), 0)
                if kind == "images":
                    picture.paste(255, (0, 0, 4, 4))
                picture.paste(128 if kind == "images" else 255, (24, 24, 40, 40))
                picture.save(tmp_path / kind / name / f"{number}.png")
    folders = str(tmp_path / "images"), str(tmp_path / "masks")
    data = MaskedImages(*folders, size=32, fit=fit, mean=[0.0], std=[1.0])
    assert (data.val[0][0][:, :2, :2].max() > 0.9).item() is sees


def test_order_and_transforms_depend_on_seed_and_epoch_alone(table):
    def epoch(number, **options):
        data = opened(table, **options)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        torch.manual_seed(options.get("workers", 7))
        return [batch[0] for batch in loader]

    first, again = epoch(0), epoch(0)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, epoch(1)))
    assert not all(map(torch.equal, first, epoch(0, seed=1)))


def test_the_benchmark_is_tested_on_four_backgrounds():
    data = MaskedImages(benchmark="patch")
    assert list(data.tests) == [f"{kind} backgrounds" for kind in ("biased", "unbiased", "confounding", "none")]
    assert data.train[0][0].shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"images": None}, "pass either images or benchmark"),
        ({"images": "."}, "a folder of images needs a folder of masks; got only '.'"),
        ({"mean": [0.5]}, "mean and std"),
        ({"split": "part", "val": ["x.csv"]}, "pass either val or split"),
        ({"split": "nowhere"}, r"one of .*part.*'nowhere'"),
        ({"split": "patient"}, "'patient' must contain train, val, test; got p0, p1"),
        ({"split": "part", "group": "patient"}, "'patient' must not be split; 'p1' is in val and in test"),
        ({"benchmark": "patch", "images": None, "channels": 1}, "channels=3; got channels=1"),
        ({"split": "part", "tests": {"test": ["films.csv"]}}, "must not be named 'test'"),
        ({"classes": ["covid"]}, "at least two classes; got only 'covid'"),
        ({"classes": ["cat"]}, "must have images of the classes cat"),
        ({"classes": ["normal", "covdi"]}, "must have a training image; got none for covdi"),
        ({"columns": {"image": "picture"}}, "'picture' for image, but table .* has file, mask, label, part, patient"),
    ],
)
def test_options_that_do_not_fit_are_named(table, options, says, monkeypatch):
    monkeypatch.chdir(Path(table).parent)
    with pytest.raises(InvalidValueError, match=says):
        MaskedImages(**{"images": table, "columns": {"image": "file"}, **options})


def test_a_batch_larger_than_the_data_is_refused(data):
    with pytest.raises(InvalidValueError, match="18 training images in 1 process"):
        MaskedData(data().train, data().val, batch_size=19).train_dataloader()
