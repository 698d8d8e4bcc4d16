"""The data sets of the evaluation, read from miniatures in exactly their layouts and encodings."""

import ast
import base64
import hashlib
import importlib.util
import json
import pickle
import re
import shutil
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torchvision
from PIL import Image

from clip_surgery_hub.evaluate.datasets import DATASETS, NO_CLASS, VOID, DataSet, open_dataset
from clip_surgery_hub.evaluate.datasets.classes import Encoding, load_classes
from clip_surgery_hub.evaluate.datasets.mat import read_mat
from clip_surgery_hub.evaluate.datasets.scenes import FIRST_SEED, LEAST_PIXELS, SCENES, WORLDS
from clip_surgery_hub.images.loading import load_image
from clip_surgery_hub.scenes import HELD_OUT, draw_scene, load_sprites
from clip_surgery_hub.text.embedding import class_names
from tests.support.miniature_datasets import (
    CONTEXT_LABELS,
    MINIATURES,
    Miniature,
    coco_ids,
    mat_file,
    palette_png,
    save,
)
from tests.support.paths import ASSETS, ROOT

CLASS_FILES = sorted((ASSETS / "classes").glob("*.json"))


def opened(miniature: Miniature) -> DataSet:
    return open_dataset(miniature.key, miniature.path, split=miniature.split)


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


def test_nus_wide_is_read_without_its_list_of_concepts_and_in_its_new_layout(tmp_path: Path) -> None:
    found = MINIATURES["nus_wide"](tmp_path)
    save(tmp_path / "ConceptsList/Concepts81.txt", (tmp_path / "Concepts81.txt").read_text())
    (tmp_path / "Concepts81.txt").unlink()
    assert np.array_equal(opened(found).sample(2).labels, found.truth[2])
    (tmp_path / "ConceptsList/Concepts81.txt").unlink()
    assert np.array_equal(opened(found).sample(2).labels, found.truth[2])


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


# MATLAB files.


def test_matlab_files_that_scipy_wrote_are_read(tmp_path: Path) -> None:
    """Written by scipy.io.savemat 1.17.1 with compression, but for the text before byte 116."""
    written = (
        "AAAAAAAAAAAAAUlNDwAAAD8AAAB4nONjYGAIAGI2IOYAYm4GCGCF8pmgbEYo3ycxKTXHN7GABcgWAcuLM3AySDIIMcgDeesZTzMygvUD"
        "ALEfBZQ="
    )
    save(tmp_path / "a.mat", bytes(116) + base64.b64decode(written))
    assert read_mat(tmp_path / "a.mat", "LabelMap").tolist() == [[2, 9, 18, 0, 459], [23, 25, 31, 431, 1]]


def test_matlab_files_of_both_orders_of_bytes_are_read(tmp_path: Path) -> None:
    data = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI"
    sizes, name = b"\0\0\0\5\0\0\0\x08\0\0\0\1\0\0\0\3", b"\0\2\0\1ab\0\0"
    matrix = b"\0\0\0\6\0\0\0\x08\0\0\0\x0b\0\0\0\0" + sizes + name + b"\0\0\0\4\0\0\0\6\0\1\1\1\1\xcb\0\0"
    save(tmp_path / "a.mat", data + b"\0\0\0\x0e" + len(matrix).to_bytes(4, "big") + matrix)
    assert read_mat(tmp_path / "a.mat", "ab").tolist() == [[1, 257, 459]]


def test_matlab_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.mat"
    good = mat_file({"LabelMap": np.ones((5, 7))})
    plain = mat_file({"LabelMap": np.ones((5, 7))}, compressed=False)
    for content, message in (
        (b"\x89HDF\r\n" + bytes(200), "is no MATLAB file of version 5"),
        (b"", "is no MATLAB file of version 5"),
        (good[:-3], "is damaged"),
        (plain[:-20], "is damaged"),
        (plain[:200], "is damaged"),
        (good[:-9] + bytes(9), "is damaged"),
        (plain[:130], "is damaged"),
        (mat_file({"Other": np.ones((2, 2))}), "has no matrix 'LabelMap'"),
        (good[:128], "has no matrix 'LabelMap'"),
    ):
        save(file, content)
        with pytest.raises(ValueError, match=rf"^The (MATLAB )?file {file} {message}"):
            read_mat(file, "LabelMap")
    with pytest.raises(FileNotFoundError, match="There is no mask .*b.mat"):
        read_mat(tmp_path / "b.mat", "LabelMap")


# Numbers of classes.


def test_masks_are_decoded_by_their_table() -> None:
    encoding = Encoding([(7,), (2, 3)], void=(255,), no_class=(0,))
    values = np.array([[7, 2, 3], [255, 0, 7]], np.uint8)
    decoded = encoding.decode(values, Path("mask.png"))
    assert decoded.dtype == np.int16 and decoded.tolist() == [[0, 1, 1], [VOID, NO_CLASS, 0]]
    for wrong in (1, 254, 256, 70000, -1, -7):
        with pytest.raises(
            ValueError, match=rf"^The mask mask\.png .* data set: {wrong} \(the largest known is 255"
        ):
            encoding.decode(np.array([[7, wrong]]), Path("mask.png"))


@pytest.mark.parametrize("path", CLASS_FILES, ids=lambda path: path.stem)
def test_classes_are_named_once_and_asked_for(path: Path) -> None:
    file = load_classes(path.stem)
    classes = file.classes
    assert len(set(classes.names)) == len(classes) == len(classes.synonyms) == len(file.ids)
    for synonyms in classes.synonyms:
        assert synonyms and len(set(synonyms)) == len(synonyms)
        assert all(text and text == text.strip() for text in synonyms)
    numbers = Counter([*file.void, *file.no_class, *(number for ids in file.ids for number in ids)])
    assert max(numbers.values()) == 1
    assert classes.background == (0 if classes.names[0] == "background" else None)
    assert classes.source


def test_the_number_of_classes_is_the_registered_one() -> None:
    for entry in DATASETS.values():
        if entry.needs_path:
            assert len(load_classes(entry.key).classes) == entry.classes
    assert len(open_dataset("scenes").classes) == DATASETS["scenes"].classes == 227
    assert {path.stem for path in CLASS_FILES} == {
        *(key for key in DATASETS if key != "scenes"),
        "imagenet_s300",
        "imagenet_s50",
    }
    assert [len(load_classes(f"imagenet_s{count}").classes) for count in (300, 50)] == [301, 51]


def test_variants_with_background_have_the_other_classes_alike() -> None:
    for plain, whole in (("voc2012", "voc2012_21"), ("context59", "context60")):
        first, second = load_classes(plain), load_classes(whole)
        assert first.classes.names == second.classes.names[1:]
        assert first.classes.synonyms == second.classes.synonyms[1:]
        assert first.ids == second.ids[1:]
        assert set(first.no_class) == set(second.ids[0])


def test_classes_of_voc_are_those_of_torchvision() -> None:
    weights = (
        torchvision.models.segmentation.FCN_ResNet50_Weights.DEFAULT
    )  # trained on COCO with VOC's classes
    first, *others = weights.meta["categories"]
    assert first == "__background__"
    assert load_classes("voc2012_21").classes.names == ("background", *others)


def test_the_classes_of_pascal_context_are_asked_for_as_in_the_paper() -> None:
    classes = load_classes("context59").classes
    assert tuple(text for (text,) in classes.synonyms) == class_names("pascal_context_59")
    assert sorted(classes.names) == list(classes.names)
    renamed = {
        name: text for name, (text,) in zip(classes.names, classes.synonyms, strict=True) if name != text
    }
    assert renamed == {"aeroplane": "airplane", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}


def test_categories_of_coco_are_those_of_torchvision() -> None:
    weights = torchvision.models.detection.FasterRCNN_ResNet50_FPN_Weights.DEFAULT
    known = {number: name for number, name in enumerate(weights.meta["categories"]) if name != "N/A"}
    file = load_classes("coco_multilabel")
    assert dict(zip((ids[0] for ids in file.ids), file.classes.names, strict=True)) == {
        number: name for number, name in known.items() if number
    }
    assert [ids[0] for ids in file.ids] == coco_ids()
    names = file.classes.names
    assert load_classes("coco_object").classes.names == ("background", *names)
    stuff = load_classes("coco_stuff")
    assert stuff.classes.names[:80] == names
    assert [ids[0] for ids in stuff.ids[:80]] == [number - 1 for number in coco_ids()]
    assert list(stuff.classes.names[80:]) == sorted(stuff.classes.names[80:])
    assert [ids[0] for ids in stuff.ids[80:]] == list(range(91, 182))


def test_the_27_classes_of_coco_stuff_share_out_the_171() -> None:
    coarse, fine = load_classes("coco_stuff27"), load_classes("coco_stuff")
    names = {ids[0]: name for ids, name in zip(fine.ids, fine.classes.names, strict=True)}
    assert sorted(number for ids in coarse.ids for number in ids) == sorted(names)
    for ids, synonyms in zip(coarse.ids, coarse.classes.synonyms, strict=True):
        assert tuple(names[number] for number in ids) == synonyms
    assert [name.endswith("-things") for name in coarse.classes.names] == [True] * 12 + [False] * 15
    for name, synonyms in zip(coarse.classes.names, coarse.classes.synonyms, strict=True):
        things = [text in fine.classes.names[:80] for text in synonyms]
        assert all(things) if name.endswith("-things") else not any(things), name
    of = {
        text: name
        for name, texts in zip(coarse.classes.names, coarse.classes.synonyms, strict=True)
        for text in texts
    }
    for prefix in ("wall", "window", "floor", "ceiling"):
        assert {of[name] for name in of if name.startswith(f"{prefix}-")} == {f"{prefix}-stuff"}


def test_classes_of_cityscapes_are_those_of_torchvision() -> None:
    known = torchvision.datasets.Cityscapes.classes
    file = load_classes("cityscapes")
    trained = sorted((one for one in known if 0 <= one.train_id < 19), key=lambda one: one.train_id)
    assert file.classes.names == tuple(one.name for one in trained)
    assert file.ids == tuple((one.id,) for one in trained)
    rest = {one.id for one in known if one.id >= 0} - {one.id for one in trained}
    assert set(file.void) == {0, 1, 2, 3} and set(file.void) | set(file.no_class) == rest


def digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("name", "published", "ids"),
    [
        ("imagenet_s", "8102a607cd2c063a", range(920)),
        ("imagenet_s300", "3691d6c4d913680f", range(301)),
        ("imagenet_s50", "ad00ae073f9f46c7", range(51)),
    ],
)
def test_classes_of_imagenet_s_are_the_published_lists(name: str, published: str, ids: range) -> None:
    """Digests of the lists in data/data.py of ImageNet-S, in small letters, one name per line."""
    file = load_classes(name)
    names = [re.sub(r" \((bird|machine)\)$", "", one).lower() for one in file.classes.names[1:]]
    assert digest(names) == published
    assert [number for (number,) in file.ids] == list(ids) and file.void == (1000,)


def test_smaller_imagenet_sets_are_parts_of_the_whole() -> None:
    whole = load_classes("imagenet_s").classes
    for name in ("imagenet_s300", "imagenet_s50"):
        part = load_classes(name).classes
        places = [whole.names.index(one) for one in part.names]
        assert places == sorted(places)
        assert part.synonyms == tuple(whole.synonyms[place] for place in places)


# Synthetic scenes.


@pytest.fixture(scope="module")
def training_evaluate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("training_evaluate", ROOT / "training" / "evaluate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plain_scenes_are_those_of_the_published_metrics(training_evaluate: ModuleType) -> None:
    assert (FIRST_SEED, LEAST_PIXELS) == (training_evaluate.FIRST_SEED, training_evaluate.LEAST_PIXELS)
    dataset = open_dataset("scenes")
    assert (dataset.split, len(dataset), len(dataset.names())) == ("plain", SCENES, SCENES)
    for index, scene in enumerate(training_evaluate.draw(4, WORLDS["plain"])):
        sample = dataset.sample(index)
        assert np.array_equal(np.asarray(sample.image), scene.image)
        assert sample.segmentation.shape == (80, 80)
        counted = {word: scene.mask(word) for word in scene.words if scene.mask(word).sum() >= 30}
        assert {dataset.classes.names[place] for place in np.flatnonzero(sample.labels)} == set(counted)
        for word, mask in counted.items():
            place = dataset.classes.names.index(word)
            assert np.array_equal(sample.segmentation == place, mask)
        outside = ~np.any([*counted.values()], axis=0)
        assert (sample.segmentation[outside] == NO_CLASS).all()


def test_scenes_of_the_metrics_are_generated_alike() -> None:
    """training/evaluate.py asks for World(size=(native, native), styles=None, backgrounds=TRAINING)."""
    tree = ast.parse((ROOT / "training" / "evaluate.py").read_text())
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "World"
    ]
    assert [sorted(keyword.arg for keyword in call.keywords) for call in calls] == [
        ["backgrounds", "size", "styles"]
    ]
    config = ASSETS / "clip_vit_tiny.scenes" / "config.json"
    assert WORLDS["plain"].size == (json.loads(config.read_text())["vision_config"]["image_size"],) * 2


def test_objects_that_are_hardly_seen_do_not_count() -> None:
    dataset = open_dataset("scenes", split="crowded")
    hidden = 0
    for index in range(30):
        sample = dataset.sample(index)
        scene = draw_scene((FIRST_SEED, index), WORLDS["crowded"])
        for word in scene.words:
            place = dataset.classes.names.index(word)
            pixels = int(scene.mask(word).sum())
            assert sample.labels[place] == (pixels >= 30)
            assert (sample.segmentation == place).sum() == (pixels if pixels >= 30 else 0)
            hidden += pixels < 30
    assert hidden > 0


def test_difficulties_are_what_they_are_called() -> None:
    plain, crowded, held_out = (open_dataset("scenes", split=split) for split in WORLDS)
    shown = [
        np.mean([dataset.sample(index).labels.sum() for index in range(20)]) for dataset in (plain, crowded)
    ]
    assert shown[0] <= 3 and shown[1] >= 7
    for index in range(5):  # the same objects at the same places on other grounds
        first, second = plain.sample(index), held_out.sample(index)
        assert np.array_equal(first.segmentation, second.segmentation)
        assert not np.array_equal(np.asarray(first.image), np.asarray(second.image))
    assert {draw_scene((FIRST_SEED, index), WORLDS["held_out"]).background for index in range(30)} == set(
        HELD_OUT
    )
    assert plain.classes.names == load_sprites().concepts
    assert len({*plain.names(), *crowded.names(), *held_out.names()}) == 3 * SCENES
    with pytest.raises(IndexError):
        plain.sample(SCENES)


# Asking for a data set.


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
