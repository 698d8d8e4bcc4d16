"""Sliding windows: their places, and their blending against a slow transcription."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_surgery_hub.images.windows import encode_in_windows, window_cells, window_starts

PATCH = 2


def encode(pixels):
    """Tokens of patch and window: CLS is the mean color, a patch adds its own."""
    patches = pixels.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).mean((-1, -2)).flatten(2).transpose(1, 2)
    cls = pixels.mean((2, 3))[:, None]
    tokens = torch.cat([cls, patches + 0.5 * cls], dim=1)
    return tokens / tokens.norm(dim=-1, keepdim=True)


def slowly(pixels, side, step):
    """One image ``[3, H, W]``, patch by patch: every window that sees it, weighted by its distances."""
    rows, columns = pixels.shape[1] // PATCH, pixels.shape[2] // PATCH
    height, width = min(side, rows), min(side, columns)
    sums, cls = torch.zeros(rows, columns, 3), torch.zeros(3)
    for y in window_starts(rows, side, step):
        for x in window_starts(columns, side, step):
            crop = pixels[:, y * PATCH : (y + height) * PATCH, x * PATCH : (x + width) * PATCH]
            tokens = encode(crop[None])[0]
            cls += tokens[0]
            for i in range(height):
                for j in range(width):
                    weight = min(i + 1, height - i) * min(j + 1, width - j)
                    sums[y + i, x + j] += weight * tokens[1 + i * width + j]
    tokens = torch.cat([cls[None], sums.reshape(-1, 3)])
    return tokens / tokens.norm(dim=-1, keepdim=True)


cells = st.integers(1, 9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), cells, cells, st.integers(1, 6), st.integers(1, 6), st.integers(1, 60))
def test_blending_is_the_weighted_mean_of_what_the_windows_say(seed, rows, columns, side, step, most):
    step = min(side, step)
    pixels = torch.rand(2, 3, rows * PATCH, columns * PATCH, generator=torch.Generator().manual_seed(seed))
    sizes = []

    def recording(crops):
        sizes.append((len(crops), 1 + crops.shape[2] * crops.shape[3] // PATCH**2))
        return encode(crops)

    tokens = encode_in_windows(recording, pixels, patch=PATCH, side=side, step=step, most_tokens=most)
    for image in range(2):
        torch.testing.assert_close(tokens[image], slowly(pixels[image], side, step), atol=1e-5, rtol=0)
    windows = len(window_starts(rows, side, step)) * len(window_starts(columns, side, step))
    assert sum(count for count, _ in sizes) == 2 * windows
    if windows > 1:
        assert all(count == 1 or count * each <= most for count, each in sizes)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 20))
def test_windows_cover_every_cell_and_stay_inside(row, side, step):
    step = min(side, step)
    starts = window_starts(row, side, step)
    covered = {cell for start in starts for cell in range(start, min(row, start + side))}
    assert covered == set(range(row)) and starts == sorted(set(starts))
    assert all(0 <= start and (start + side <= row or start == 0) for start in starts)
    assert all(later - earlier <= step for earlier, later in zip(starts, starts[1:], strict=False))


def test_places_by_hand():
    assert window_starts(28, 14, 7) == [0, 7, 14]
    assert window_starts(30, 14, 7) == [0, 7, 14, 16]
    assert window_starts(14, 14, 7) == window_starts(5, 14, 7) == [0]


@pytest.mark.parametrize("side", [4, 5, 100])
def test_one_window_is_the_image_itself(side):
    pixels = torch.rand(2, 3, 4 * PATCH, 3 * PATCH, generator=torch.Generator().manual_seed(0))
    tokens = encode_in_windows(encode, pixels, patch=PATCH, side=side, step=1, most_tokens=1)
    assert torch.equal(tokens, encode(pixels))


def test_windows_in_pixels_become_whole_patches():
    assert window_cells(224, None, patch=16) == (14, 7)
    assert window_cells(224, 112, patch=14) == (16, 8)
    assert window_cells(250, 100, patch=16) == (16, 6)  # 15.6 and 6.25 patches
    assert window_cells(16, None, patch=16) == (1, 1)
    assert window_cells(23, 23, patch=16) == (1, 1)


@pytest.mark.parametrize(
    ("window", "stride", "message"),
    [
        (15, None, "window must be at least one patch, 16 pixels, got 15"),
        (64, 8, "stride must lie between one patch, 16 pixels, and the window, 64, got 8"),
        (64, 65, "got 65"),
    ],
)
def test_windows_that_leave_gaps_are_refused(window, stride, message):
    with pytest.raises(ValueError, match=message):
        window_cells(window, stride, patch=16)
