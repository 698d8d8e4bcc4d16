"""Numbers and names of classes, against those that others publish."""

import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torchvision

from clip_surgery_hub.evaluate.datasets import DATASETS, NO_CLASS, VOID, open_dataset
from clip_surgery_hub.evaluate.datasets.classes import Encoding, load_classes
from clip_surgery_hub.text.embedding import class_names
from tests.support.miniature_datasets import coco_ids
from tests.support.paths import ASSETS

CLASS_FILES = sorted((ASSETS / "classes").glob("*.json"))


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
