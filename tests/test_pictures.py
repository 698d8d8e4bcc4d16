"""Pictures of every kind end as the same upright RGB; sizes are whole patches; errors are one line."""

import re
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_surgery_hub.images.image_transform import Normalisation, picture_size, to_pixels
from clip_surgery_hub.images.loading import PictureError, load_picture, load_pictures

OPENAI = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@pytest.fixture
def colours():
    """A picture ``[4, 6, 3]`` with another colour in every pixel."""
    return np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_paths_pil_arrays_and_tensors_are_the_same_picture(colours, tmp_path):
    path = saved(tmp_path, Image.fromarray(colours), "a.png")
    tensor = torch.from_numpy(colours).permute(2, 0, 1)
    kinds = [
        path,
        str(path),
        Image.open(path),
        colours,
        colours[:, ::-1][:, ::-1],
        colours.astype(np.float32) / 255,
        colours.astype(np.float64) / 255,
        colours.astype(np.uint16) * 257,
        (colours.astype(np.uint16) * 257).astype(">u2"),
        tensor,
        tensor.double() / 255,
        (tensor / 255).requires_grad_(),
        Image.fromarray(colours).convert("RGBA"),
    ]
    for kind in kinds:
        picture = load_picture(kind)
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(picture), colours)
    for rounded in (tensor.half() / 255, tensor.bfloat16() / 255):
        difference = np.asarray(load_picture(rounded)).astype(int) - colours
        assert np.abs(difference).max() <= 1


def test_the_picture_given_stays_as_it_was(colours):
    image = Image.fromarray(colours).convert("RGBA")
    load_picture(image)
    assert image.mode == "RGBA" and np.array_equal(np.asarray(image)[:, :, :3], colours)
    loaded = load_picture(colours)
    loaded.putpixel((0, 0), (1, 2, 3))
    assert tuple(colours[0, 0]) != (1, 2, 3)


@pytest.mark.parametrize(
    ("tag", "undo"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, 1)),
        (7, lambda a: a.transpose(1, 0, 2)[::-1, ::-1]),
        (8, lambda a: np.rot90(a, -1)),
    ],
)
def test_orientation_tags_are_followed(colours, tmp_path, tag, undo):
    """``undo`` stores the upright picture the way a camera held that way would."""
    exif = Image.Exif()
    exif[0x0112] = tag
    stored = Image.fromarray(np.ascontiguousarray(undo(colours)))
    path = saved(tmp_path, stored, "turned.png", exif=exif)
    for kind in (path, Image.open(path)):
        np.testing.assert_array_equal(np.asarray(load_picture(kind)), colours)


def test_grey_is_the_same_in_all_three_colours(tmp_path):
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    wanted = np.repeat(grey[:, :, None], 3, axis=2)
    kinds = [
        Image.fromarray(grey),
        grey,
        grey[:, :, None],
        torch.from_numpy(grey),
        torch.from_numpy(grey)[None],
    ]
    kinds.append(saved(tmp_path, Image.fromarray(grey), "grey.jpg", quality=100))
    for kind in kinds[:-1]:
        np.testing.assert_array_equal(np.asarray(load_picture(kind)), wanted)
    assert np.abs(np.asarray(load_picture(kinds[-1])).astype(int) - wanted).max() <= 2
    black_and_white = Image.fromarray(grey > 100)
    assert black_and_white.mode == "1"
    np.testing.assert_array_equal(np.asarray(load_picture(black_and_white))[:, :, 0], (grey > 100) * 255)


def test_palettes_become_their_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8), "L").convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    wanted = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]]
    for kind in (image, saved(tmp_path, image, "p.png"), saved(tmp_path, image, "p.gif")):
        assert np.asarray(load_picture(kind)).tolist() == wanted
    clear = saved(tmp_path, image, "clear.png", transparency=1)
    wanted = [[[255, 0, 0], [255, 255, 255]], [[0, 0, 255], [255, 255, 255]]]
    assert np.asarray(load_picture(clear)).tolist() == wanted


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 51]]], dtype=np.uint8)
    # 51 is a fifth: 0.2 * (0, 100, 200) + 0.8 * 255
    wanted = [[[10, 20, 30], [255, 255, 255], [204, 224, 244]]]
    image = Image.fromarray(pixels)
    for kind in (image, pixels, torch.from_numpy(pixels).permute(2, 0, 1), saved(tmp_path, image, "a.png")):
        np.testing.assert_allclose(np.asarray(load_picture(kind)), wanted, atol=1)
    grey = Image.fromarray(np.array([[[100, 255], [100, 0]]], dtype=np.uint8))
    assert grey.mode == "LA"
    assert np.asarray(load_picture(grey)).tolist() == [[[100] * 3, [255] * 3]]
    coloured = Image.new("RGB", (2, 1), (9, 9, 9))
    coloured.putpixel((1, 0), (1, 2, 3))
    keyed = saved(tmp_path, coloured, "keyed.png", transparency=(1, 2, 3))
    assert np.asarray(load_picture(keyed)).tolist() == [[[9, 9, 9], [255, 255, 255]]]


def test_printing_colours_become_rgb(tmp_path):
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    for kind in (cyan, saved(tmp_path, cyan, "cmyk.jpg", quality=100), saved(tmp_path, cyan, "cmyk.tif")):
        np.testing.assert_allclose(np.asarray(load_picture(kind))[4, 4], [0, 255, 255], atol=3)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_become_eight(tmp_path, name):
    deep = np.array([[0, 257, 25700], [32896, 65278, 65535]], dtype=np.uint16)
    path = saved(tmp_path, Image.fromarray(deep), name)
    assert Image.open(path).mode.startswith("I;16")
    wanted = [[0, 1, 100], [128, 254, 255]]
    for kind in (path, Image.fromarray(deep), deep, Image.fromarray(deep.astype(np.int32))):
        assert np.asarray(load_picture(kind))[:, :, 2].tolist() == wanted


def test_big_endian_sixteen_bits_and_floats_from_tiff(tmp_path):
    deep = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 257, 65535))
    assert np.asarray(load_picture(deep))[0, :, 0].tolist() == [1, 255]
    real = saved(tmp_path, Image.fromarray(np.array([[0.0, 0.2, 1.0]], dtype=np.float32)), "real.tif")
    assert np.asarray(load_picture(real))[0, :, 0].tolist() == [0, 51, 255]


def sixteen_bit_colour_png(values):
    """A PNG with 16 bits per colour, written by hand: PIL writes none."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_sixteen_bits_per_colour(colours, tmp_path):
    (tmp_path / "deep.png").write_bytes(sixteen_bit_colour_png(colours.astype(np.uint16) * 257))
    np.testing.assert_array_equal(np.asarray(load_picture(tmp_path / "deep.png")), colours)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(load_picture(path))[0, 0].tolist() == [255, 0, 0]


def one_line(error):
    return re.fullmatch(r"[^\n]+[.)]", str(error.value)) is not None


def test_files_that_are_no_pictures(colours, tmp_path):
    whole = saved(tmp_path, Image.fromarray(np.tile(colours, (20, 20, 1))), "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    png = saved(tmp_path, Image.fromarray(colours), "b.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(png[:-30])
    cases = {
        "cut.jpg": "cut.jpg is damaged or cut off .*replace it",
        "broken.png": "broken.png (is damaged or cut off|cannot be read)",
        "empty.png": "empty.png is empty",
        "text.png": "text.png is no picture that can be read",
        "missing.png": "There is no file .*missing.png; check the path",
        ".": "is a folder",
    }
    for name, message in cases.items():
        with pytest.raises(PictureError, match=message) as error:
            load_picture(tmp_path / name)
        assert one_line(error)
    with pytest.raises(PictureError, match="is an address, not a file") as error:
        load_picture("https://example.org/a.png")
    assert one_line(error)


def test_a_picture_of_too_many_pixels_is_an_error_of_its_own(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("L", (300, 300)), "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PictureError, match="huge.png is too large") as error:
        load_picture(path)
    assert one_line(error)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 6, 2), np.uint8), r"shape \[4, 6, 2\]; a picture is an array \[H, W, 3\]"),
        (np.zeros((3, 4, 6), np.uint8), r"shape \[3, 4, 6\]"),
        (torch.zeros(5, 6, 3), r"tensor of shape \[5, 6, 3\].*channels first"),
        (np.zeros((0, 6, 3), np.uint8), r"shape \[0, 6, 3\]"),
        (np.zeros(7), r"shape \[7, 1\]|shape \[7\]"),
        (np.full((2, 2, 3), 255.0), r"float values from 255 to 255; they must lie in \[0, 1\]"),
        (np.full((2, 2, 3), np.nan), r"must lie in \[0, 1\]"),
        (torch.full((3, 2, 2), -1.5), r"from -1.5 to -1.5.*encode_image"),
        (np.zeros((2, 2, 3), np.int64), "type int64; give uint8, uint16, or floats"),
        (np.zeros((2, 2, 3), bool), "type bool"),
        (Image.fromarray(np.full((2, 2), 70000, np.int32)), "integer values from 70000 to 70000"),
        (b"bytes", "not bytes"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_picture_is_said(image, message):
    with pytest.raises(PictureError, match=message) as error:
        load_picture(image)
    assert one_line(error)


def test_one_picture_or_many(colours, tmp_path):
    path = saved(tmp_path, Image.fromarray(colours), "a.png")
    tensor = torch.from_numpy(colours).permute(2, 0, 1)
    for one in (path, str(path), Image.open(path), colours, tensor, colours[:, :, 0]):
        assert len(load_pictures(one)) == 1
    many = [
        [path, colours, tensor],
        (path, str(path), path),
        (picture for picture in [colours, tensor, path]),
        np.stack([colours] * 3),
        torch.stack([tensor] * 3),
    ]
    for pictures in many:
        loaded = load_pictures(pictures)
        assert len(loaded) == 3
        for picture in loaded:
            np.testing.assert_array_equal(np.asarray(picture), colours)


def test_the_broken_one_of_many_is_named(colours):
    with pytest.raises(PictureError, match=r"^Picture 1 of 2: The array or tensor has shape"):
        load_pictures([colours, np.zeros((1, 2, 7))])
    with pytest.raises(PictureError, match=r"^There is no file nowhere.png"):
        load_pictures([colours, "nowhere.png"])
    with pytest.raises(PictureError, match="No picture was given"):
        load_pictures([])
    with pytest.raises(PictureError, match="not SimpleNamespace"):
        load_pictures(SimpleNamespace())


sides = st.integers(1, 4000)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(sides, sides, st.sampled_from([8, 14, 16, 32]), st.integers(2, 20), st.integers(1, 6))
def test_sizes_are_whole_patches_that_keep_the_aspect(height, width, patch, cells, times):
    size = patch * cells
    read = picture_size(height, width, size=size, max_side=times * size, patch=patch)
    assert read[0] % patch == read[1] % patch == 0 and min(read) >= patch and max(read) <= times * size
    exact = min(size / min(height, width), times * size / max(height, width))
    for given_side, read_side in zip((height, width), read, strict=True):
        assert read_side == patch or abs(read_side - given_side * exact) <= patch / 2 + 1e-6
    if max(height, width) <= times * min(height, width):
        assert min(read) == size


@pytest.mark.parametrize(
    ("picture", "size", "max_side", "wanted"),
    [
        ((480, 640), 224, None, (224, 304)),  # 298.67 is nearer to 19 patches than to 18
        ((640, 480), 224, None, (304, 224)),
        ((100, 100), 500, None, (496, 496)),
        ((100, 1000), 224, None, (96, 896)),  # the long side stops at 4 x 224
        ((100, 1000), 224, 448, (48, 448)),
        ((100, 1000), 224, 455, (48, 448)),
        ((1, 1000), 224, None, (16, 896)),
        ((1, 1), 16, None, (16, 16)),
    ],
)
def test_sizes_by_hand(picture, size, max_side, wanted):
    assert picture_size(*picture, size=size, max_side=max_side, patch=16) == wanted


def test_sizes_below_a_patch_are_refused():
    with pytest.raises(ValueError, match="size must be at least one patch, 16 pixels, got 15"):
        picture_size(10, 10, size=15, patch=16)
    with pytest.raises(ValueError, match="max_side must be at least one patch, 16 pixels, got 8"):
        picture_size(10, 10, size=32, max_side=8, patch=16)


def test_pixels_are_those_of_the_image_processor(colours):
    """Bicubic, scaled and normalised as `transformers` does it where it crops nothing."""
    from transformers import CLIPImageProcessorPil

    picture = Image.fromarray(np.tile(colours, (10, 5, 1)))
    processor = CLIPImageProcessorPil(size={"height": 32, "width": 48}, do_center_crop=False)
    wanted = processor(picture, return_tensors="pt")["pixel_values"][0]
    pixels = to_pixels(picture, (32, 48), OPENAI)
    assert pixels.dtype == torch.float32 and pixels.shape == (3, 32, 48)
    torch.testing.assert_close(pixels, wanted, atol=1e-6, rtol=0)


def test_pixels_of_the_right_size_are_not_resampled(colours):
    pixels = to_pixels(Image.fromarray(colours), (4, 6), Normalisation((0.5, 0.25, 0.0), (0.5, 0.5, 2.0)))
    wanted = (colours / 255 - [0.5, 0.25, 0.0]) / [0.5, 0.5, 2.0]
    np.testing.assert_allclose(pixels.permute(1, 2, 0), wanted, atol=1e-6)
