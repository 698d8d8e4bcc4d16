"""Files that are broken in many ways, and odd ones that are not, among good ones: each one row or error."""

import os
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_surgery_hub.images.image_transform import ImageTransform
from clip_surgery_hub.images.loading import ERROR_KINDS, ImageError, load_image
from clip_surgery_hub.prediction.sources import ImageBatches, open_source
from tests.support.odd_files import GOOD, as_png, is_kind, write_files

TRANSFORM = ImageTransform(size=16, patch_size=8)  # images of 16 x 24 stay as they are


def test_each_of_many_files_is_a_row_with_its_pixels_or_an_error_of_its_kind(tmp_path):
    kinds, pixels = write_files(tmp_path)
    rows, errors = Counter(), Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for batch in ImageBatches(open_source(tmp_path), TRANSFORM, batch_size=7):
            assert tuple(batch["pixels"].shape[1:]) in ((3, 16, 24), (3, 8, 8))
            for key, values in zip(batch["keys"], batch["pixels"], strict=True):
                rows[key] += 1
                difference = np.abs(values.permute(1, 2, 0).numpy().astype(int) - pixels[key])
                assert difference.max() <= (4 if key.startswith("cmyk") else 0), key
            assert batch["heights"].tolist() == [16] * len(batch["keys"])
            assert batch["widths"].tolist() == [24] * len(batch["keys"])
            for error in batch["errors"]:
                errors[error["key"]] += 1
                assert error["kind"] in ERROR_KINDS and "\n" not in error["message"] and error["message"]
                assert is_kind(error["kind"], kinds[error["key"]]), error
    assert rows == Counter(pixels.keys())
    assert errors == Counter(kinds.keys())
    assert len(kinds) + len(pixels) - GOOD >= 200


@pytest.fixture
def folder_of_another():
    """A folder outside of those of pytest, which only their owner may enter."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        try:
            yield Path(folder)
        finally:
            if os.getuid() == 0:
                os.seteuid(0)


def test_files_that_may_not_be_read_are_errors(folder_of_another):
    path = folder_of_another / "a.png"
    path.write_bytes(as_png(0)[0])
    closed = folder_of_another / "closed"
    closed.mkdir()
    (closed / "b.png").write_bytes(as_png(0)[0])
    path.chmod(0)
    closed.chmod(0)
    if os.getuid() == 0:  # root may read all: be nobody for a while
        os.seteuid(65534)
    for name in ("a.png", "closed/b.png"):
        with pytest.raises(ImageError, match="may not be read; check its permissions") as caught:
            load_image(folder_of_another / name)
        assert caught.value.kind == "not_permitted"
    with pytest.raises(PermissionError, match="closed may not be read; check its permissions"):
        open_source(folder_of_another)
    if os.getuid() == 0:
        os.seteuid(0)
    closed.chmod(0o755)


def test_errors_keep_their_kind_on_the_way_to_another_process():
    import pickle

    error = pickle.loads(pickle.dumps(ImageError("It is gone.", "missing")))
    assert (str(error), error.kind) == ("It is gone.", "missing")
    assert ImageError("Something.").kind == "unreadable"
