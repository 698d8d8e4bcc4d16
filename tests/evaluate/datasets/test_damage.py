"""Files of data sets that are damaged or do not fit each other are named, with what is wrong."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.miniature_datasets import MINIATURES, opened, palette_png, save


@pytest.mark.parametrize(
    ("name", "mask", "known", "unknown"),
    [
        ("voc2012", "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png", 20, 21),
        ("context59 converted", "VOCdevkit/VOC2010/SegmentationClassContext/2008_000002.png", 59, 60),
        ("coco_object converted", "annotations/val2017/000000000139_instanceTrainIds.png", 80, 255),
        ("coco_stuff", "stuffthingmaps/val2017/000000000139.png", 181, 44),  # a class that was removed
        ("coco_stuff27", "stuffthingmaps/val2017/000000000139.png", 0, 182),
        ("ade20k", "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png", 150, 151),
        ("cityscapes", "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png", 33, 34),
    ],
)
def test_numbers_of_no_class_are_refused(
    name: str, mask: str, known: int, unknown: int, tmp_path: Path
) -> None:
    dataset = opened(MINIATURES[name](tmp_path))
    values = np.full((24, 32), known, np.uint8)
    save(tmp_path / mask, values)
    dataset.sample(0)
    values[3, 4] = unknown
    save(tmp_path / mask, values)
    with pytest.raises(ValueError, match=rf"^The mask {re.escape(str(tmp_path / mask))} .*: {unknown} \("):
        dataset.sample(0)


def test_numbers_of_other_imagenet_sets_are_refused(tmp_path: Path) -> None:
    found = MINIATURES["imagenet_s, 50"](tmp_path)
    file = next((tmp_path / "ImageNetS50").rglob(f"{found.names[0]}.png"))
    colors = np.zeros((24, 32, 3), np.uint8)
    colors[0, 0] = 51, 0, 0
    colors[0, 1] = 919 % 256, 919 // 256, 0
    save(file, colors)
    with pytest.raises(ValueError, match=r"no class of this data set: 51, 919 \("):
        opened(found).sample(0)
    (tmp_path / "ImageNetS50").rename(tmp_path / "ImageNetS300")
    with pytest.raises(FileNotFoundError, match="there is no .*/ImageNetS50"):
        opened(found)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    dataset = opened(MINIATURES["ade20k"](tmp_path))
    mask = tmp_path / "ADEChallengeData2016/annotations/validation/ADE_val_00000002.png"
    save(mask, np.zeros((28, 40), np.uint8))
    with pytest.raises(
        ValueError, match=rf"^The mask {mask} is 40 x 28 pixels, .* is 28 x 40; get both anew"
    ):
        dataset.sample(1)


def test_instances_of_another_size_are_refused(tmp_path: Path) -> None:
    dataset = opened(MINIATURES["coco_object"](tmp_path))
    save(tmp_path / "images/val2017/000000000139.jpg", np.zeros((24, 24, 3), np.uint8))
    with pytest.raises(ValueError, match=r"instances_val2017\.json is 32 x 24 pixels, .*139\.jpg is 24 x 24"):
        dataset.sample(0)


def test_masks_saved_in_colors_are_refused(tmp_path: Path) -> None:
    dataset = opened(MINIATURES["voc2012"](tmp_path))
    mask = tmp_path / "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png"
    save(mask, palette_png(np.zeros((24, 32))).convert("RGB"))
    with pytest.raises(
        ValueError, match=rf"^The mask {mask} is an image in colors, but one number per pixel"
    ):
        dataset.sample(0)
    imagenet = opened(MINIATURES["imagenet_s"](tmp_path))
    file = next(tmp_path.rglob(f"{imagenet.names()[1]}.png"))
    save(file, np.zeros((40, 28), np.uint8))
    with pytest.raises(ValueError, match=rf"^The mask {file} has shape \[40, 28\], but RGB is expected"):
        imagenet.sample(1)


def test_images_that_are_cut_off_are_named(tmp_path: Path) -> None:
    found = MINIATURES["cityscapes"](tmp_path)
    file = next(tmp_path.rglob("lindau*leftImg8bit.png"))
    file.write_bytes(file.read_bytes()[:60])
    dataset = opened(found)
    dataset.sample(1)
    with pytest.raises(ValueError, match=rf"^The image {file} is damaged or none"):
        dataset.sample(2)


def change_instances(file: Path, key: str, row: int, **changes: object) -> None:
    content = json.loads(file.read_text())
    content[key][row] |= changes
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("key", "changes", "message"),
    [
        ("annotations", {"category_id": 12}, "KeyError: 12"),  # removed from COCO
        ("annotations", {"image_id": 5}, "KeyError: 5"),
        ("images", {"id": "many"}, "instances_val2017.json is no file of COCO's instances"),
    ],
)
def test_damaged_instances_are_named(
    key: str, changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    found = MINIATURES["coco_object"](tmp_path)
    change_instances(tmp_path / "annotations/instances_val2017.json", key, 0, **changes)
    with pytest.raises(ValueError, match=message):
        opened(found)


@pytest.mark.parametrize(
    "outline",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 9, 2, 9, 9, 4]],
        [],
        "rle",
        {"size": [24, 32]},
        {"size": [24, 32], "counts": "x"},
        {"size": [24, 32], "counts": [700, 100]},
        {"size": [32, 24], "counts": [700, 68]},
        {"size": [24, 32], "counts": [700, -3]},
    ],
)
def test_damaged_outlines_are_named(outline: object, tmp_path: Path) -> None:
    found = MINIATURES["coco_object"](tmp_path)
    change_instances(tmp_path / "annotations/instances_val2017.json", "annotations", 0, segmentation=outline)
    with pytest.raises(ValueError, match=r"instance in 000000000139\.jpg whose outline is damaged"):
        opened(found).sample(0)


def test_a_file_of_instances_that_is_no_json_is_named(tmp_path: Path) -> None:
    found = MINIATURES["coco_multilabel"](tmp_path)
    save(tmp_path / "annotations/instances_val2014.json", '{"images": [')
    with pytest.raises(ValueError, match=r"instances_val2014\.json is no file of COCO's instances"):
        opened(found)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "Groundtruth/TrainTestLabels/Labels_elk_Test.txt",
            "1\n0\n",
            "has 2 labels, but .*TestImagelist.txt lists 3",
        ),
        ("Groundtruth/TrainTestLabels/Labels_elk_Test.txt", "1\n0\n2\n", "holds other than 0 and 1"),
        ("ImageList/TestImagelist.txt", "\n", "The list .*TestImagelist.txt is empty"),
        ("ImageList/TestImagelist.txt", b"\xff\xfe\xff", "The list .*TestImagelist.txt is no text"),
        ("Concepts81.txt", "airport\nanimal\n", "Concepts81.txt is not that of NUS-WIDE's 81 concepts"),
    ],
)
def test_lists_of_nus_wide_that_do_not_fit_are_named(
    file: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    found = MINIATURES["nus_wide"](tmp_path)
    save(tmp_path / file, content)
    with pytest.raises(ValueError, match=message):
        opened(found)


def test_folders_without_masks_are_named(tmp_path: Path) -> None:
    found = MINIATURES["cityscapes"](tmp_path)
    for file in (tmp_path / "gtFine/val/lindau").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"gtFine/val/lindau has no files that end in _gtFine_labelIds\.png"):
        opened(found)
    shutil.rmtree(tmp_path / "gtFine/val/lindau")
    shutil.rmtree(tmp_path / "gtFine/val/frankfurt")
    with pytest.raises(FileNotFoundError, match="there is no folder of a city in .*gtFine/val"):
        opened(found)
