"""Masks, run lengths and palette images of a segmentation: each is read back by someone else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from clip_surgery_hub.images.masks import (
    class_masks,
    mask_box,
    mask_to_rle,
    palette,
    palette_image,
    rle_to_mask,
)

quick = settings(max_examples=60, deadline=None, derandomize=True)


def random_mask(seed, height, width, share):
    return torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < share


def test_masks_part_the_image():
    index_map = torch.tensor([[0, 2], [2, 1]])
    masks = class_masks(index_map, 4)
    assert masks.dtype == torch.bool
    assert masks.int().tolist() == [[[1, 0], [0, 0]], [[0, 0], [0, 1]], [[0, 1], [1, 0]], [[0, 0], [0, 0]]]
    assert torch.equal(masks.sum(0), torch.ones(2, 2, dtype=torch.int64))


@quick
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_run_lengths_come_back_as_the_mask(seed, height, width, share):
    mask = random_mask(seed, height, width, share)
    rle = mask_to_rle(mask)
    assert rle["size"] == [height, width] and isinstance(rle["counts"], str)
    assert torch.equal(rle_to_mask(rle), mask)
    assert coco.area({"size": rle["size"], "counts": rle["counts"].encode()}) == int(mask.sum())


def test_run_lengths_go_down_the_columns():
    """COCO counts column by column, zeros first: 1 zero, 2 ones, 3 zeros, written as 48 + n."""
    mask = torch.tensor([[False, True, False], [True, False, False]])
    assert mask_to_rle(mask) == {"size": [2, 3], "counts": "123"}


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [2, 3]}, "as mask_to_rle gives it; got {'size': \\[2, 3\\]}"),
        ({"size": "no", "counts": "123"}, "as mask_to_rle gives it"),
        ({"size": [2, 4], "counts": "123"}, "cover 6 pixels, but a mask of 2 x 4 has 8: it is damaged"),
    ],
)
def test_damaged_run_lengths_are_refused(rle, message):
    with pytest.raises(ValueError, match=message):
        rle_to_mask(rle)


def test_a_palette_image_is_read_back_from_its_file(tmp_path):
    index_map = torch.arange(12).reshape(3, 4) % 5
    texts = ["bench", "Bänke", "狗", "a dog, lying", "grass"]
    image = palette_image(index_map, texts)
    image.save(tmp_path / "segments.png")
    with Image.open(tmp_path / "segments.png") as read:
        assert read.mode == "P"
        assert np.array_equal(np.asarray(read), index_map.numpy())
        assert np.array_equal(np.asarray(read.convert("RGB")), palette(5)[index_map.numpy()])


def test_colors_are_told_apart():
    colors = palette(256).astype(int)
    assert len({tuple(color) for color in colors.tolist()}) == 256
    near = np.abs(colors[:8, None] - colors[None, :8]).sum(-1) + 999 * np.eye(8, dtype=int)
    assert near.min() > 60


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: class_masks(torch.zeros(2, 2), 1), r"integers \[H, W\].*got torch.float32 \[2, 2\]"),
        (lambda: mask_to_rle(torch.zeros(2, 2)), r"bool \[H, W\], got torch.float32 \[2, 2\]"),
        (lambda: palette_image(torch.zeros(2, 2).long(), ["a"] * 257), "holds 256 texts, got 257"),
        (lambda: palette_image(torch.tensor([[0, 3]]), ["a", "b"]), "from 0 to 3, but there are 2 texts"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_box_of_a_mask_is_the_smallest_around_it():
    mask = torch.zeros(5, 7, dtype=torch.bool)
    assert mask_box(mask) is None
    mask[2, 6] = True
    assert mask_box(mask) == [6, 2, 7, 3]
    mask[4, 1] = True
    assert mask_box(mask) == [1, 2, 7, 5]
