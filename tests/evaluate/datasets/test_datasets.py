"""The data sets of the evaluation, read from miniatures in exactly their layouts and encodings."""

import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_surgery_hub.evaluate.datasets import DATASETS, open_dataset
from clip_surgery_hub.evaluate.datasets.classes import load_classes
from clip_surgery_hub.images.loading import load_image
from tests.support.miniature_datasets import CONTEXT_LABELS, MINIATURES, Miniature, opened, save
from tests.support.paths import ROOT


@pytest.fixture(params=MINIATURES)
def miniature(request: pytest.FixtureRequest, tmp_path: Path) -> Miniature:
    return MINIATURES[request.param](tmp_path)


def test_every_data_set_has_a_miniature_or_is_generated() -> None:
    keys = "voc2012 voc2012_21 context59 context60 coco_object coco_stuff coco_stuff27 ade20k cityscapes"
    assert list(DATASETS) == [*keys.split(), "imagenet_s", "nus_wide", "coco_multilabel", "scenes"]
    assert {name.split()[0].strip(",") for name in MINIATURES} == set(DATASETS) - {"scenes"}


def test_images_and_truth_are_read_pixel_by_pixel(miniature: Miniature) -> None:
    dataset = opened(miniature)
    entry = DATASETS[miniature.key]
    assert (dataset.key, dataset.title, dataset.tasks) == (miniature.key, entry.title, entry.tasks)
    assert dataset.split == miniature.split or dataset.split == entry.splits[0]
    assert dataset.names() == miniature.names and len(dataset) == 3
    for index, (name, drawn, truth) in enumerate(
        zip(miniature.names, miniature.images, miniature.truth, strict=True)
    ):
        sample = dataset.sample(index)
        assert sample.name == name
        assert sample.image.mode == "RGB" and sample.image.size == drawn.shape[1::-1]
        assert (
            np.abs(np.asarray(sample.image).astype(int) - drawn).max() <= 12
        )  # JPEG, at the quarters' seams
        assert sample.labels.dtype == bool and sample.labels.shape == (len(dataset.classes),)
        if truth.ndim == 1:
            assert sample.segmentation is None and dataset.tasks == ("recognize",)
            assert np.array_equal(sample.labels, truth)
        else:
            assert sample.segmentation.dtype == np.int16
            assert np.array_equal(sample.segmentation, truth)
            shown = set(truth[truth >= 0].tolist()) - {dataset.classes.background}
            assert set(np.flatnonzero(sample.labels)) == shown


def test_opening_reads_no_image_and_a_missing_one_is_named(miniature: Miniature) -> None:
    files = [
        file for file in miniature.path.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".mat")
    ]
    masks = "JPEGImages|leftImg8bit|images|validation/|Flickr|val20"
    for file in files:
        file.write_bytes(b"")
    dataset = opened(miniature)
    assert dataset.names() == miniature.names
    with pytest.raises(ValueError, match=rf"^The (image|mask) .*({masks}).* get it anew\.$"):
        dataset.sample(0)
    for file in files:
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"^There is no image .* get the data set anew\.$"):
        dataset.sample(0)


def test_what_is_missing_is_named_with_the_place_to_get_it(miniature: Miniature) -> None:
    assert miniature.needed
    for part in miniature.needed:
        aside = miniature.path.parent / "aside"
        shutil.move(miniature.path / part, aside)
        with pytest.raises(FileNotFoundError) as caught:
            opened(miniature)
        message, entry = str(caught.value), DATASETS[miniature.key]
        assert message.startswith(f"{entry.title}: there is no {miniature.path}/")
        assert Path(part).name in message and entry.page in message and "\n" not in message
        shutil.move(aside, miniature.path / part)
    assert len(opened(miniature)) == 3


def test_data_sets_go_to_other_processes(miniature: Miniature) -> None:
    dataset = opened(miniature)
    again = pickle.loads(pickle.dumps(dataset))
    assert again.names() == dataset.names() and again.classes == dataset.classes
    assert np.array_equal(again.sample(1).labels, dataset.sample(1).labels)


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("voc2012", "VOCdevkit"),
        ("voc2012", "VOCdevkit/VOC2012"),
        ("context59", "VOCdevkit"),
        ("context60", "VOCdevkit/VOC2010"),
        ("ade20k", "ADEChallengeData2016"),
        ("imagenet_s", "ImageNetS919"),
    ],
)
def test_the_usual_folders_can_be_given(name: str, inner: str, tmp_path: Path) -> None:
    found = MINIATURES[name](tmp_path)
    assert open_dataset(name, str(tmp_path / inner)).names() == found.names


def test_matlab_masks_may_lie_at_the_path(tmp_path: Path) -> None:
    found = MINIATURES["context59"](tmp_path)
    (tmp_path / "VOCdevkit/VOC2010/trainval").rename(tmp_path / "trainval")
    assert np.array_equal(open_dataset("context59", tmp_path).sample(2).segmentation, found.truth[2])


def test_a_list_of_labels_that_was_kept_has_to_agree(tmp_path: Path) -> None:
    MINIATURES["context60"](tmp_path)
    listed = dict(zip([2, 9, 18], ["aeroplane", "bag", "bed"], strict=True)) | CONTEXT_LABELS
    file = load_classes("context59")
    lines = {ids[0]: name for ids, name in zip(file.ids, file.classes.names, strict=True)}
    assert lines == lines | listed
    labels = tmp_path / "VOCdevkit/VOC2010/labels.txt"
    save(labels, "".join(f"{number}: {name}\n" for number, name in ({1: "accordion"} | lines).items()))
    assert len(open_dataset("context60", tmp_path)) == 3
    save(labels, labels.read_text().replace("23: bicycle", "23: bird"))
    with pytest.raises(ValueError, match=r"labels\.txt does not give the number 23 to 'bicycle'"):
        open_dataset("context60", tmp_path)


def test_images_keep_their_pixels_and_lose_their_orientation(tmp_path: Path) -> None:
    """Masks are drawn on the stored pixels, so nothing later may turn the image."""
    found = MINIATURES["voc2012"](tmp_path)
    turned = Image.Exif()
    turned[0x0112] = 6
    file = tmp_path / "VOCdevkit/VOC2012/JPEGImages/2007_000033.jpg"
    save(file, found.images[0], exif=turned.tobytes())
    assert load_image(file).size == (24, 32)
    image = opened(found).sample(0).image
    assert image.size == load_image(image).size == (32, 24)


def test_gray_images_become_rgb(tmp_path: Path) -> None:
    found = MINIATURES["coco_multilabel"](tmp_path)
    save(tmp_path / "val2014/COCO_val2014_000000000042.jpg", np.full((24, 32), 90, np.uint8))
    image = opened(found).sample(0).image
    assert image.mode == "RGB" and image.getpixel((5, 5)) == (90, 90, 90)


def test_nus_wide_is_read_without_its_list_of_concepts_and_in_its_new_layout(tmp_path: Path) -> None:
    found = MINIATURES["nus_wide"](tmp_path)
    save(tmp_path / "ConceptsList/Concepts81.txt", (tmp_path / "Concepts81.txt").read_text())
    (tmp_path / "Concepts81.txt").unlink()
    assert np.array_equal(opened(found).sample(2).labels, found.truth[2])
    (tmp_path / "ConceptsList/Concepts81.txt").unlink()
    assert np.array_equal(opened(found).sample(2).labels, found.truth[2])


@pytest.mark.parametrize(
    ("key", "path", "split", "error", "message"),
    [
        ("voc2021", None, None, ValueError, "^No data set is called 'voc2021'; did you mean voc2012"),
        (
            "laion",
            None,
            None,
            ValueError,
            "^No data set is called 'laion'; there are voc2012, voc2012_21, context59",
        ),
        ("ade20k", None, "val", ValueError, "^ADE20K has no split 'val'; there are validation, training"),
        (
            "ade20k",
            None,
            None,
            ValueError,
            "^ADE20K needs a path.*ADEChallengeData2016.*sceneparsing.csail.mit",
        ),
        ("scenes", ".", None, ValueError, "^Synthetic scenes are generated on the spot: leave out the path"),
        (
            "cityscapes",
            "/no/where",
            None,
            FileNotFoundError,
            "^Cityscapes: there is no folder /no/where.*cityscapes-d",
        ),
    ],
)
def test_what_cannot_be_opened_is_told_in_one_line(
    key: str, path: str | None, split: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        open_dataset(key, path, split=split)
    assert "\n" not in str(caught.value)


def test_every_registered_data_set_says_where_it_is_and_what_for() -> None:
    for key, entry in DATASETS.items():
        assert entry.key == key and entry.title and entry.layout and entry.splits and entry.tasks
        assert entry.page.startswith(("http://", "https://")) is entry.needs_path is (key != "scenes")
    with pytest.raises(TypeError):
        DATASETS["new"] = DATASETS["voc2012"]  # type: ignore[index]


def test_the_page_of_the_data_sets_lists_them_as_they_are() -> None:
    page = (ROOT / "docs" / "datasets.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    listed = {
        cells[0].strip("`"): cells for cells in rows if cells[0].strip("`") in DATASETS and len(cells) == 6
    }
    assert list(listed) == list(DATASETS)
    for key, (_, classes, tasks, _, splits, page_cell) in listed.items():
        entry = DATASETS[key]
        first = int(re.match(r"\d+", classes)[0]) + ("and background" in classes)
        assert first == entry.classes
        assert (tasks == "all") is (len(entry.tasks) == 4) and (tasks == "all" or (tasks,) == entry.tasks)
        if splits:
            assert tuple(splits.split(", ")) == entry.splits
        for address in re.findall(r"\((http[^)]+)\)", page_cell):
            assert address in entry.page


def test_the_snippet_of_the_page_that_needs_no_files_runs() -> None:
    page = (ROOT / "docs" / "datasets.md").read_text()
    (block,) = re.findall(r"```python\n(from [^`]+split=\"crowded\"[^`]+)```", page)
    names: dict[str, object] = {}
    exec(block, names)
    assert names["sample"].name == "crowded_007"
