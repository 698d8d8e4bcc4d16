"""Images of every kind end as the same upright RGB; sizes are whole patches; errors are one line."""

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

from clip_surgery_hub.images.image_transform import ImageTransform, Normalization, normalization_of, resized
from clip_surgery_hub.images.loading import ImageError, load_image, load_images

OPENAI = Normalization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@pytest.fixture
def colors():
    """An image ``[4, 6, 3]`` with another color in every pixel."""
    return np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_paths_pil_arrays_and_tensors_are_the_same_image(colors, tmp_path):
    path = saved(tmp_path, Image.fromarray(colors), "a.png")
    tensor = torch.from_numpy(colors).permute(2, 0, 1)
    kinds = [
        path,
        str(path),
        Image.open(path),
        colors,
        colors[:, ::-1][:, ::-1],
        colors.astype(np.float32) / 255,
        colors.astype(np.float64) / 255,
        colors.astype(np.uint16) * 257,
        (colors.astype(np.uint16) * 257).astype(">u2"),
        tensor,
        tensor.double() / 255,
        (tensor / 255).requires_grad_(),
        Image.fromarray(colors).convert("RGBA"),
    ]
    for kind in kinds:
        image = load_image(kind)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), colors)
    for rounded in (tensor.half() / 255, tensor.bfloat16() / 255):
        difference = np.asarray(load_image(rounded)).astype(int) - colors
        assert np.abs(difference).max() <= 1


def test_the_image_given_stays_as_it_was(colors):
    image = Image.fromarray(colors).convert("RGBA")
    load_image(image)
    assert image.mode == "RGBA" and np.array_equal(np.asarray(image)[:, :, :3], colors)
    loaded = load_image(colors)
    loaded.putpixel((0, 0), (1, 2, 3))
    assert tuple(colors[0, 0]) != (1, 2, 3)


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
def test_orientation_tags_are_followed(colors, tmp_path, tag, undo):
    """``undo`` stores the upright image the way a camera held that way would."""
    exif = Image.Exif()
    exif[0x0112] = tag
    stored = Image.fromarray(np.ascontiguousarray(undo(colors)))
    path = saved(tmp_path, stored, "turned.png", exif=exif)
    for kind in (path, Image.open(path)):
        np.testing.assert_array_equal(np.asarray(load_image(kind)), colors)


def test_gray_is_the_same_in_all_three_colors(tmp_path):
    gray = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    wanted = np.repeat(gray[:, :, None], 3, axis=2)
    kinds = [
        Image.fromarray(gray),
        gray,
        gray[:, :, None],
        torch.from_numpy(gray),
        torch.from_numpy(gray)[None],
    ]
    kinds.append(saved(tmp_path, Image.fromarray(gray), "gray.jpg", quality=100))
    for kind in kinds[:-1]:
        np.testing.assert_array_equal(np.asarray(load_image(kind)), wanted)
    assert np.abs(np.asarray(load_image(kinds[-1])).astype(int) - wanted).max() <= 2
    black_and_white = Image.fromarray(gray > 100)
    assert black_and_white.mode == "1"
    np.testing.assert_array_equal(np.asarray(load_image(black_and_white))[:, :, 0], (gray > 100) * 255)


def test_palettes_become_their_colors(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8), "L").convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    wanted = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]]
    for kind in (image, saved(tmp_path, image, "p.png"), saved(tmp_path, image, "p.gif")):
        assert np.asarray(load_image(kind)).tolist() == wanted
    clear = saved(tmp_path, image, "clear.png", transparency=1)
    wanted = [[[255, 0, 0], [255, 255, 255]], [[0, 0, 255], [255, 255, 255]]]
    assert np.asarray(load_image(clear)).tolist() == wanted


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 51]]], dtype=np.uint8)
    # 51 is a fifth: 0.2 * (0, 100, 200) + 0.8 * 255
    wanted = [[[10, 20, 30], [255, 255, 255], [204, 224, 244]]]
    image = Image.fromarray(pixels)
    for kind in (image, pixels, torch.from_numpy(pixels).permute(2, 0, 1), saved(tmp_path, image, "a.png")):
        np.testing.assert_allclose(np.asarray(load_image(kind)), wanted, atol=1)
    gray = Image.fromarray(np.array([[[100, 255], [100, 0]]], dtype=np.uint8))
    assert gray.mode == "LA"
    assert np.asarray(load_image(gray)).tolist() == [[[100] * 3, [255] * 3]]
    colored = Image.new("RGB", (2, 1), (9, 9, 9))
    colored.putpixel((1, 0), (1, 2, 3))
    keyed = saved(tmp_path, colored, "keyed.png", transparency=(1, 2, 3))
    assert np.asarray(load_image(keyed)).tolist() == [[[9, 9, 9], [255, 255, 255]]]


def test_printing_colors_become_rgb(tmp_path):
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    for kind in (cyan, saved(tmp_path, cyan, "cmyk.jpg", quality=100), saved(tmp_path, cyan, "cmyk.tif")):
        np.testing.assert_allclose(np.asarray(load_image(kind))[4, 4], [0, 255, 255], atol=3)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_become_eight(tmp_path, name):
    deep = np.array([[0, 257, 25700], [32896, 65278, 65535]], dtype=np.uint16)
    path = saved(tmp_path, Image.fromarray(deep), name)
    assert Image.open(path).mode.startswith("I;16")
    wanted = [[0, 1, 100], [128, 254, 255]]
    for kind in (path, Image.fromarray(deep), deep, Image.fromarray(deep.astype(np.int32))):
        assert np.asarray(load_image(kind))[:, :, 2].tolist() == wanted


def test_big_endian_sixteen_bits_and_floats_from_tiff(tmp_path):
    deep = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 257, 65535))
    assert np.asarray(load_image(deep))[0, :, 0].tolist() == [1, 255]
    real = saved(tmp_path, Image.fromarray(np.array([[0.0, 0.2, 1.0]], dtype=np.float32)), "real.tif")
    assert np.asarray(load_image(real))[0, :, 0].tolist() == [0, 51, 255]


def sixteen_bit_color_png(values):
    """A PNG with 16 bits per color, written by hand: PIL writes none."""

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


def test_sixteen_bits_per_color(colors, tmp_path):
    (tmp_path / "deep.png").write_bytes(sixteen_bit_color_png(colors.astype(np.uint16) * 257))
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "deep.png")), colors)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(load_image(path))[0, 0].tolist() == [255, 0, 0]


def one_line(error):
    return re.fullmatch(r"[^\n]+[.)]", str(error.value)) is not None


def test_files_that_are_no_images(colors, tmp_path):
    whole = saved(tmp_path, Image.fromarray(np.tile(colors, (20, 20, 1))), "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    png = saved(tmp_path, Image.fromarray(colors), "b.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(png[:-30])
    cases = {
        "cut.jpg": "cut.jpg is damaged or cut off .*replace it",
        "broken.png": "broken.png (is damaged or cut off|cannot be read)",
        "empty.png": "empty.png is empty",
        "text.png": "text.png is no image that can be read",
        "missing.png": "There is no file .*missing.png; check the path",
        ".": "is a folder",
    }
    for name, message in cases.items():
        with pytest.raises(ImageError, match=message) as error:
            load_image(tmp_path / name)
        assert one_line(error)
    with pytest.raises(ImageError, match="is an address, not a file") as error:
        load_image("https://example.org/a.png")
    assert one_line(error)


def test_an_image_of_too_many_pixels_is_an_error_of_its_own(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("L", (300, 300)), "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="huge.png is too large") as error:
        load_image(path)
    assert one_line(error)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 6, 2), np.uint8), r"shape \[4, 6, 2\]; an image is an array \[H, W, 3\]"),
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
def test_what_is_no_image_is_said(image, message):
    with pytest.raises(ImageError, match=message) as error:
        load_image(image)
    assert one_line(error)


def test_one_image_or_many(colors, tmp_path):
    path = saved(tmp_path, Image.fromarray(colors), "a.png")
    tensor = torch.from_numpy(colors).permute(2, 0, 1)
    for one in (path, str(path), Image.open(path), colors, tensor, colors[:, :, 0]):
        assert len(load_images(one)) == 1
    many = [
        [path, colors, tensor],
        (path, str(path), path),
        (image for image in [colors, tensor, path]),
        np.stack([colors] * 3),
        torch.stack([tensor] * 3),
    ]
    for images in many:
        loaded = load_images(images)
        assert len(loaded) == 3
        for image in loaded:
            np.testing.assert_array_equal(np.asarray(image), colors)


def test_the_broken_one_of_many_is_named(colors):
    with pytest.raises(ImageError, match=r"^Image 1 of 2: The array or tensor has shape"):
        load_images([colors, np.zeros((1, 2, 7))])
    with pytest.raises(ImageError, match=r"^There is no file nowhere.png"):
        load_images([colors, "nowhere.png"])
    with pytest.raises(ImageError, match="No image was given"):
        load_images([])
    with pytest.raises(ImageError, match="not SimpleNamespace"):
        load_images(SimpleNamespace())


sides = st.integers(1, 4000)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(sides, sides, st.sampled_from([8, 14, 16, 32]), st.integers(2, 20), st.integers(1, 6))
def test_sizes_are_whole_patches_that_keep_the_aspect(height, width, patch, cells, times):
    size = patch * cells
    transform = ImageTransform(size=size, patch_size=patch, max_side=times * size)
    read = transform.size_of(height, width)
    assert transform.grid_of(height, width) == (read[0] // patch, read[1] // patch)
    assert read[0] % patch == read[1] % patch == 0 and min(read) >= patch and max(read) <= times * size
    exact = min(size / min(height, width), times * size / max(height, width))
    for given_side, read_side in zip((height, width), read, strict=True):
        assert read_side == patch or abs(read_side - given_side * exact) <= patch / 2 + 1e-6
    if max(height, width) <= times * min(height, width):
        assert min(read) == size


@pytest.mark.parametrize(
    ("image", "size", "max_side", "wanted"),
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
def test_sizes_by_hand(image, size, max_side, wanted):
    assert ImageTransform(size=size, patch_size=16, max_side=max_side).size_of(*image) == wanted


def test_sizes_below_a_patch_are_refused():
    with pytest.raises(ValueError, match="size must be at least one patch, 16 pixels, got 15"):
        ImageTransform(size=15, patch_size=16)
    with pytest.raises(ValueError, match="max_side must be at least one patch, 16 pixels, got 8"):
        ImageTransform(size=32, patch_size=16, max_side=8)


def test_pixels_are_those_of_the_image_processor(colors):
    """Bicubic, scaled and normalized as `transformers` does it where it crops nothing."""
    from transformers import CLIPImageProcessorPil

    image = Image.fromarray(np.tile(colors, (10, 10, 1)))
    processor = CLIPImageProcessorPil(size={"height": 32, "width": 48}, do_center_crop=False)
    wanted = processor(image, return_tensors="pt")["pixel_values"][0]
    assert normalization_of(processor) == OPENAI == Normalization()
    pixels = OPENAI(resized(image, (32, 48), OPENAI.resample))
    assert pixels.dtype == torch.float32 and pixels.shape == (3, 32, 48)
    torch.testing.assert_close(pixels, wanted, atol=1e-6, rtol=0)


def test_pixels_of_the_right_size_are_not_resampled(colors):
    normalization = Normalization((0.5, 0.25, 0.0), (0.5, 0.5, 2.0))
    pixels = ImageTransform(size=4, patch_size=2, normalization=normalization)(Image.fromarray(colors))
    wanted = (colors / 255 - [0.5, 0.25, 0.0]) / [0.5, 0.5, 2.0]
    np.testing.assert_allclose(pixels.permute(1, 2, 0), wanted, atol=1e-6)


def test_what_is_no_image_processor_is_refused():
    assert normalization_of(None) is None
    with pytest.raises(TypeError, match="image processor of transformers.*got SimpleNamespace"):
        normalization_of(SimpleNamespace(mean=0))
    processor = SimpleNamespace(do_normalize=True, image_mean=0.5, image_std=[0.1, 0.2], resample=3)
    with pytest.raises(
        ValueError, match="image_std must be a number of at least 1e-06 for red, green and blue, but is"
    ):
        normalization_of(processor)
    processor.image_std = 0.0
    with pytest.raises(ValueError, match="image_std must be a number of at least 1e-06"):
        normalization_of(processor)
    processor.do_normalize = False
    assert normalization_of(processor) == Normalization((0.0,) * 3, (1.0,) * 3)
