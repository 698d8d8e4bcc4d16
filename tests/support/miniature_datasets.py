"""Data sets of three images, each in the layout and the encodings of a real one, with the truth beside."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks

from clip_surgery_hub.evaluate.datasets import DataSet, open_dataset

VOID, NO_CLASS = -1, -2
SIZES = ((24, 32), (40, 28), (30, 30))

# labels.py of cityscapesScripts: the ids that are evaluated, in the order of their train ids.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# labels.md of COCO-Stuff: numbers that were removed from COCO.
COCO_STUFF_REMOVED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
# Lines of labels.txt of PASCAL Context, and the places of these classes in the alphabetical list of the 59.
CONTEXT_LABELS = {2: "aeroplane", 9: "bag", 23: "bicycle", 187: "grass", 284: "person", 458: "wood"}
CONTEXT_PLACES = {2: 0, 9: 1, 23: 5, 187: 28, 284: 36, 458: 58}


@dataclass(frozen=True)
class Miniature:
    """A data set on the disk and the truth about it.

    Attributes:
        key: what it is opened by.
        path: the folder to be given.
        names: of the samples, in order.
        images: uint8 ``[H, W, 3]`` each.
        truth: the class of each pixel each, or the labels bool ``[T]`` each where there are no masks.
        needed: files and folders without which it cannot be opened.
        split: None for the usual one.
    """

    key: str
    path: Path
    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]
    truth: tuple[np.ndarray, ...]
    needed: tuple[str, ...]
    split: str | None = None


def draw_images(seed: int) -> tuple[np.ndarray, ...]:
    """Plain colored quarters, which JPEG keeps."""
    rng = np.random.default_rng(seed)
    images = []
    for height, width in SIZES:
        image = np.empty((height, width, 3), np.uint8)
        for rows in (slice(0, height // 2), slice(height // 2, None)):
            for columns in (slice(0, width // 2), slice(width // 2, None)):
                image[rows, columns] = rng.integers(0, 256, 3)
        images.append(image)
    return tuple(images)


def draw_raw(seed: int, numbers: Sequence[int]) -> list[np.ndarray]:
    """Masks in which every number comes up, all of them in the first if there is room."""
    rng = np.random.default_rng(seed)
    raw = []
    for height, width in SIZES:
        values = rng.choice(numbers, height * width)
        values[: len(numbers)] = numbers[: height * width]
        raw.append(rng.permutation(values).reshape(height, width))
    return raw


def save(file: Path, content: Image.Image | np.ndarray | str | bytes, **options: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        file.write_text(content)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        image = Image.fromarray(content) if isinstance(content, np.ndarray) else content
        suffix = file.suffix.lower()
        image.save(
            file, **({"quality": 100, "subsampling": 0} if suffix in (".jpg", ".jpeg") else {}), **options
        )


def palette_png(raw: np.ndarray) -> Image.Image:
    image = Image.fromarray(raw.astype(np.uint8))
    colors = np.random.default_rng(3).integers(0, 256, 768)
    image.putpalette(colors.tolist())
    assert image.mode == "P"
    return image


def mat_file(variables: dict[str, np.ndarray], *, compressed: bool = True) -> bytes:
    """A MATLAB file of version 5 with matrices of uint16, as its documentation says."""

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)

    data = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    for name, values in variables.items():
        flags = element(6, struct.pack("<II", 11, 0))  # class 11: uint16
        sizes = element(5, struct.pack("<ii", *values.shape))
        numbers = element(4, values.astype("<u2").tobytes(order="F"))
        matrix = element(14, flags + sizes + element(1, name.encode()) + numbers)
        packed = zlib.compress(matrix)
        data += struct.pack("<II", 15, len(packed)) + packed if compressed else matrix
    return data


def voc2012(folder: Path, key: str = "voc2012") -> Miniature:
    names, images = ("2007_000033", "2007_000042", "2011_003256"), draw_images(0)
    raw = draw_raw(0, [*range(21), 255])
    root = folder / "VOCdevkit" / "VOC2012"
    for name, image, mask in zip(names, images, raw, strict=True):
        save(root / f"JPEGImages/{name}.jpg", image)
        save(root / f"SegmentationClass/{name}.png", palette_png(mask))
    save(root / "JPEGImages/2008_000001.jpg", images[0])  # of another split
    save(root / "ImageSets/Segmentation/val.txt", "".join(f"{name}\n" for name in names))
    if key == "voc2012":
        truth = [np.where(mask == 255, VOID, np.where(mask == 0, NO_CLASS, mask - 1)) for mask in raw]
    else:
        truth = [np.where(mask == 255, VOID, mask) for mask in raw]
    needed = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation/val.txt")
    return Miniature(
        key, folder, names, images, tuple(truth), tuple(f"VOCdevkit/VOC2012/{part}" for part in needed)
    )


def context_png(folder: Path, key: str = "context59") -> Miniature:
    names, images = ("2008_000002", "2008_000003", "2010_006086"), draw_images(1)
    raw = draw_raw(1, range(60))
    root = folder / "VOCdevkit" / "VOC2010"
    for name, image, mask in zip(names, images, raw, strict=True):
        save(root / f"JPEGImages/{name}.jpg", image)
        save(root / f"SegmentationClassContext/{name}.png", mask.astype(np.uint8))
    save(root / "ImageSets/SegmentationContext/val.txt", "".join(f"{name}\n" for name in names))
    truth = [np.where(mask == 0, NO_CLASS, mask - 1) if key == "context59" else mask for mask in raw]
    needed = tuple(
        f"VOCdevkit/VOC2010/{part}" for part in ("JPEGImages", "ImageSets/SegmentationContext/val.txt")
    )
    return Miniature(key, folder, names, images, tuple(truth), needed)


def context_mat(folder: Path, key: str = "context59") -> Miniature:
    """The numbers of six of the classes, and of some of the other 400: 0, 1, 431 and 459."""
    names, images = ("2008_000002", "2008_000003", "2010_006086"), draw_images(2)
    raw = draw_raw(2, [*CONTEXT_PLACES, 0, 1, 431, 459])
    root = folder / "VOCdevkit" / "VOC2010"
    for number, (name, image, mask) in enumerate(zip(names, images, raw, strict=True)):
        save(root / f"JPEGImages/{name}.jpg", image)
        variables = {"Other": np.ones((2, 3)), "LabelMap": mask}
        save(root / f"trainval/{name}.mat", mat_file(variables, compressed=number != 1))
    save(root / "ImageSets/Main/val.txt", "".join(f"{name}\n" for name in names))
    first, other = (0, NO_CLASS) if key == "context59" else (1, 0)
    truth = [np.full(mask.shape, other) for mask in raw]
    for found, mask in zip(truth, raw, strict=True):
        for number, place in CONTEXT_PLACES.items():
            found[mask == number] = place + first
    needed = ("JPEGImages", "trainval", "ImageSets/Main/val.txt")
    return Miniature(
        key, folder, names, images, tuple(truth), tuple(f"VOCdevkit/VOC2010/{part}" for part in needed)
    )


def coco_ids() -> list[int]:
    """The 80 category ids: 1 to 90 without those that were removed from COCO."""
    return [number for number in range(1, 91) if number not in COCO_STUFF_REMOVED]


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths: down the columns, beginning with zeros."""
    flat = mask.T.flatten().astype(int)
    changes = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *changes, len(flat)]).tolist()
    return lengths if flat[0] == 0 else [0, *lengths]


def coco_instances(numbers: Sequence[int]) -> tuple[dict[str, object], list[list[tuple[int, np.ndarray]]]]:
    """A file of instances, and what it shows: (class of 80, mask) per image, from below to above.

    The first image has two polygons that overlap and a crowd, listed last and painted first; the second
    one a compressed mask and an instance of two polygons; the third one nothing.
    """
    (h0, w0), (h1, w1), _ = SIZES

    def box(shape: tuple[int, int], top: int, left: int, bottom: int, right: int) -> np.ndarray:
        mask = np.zeros(shape, bool)
        mask[top:bottom, left:right] = True
        return mask

    def polygon(top: int, left: int, bottom: int, right: int) -> list[int]:
        return [left, top, right, top, right, bottom, left, bottom]

    crowd = np.random.default_rng(5).random((h0, w0)) < 0.5
    blob = np.random.default_rng(6).random((h1, w1)) < 0.3
    compressed = coco_masks.encode(np.asfortranarray(blob.astype(np.uint8)))
    packed = {"size": [h1, w1], "counts": compressed["counts"].decode()}
    ids = coco_ids()
    annotations = [
        (0, 0, [polygon(2, 3, 12, 15)], 0),
        (0, 16, [polygon(8, 10, 20, 25)], 0),
        (0, 79, {"size": [h0, w0], "counts": run_lengths(crowd)}, 1),
        (1, 11, packed, 0),
        (1, 56, [polygon(1, 1, 6, 8), polygon(20, 10, 31, 19)], 0),
    ]
    rows = [
        {
            "id": number,
            "image_id": numbers[image],
            "category_id": ids[label],
            "segmentation": outline,
            "iscrowd": crowded,
            "area": 1.0,
            "bbox": [0, 0, 1, 1],
        }
        for number, (image, label, outline, crowded) in enumerate(annotations)
    ]
    images = [
        {"id": number, "file_name": f"{number:012d}.jpg", "height": height, "width": width}
        for number, (height, width) in zip(numbers, SIZES, strict=True)
    ]
    shown = [
        [(79, crowd), (0, box((h0, w0), 2, 3, 12, 15)), (16, box((h0, w0), 8, 10, 20, 25))],
        [(11, blob), (56, box((h1, w1), 1, 1, 6, 8) | box((h1, w1), 20, 10, 31, 19))],
        [],
    ]
    # Out of order, as in the real files.
    return {
        "images": images[::-1],
        "annotations": rows,
        "categories": [{"id": number} for number in ids],
    }, shown


def coco_object_json(folder: Path) -> Miniature:
    numbers, images = (139, 285, 632), draw_images(3)
    content, shown = coco_instances(numbers)
    save(folder / "annotations/instances_val2017.json", json.dumps(content))
    truth = [np.zeros(size, int) for size in SIZES]
    for found, instances in zip(truth, shown, strict=True):
        for label, mask in instances:
            found[mask] = label + 1
    names = tuple(f"{number:012d}" for number in numbers)
    for name, image in zip(names, images, strict=True):
        save(folder / f"images/val2017/{name}.jpg", image)
    needed = ("images/val2017", "annotations/instances_val2017.json")
    return Miniature("coco_object", folder, names, images, tuple(truth), needed)


def coco_object_png(folder: Path) -> Miniature:
    names, images = tuple(f"{number:012d}" for number in (139, 285, 632)), draw_images(4)
    raw = draw_raw(4, range(81))
    for name, image, mask in zip(names, images, raw, strict=True):
        save(folder / f"val2017/{name}.jpg", image)
        save(folder / f"annotations/val2017/{name}_instanceTrainIds.png", mask.astype(np.uint8))
        save(folder / f"annotations/val2017/{name}.png", np.full_like(mask, 181, np.uint8))
    return Miniature("coco_object", folder, names, images, tuple(raw), ("val2017",))


def coco_stuff(folder: Path, key: str = "coco_stuff", masks: str = "stuffthingmaps") -> Miniature:
    names, images = tuple(f"{number:012d}" for number in (139, 285, 632)), draw_images(5)
    numbers = [number - 1 for number in range(1, 183) if number not in COCO_STUFF_REMOVED]
    raw = draw_raw(5, [*numbers, 255])
    for name, image, mask in zip(names, images, raw, strict=True):
        save(folder / f"images/val2017/{name}.jpg", image)
        save(folder / f"{masks}/val2017/{name}.png", mask.astype(np.uint8))
        save(folder / f"{masks}/val2017/{name}_labelTrainIds.png", np.zeros((2, 2), np.uint8))
    if key == "coco_stuff":
        table = {number: place for place, number in enumerate(numbers)}
    else:
        table = {number: coco_stuff27_class(number) for number in numbers}
    truth = [np.vectorize(lambda number: table.get(number, VOID))(mask) for mask in raw]
    return Miniature(key, folder, names, images, tuple(truth), ("images/val2017", f"{masks}/val2017"))


# COCO's supercategories of things: from which value of the stuffthingmaps on, and their places in the 27.
_THINGS = (
    (0, 9), (1, 11), (9, 8), (15, 7), (25, 6), (33, 10), (43, 5), (51, 2), (61, 3), (71, 0), (77, 1), (83, 4),
)  # fmt: skip
# The supercategories of stuff by their places in the 27: numbers of labels.md, one more than the values.
_STUFF = {
    12: "102 103", 13: "101 114 115 116 117 118", 14: "121 122 153 170",
    15: "98 107 108 110 112 123 130 133 156 161 165", 16: "100 132 139 143",
    17: "92 93 104 105 109 131 137 141 152 167 168", 18: "171 172 173 174 175 176 177", 19: "180 181",
    20: "95 96 128 151 158 166", 21: "111 125 126 136 140 144 145 147 149 154 159",
    22: "94 97 119 124 129 134 142 163 169", 23: "106 157", 24: "127 135 150 160 162 182",
    25: "99 113 138 146 164", 26: "120 148 155 178 179",
}  # fmt: skip


def coco_stuff27_class(value: int) -> int:
    for place, numbers in _STUFF.items():
        if str(value + 1) in numbers.split():
            return place
    return [place for first, place in _THINGS if first <= value][-1]


def ade20k(folder: Path) -> Miniature:
    names, images = tuple(f"ADE_val_{number:08d}" for number in (1, 2, 3)), draw_images(6)
    raw = draw_raw(6, range(151))
    root = folder / "ADEChallengeData2016"
    for name, image, mask in zip(names, images, raw, strict=True):
        save(root / f"images/validation/{name}.jpg", image)
        save(root / f"annotations/validation/{name}.png", mask.astype(np.uint8))
    truth = tuple(np.where(mask == 0, NO_CLASS, mask - 1) for mask in raw)
    needed = tuple(f"ADEChallengeData2016/{part}/validation" for part in ("annotations", "images"))
    return Miniature("ade20k", folder, names, images, truth, needed)


def cityscapes(folder: Path) -> Miniature:
    names = ("frankfurt_000000_000294", "frankfurt_000001_002512", "lindau_000000_000019")
    images, raw = draw_images(7), draw_raw(7, range(34))
    for name, image, mask in zip(names, images, raw, strict=True):
        city = name.partition("_")[0]
        save(folder / f"leftImg8bit/val/{city}/{name}_leftImg8bit.png", image)
        save(folder / f"gtFine/val/{city}/{name}_gtFine_labelIds.png", mask.astype(np.uint8))
        save(folder / f"gtFine/val/{city}/{name}_gtFine_instanceIds.png", mask.astype(np.uint16) * 1000)
        save(folder / f"gtFine/val/{city}/{name}_gtFine_polygons.json", "{}")
    table = {number: place for place, number in enumerate(CITYSCAPES_IDS)} | dict.fromkeys(range(4), VOID)
    truth = tuple(np.vectorize(lambda number: table.get(number, NO_CLASS))(mask) for mask in raw)
    return Miniature("cityscapes", folder, names, images, truth, ("leftImg8bit/val", "gtFine/val"))


def imagenet_s(folder: Path, split: str = "919") -> Miniature:
    names = tuple(f"ILSVRC2012_val_{number:08d}" for number in (293, 2138, 1000))
    images, raw = draw_images(8), draw_raw(8, [*range(int(split) + 1), 1000])
    root = folder / f"ImageNetS{split}"
    for name, image, mask, wnid in zip(names, images, raw, ("n01440764",) * 2 + ("n15075141",), strict=True):
        save(root / f"validation/{wnid}/{name}.JPEG", image)
        colors = np.stack([mask % 256, mask // 256, np.zeros_like(mask)], -1).astype(np.uint8)
        save(root / f"validation-segmentation/{wnid}/{name}.png", colors)
    truth = tuple(np.where(mask == 1000, VOID, mask) for mask in raw)
    needed = tuple(f"ImageNetS{split}/{part}" for part in ("validation", "validation-segmentation"))
    return Miniature("imagenet_s", folder, names, images, truth, needed, split)


def nus_wide(folder: Path, concepts: Sequence[str]) -> Miniature:
    places = ("actor\\0001_2124494179.jpg", "actor\\0002_174174086.jpg", "zoos\\0705_345073351.jpg")
    images = draw_images(9)
    labels = np.random.default_rng(9).random((3, 81)) < 0.3
    for place, image in zip(places, images, strict=True):
        save(folder / "Flickr" / place.replace("\\", "/"), image)
    save(folder / "ImageList/TestImagelist.txt", "".join(f"{place}\r\n" for place in places).encode())
    for number, concept in enumerate(concepts):
        column = "".join(f"{int(label)}\r\n" for label in labels[:, number])
        save(folder / f"Groundtruth/TrainTestLabels/Labels_{concept}_Test.txt", column.encode())
        save(folder / f"Groundtruth/TrainTestLabels/Labels_{concept}_Train.txt", "1\r\n")
    save(folder / "Concepts81.txt", "".join(f"{concept}\n" for concept in concepts))
    names = ("actor_0001_2124494179", "actor_0002_174174086", "zoos_0705_345073351")
    needed = (
        "ImageList/TestImagelist.txt",
        "Flickr",
        "Groundtruth/TrainTestLabels",
        "Groundtruth/TrainTestLabels/Labels_elk_Test.txt",
    )
    return Miniature("nus_wide", folder, names, images, tuple(labels), needed)


def coco_multilabel(folder: Path, split: str = "val2014") -> Miniature:
    numbers, images = (42, 73, 74), draw_images(10)
    content, shown = coco_instances(numbers)
    if split == "val2014":
        for image in content["images"]:
            image["file_name"] = f"COCO_val2014_{image['file_name']}"
    save(folder / f"annotations/instances_{split}.json", json.dumps(content))
    labels = np.zeros((3, 80), bool)
    for row, instances in enumerate(shown):
        labels[row, [label for label, _ in instances]] = True
    names = tuple(
        f"COCO_val2014_{number:012d}" if split == "val2014" else f"{number:012d}" for number in numbers
    )
    for name, image in zip(names, images, strict=True):
        save(folder / f"{split}/{name}.jpg", image)
    needed = (split, f"annotations/instances_{split}.json")
    return Miniature("coco_multilabel", folder, names, images, tuple(labels), needed, split)


# Concepts81.txt of NUS-WIDE.
CONCEPTS = tuple(
    "airport animal beach bear birds boats book bridge buildings cars castle cat cityscape clouds "
    "computer coral cow dancing dog earthquake elk fire fish flags flowers food fox frost garden glacier "
    "grass harbor horses house lake leaf map military moon mountain nighttime ocean person plane plants "
    "police protest railroad rainbow reflection road rocks running sand sign sky snow soccer sports "
    "statue street sun sunset surf swimmers tattoo temple tiger tower town toy train tree valley vehicle "
    "water waterfall wedding whales window zebra".split()
)

MINIATURES: dict[str, Callable[[Path], Miniature]] = {
    "voc2012": voc2012,
    "voc2012_21": lambda folder: voc2012(folder, "voc2012_21"),
    "context59 converted": context_png,
    "context60 converted": lambda folder: context_png(folder, "context60"),
    "context59": context_mat,
    "context60": lambda folder: context_mat(folder, "context60"),
    "coco_object": coco_object_json,
    "coco_object converted": coco_object_png,
    "coco_stuff": coco_stuff,
    "coco_stuff in annotations": lambda folder: coco_stuff(folder, masks="annotations"),
    "coco_stuff27": lambda folder: coco_stuff(folder, "coco_stuff27"),
    "ade20k": ade20k,
    "cityscapes": cityscapes,
    "imagenet_s": imagenet_s,
    "imagenet_s, 300": lambda folder: imagenet_s(folder, "300"),
    "imagenet_s, 50": lambda folder: imagenet_s(folder, "50"),
    "nus_wide": lambda folder: nus_wide(folder, CONCEPTS),
    "coco_multilabel": coco_multilabel,
    "coco_multilabel, 2017": lambda folder: coco_multilabel(folder, "val2017"),
}


def opened(miniature: Miniature) -> DataSet:
    """The data set that the library reads in it."""
    return open_dataset(miniature.key, miniature.path, split=miniature.split)
