"""Batches of one shape: nothing dropped, nothing twice, and never more than a few batches held back."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_surgery_hub.images.image_transform import ImageTransform
from clip_surgery_hub.images.loading import ImageError
from clip_surgery_hub.prediction.sources import Sample, batches_of
from clip_surgery_hub.prediction.sources.batches import BATCHES_HELD_BACK

TRANSFORM = ImageTransform(size=8, patch_size=8, max_side=64)
# Height and width of an image, or None for one that is broken.
KINDS = st.sampled_from([None, (8, 8), (8, 16), (16, 8), (8, 31), (60, 8), (3, 3), (16, 16)])


@settings(max_examples=200, deadline=None)
@given(st.lists(KINDS, max_size=60), st.integers(1, 6))
def test_batches_have_one_shape_and_every_sample_is_in_one(kinds, batch_size):
    sizes, taken = {}, 0

    def samples():
        nonlocal taken
        for number, size in enumerate(kinds):
            taken += 1
            sizes[str(number)] = size
            content = ImageError("gone", "missing") if size is None else np.zeros((*size, 3), np.uint8)
            yield Sample(str(number), content)

    rows, failed = [], []
    for batch in batches_of(samples(), TRANSFORM, batch_size=batch_size):
        count = len(batch["keys"])
        assert set(batch) == {"keys", "pixels", "heights", "widths", "errors"}
        assert batch["pixels"].shape[:2] == (count, 3) and str(batch["pixels"].dtype) == "torch.uint8"
        assert count <= batch_size and len(batch["errors"]) <= batch_size and count + len(batch["errors"]) > 0
        if not count:
            assert batch["pixels"].shape == (0, 3, 8, 8)
        own = list(zip(batch["heights"].tolist(), batch["widths"].tolist(), strict=True))
        assert own == [sizes[key] for key in batch["keys"]]
        for key in batch["keys"]:
            assert TRANSFORM.read(np.zeros((*sizes[key], 3), np.uint8))[0].shape == batch["pixels"].shape[1:]
        rows += batch["keys"]
        failed += batch["errors"]
        held_back = taken - len(rows) - len(failed)
        assert held_back < (BATCHES_HELD_BACK + 1) * batch_size  # images, and errors of one batch
    assert sorted(rows, key=int) == [str(number) for number, size in enumerate(kinds) if size is not None]
    assert failed == [
        {"key": str(number), "kind": "missing", "message": "gone"}
        for number, size in enumerate(kinds)
        if size is None
    ]


def test_images_of_one_shape_fill_every_batch_but_the_last():
    samples = [Sample(str(number), np.zeros((8, 8, 3), np.uint8)) for number in range(11)]
    assert [len(batch["keys"]) for batch in batches_of(samples, TRANSFORM, batch_size=4)] == [4, 4, 3]


def test_the_largest_group_goes_out_when_too_much_is_held_back():
    shapes = [(8, 8 * (1 + number % 7)) for number in range(7)] + [(8, 8)]
    samples = [Sample(str(number), np.zeros((*shape, 3), np.uint8)) for number, shape in enumerate(shapes)]
    first, *others = batches_of(samples, TRANSFORM, batch_size=2)
    assert first["keys"] == ["0", "7"] and len(others) == 6


def test_batches_do_not_wait_for_images_to_say_what_failed():
    samples = [Sample(str(number), ImageError("gone", "missing")) for number in range(5)]
    assert [len(batch["errors"]) for batch in batches_of(samples, TRANSFORM, batch_size=2)] == [2, 2, 1]


def test_messages_can_be_written_whatever_the_names_are():
    (batch,) = batches_of([Sample("a", "no\n\udce9.png")], TRANSFORM, batch_size=2)
    assert batch["errors"][0]["message"] == "There is no file no \\udce9.png; check the path."
