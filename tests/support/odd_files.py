"""Files that are broken in many ways, and odd ones that are not, among good ones."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

OF_EACH = 10
GOOD = 400


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def declared_png(width, height):
    """A PNG that says how large it is and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def declared_bmp(width, height):
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def declared_gif(width, height):
    screen = struct.pack("<HHBBB", width, height, 0, 0, 0)
    return (
        b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00;"
    )


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colors(number):
    """Another image ``[16, 24, 3]`` for each number."""
    return np.random.default_rng(number).integers(0, 256, (16, 24, 3)).astype(np.uint8)


def plain(number):
    """One color, which survives JPEG."""
    return np.full((16, 24, 3), (20 * (number % 10) + 30, 200 - 10 * number % 100, 90), np.uint8)


def half(data):
    return data[: len(data) // 2]


# Name of the kind -> (suffix, what to write for a number, the error's kind). With a path it writes itself.
BROKEN = {
    "truncated jpeg": (".jpg", lambda n: half(encoded(Image.fromarray(colors(n)), "JPEG")), "damaged"),
    "truncated png": (".png", lambda n: half(encoded(Image.fromarray(colors(n)), "PNG")), "damaged"),
    "truncated header": (".jpg", lambda n: encoded(Image.fromarray(colors(n)), "JPEG")[: 20 + n], None),
    "empty": (".jpg", lambda n: b"", "empty"),
    "text as jpg": (".jpg", lambda n: f"this is no image, number {n}".encode(), "not_an_image"),
    "html": (".png", lambda n: b"<!doctype html><html><body>404 not found</body></html>", "not_an_image"),
    "png bomb": (".png", lambda n: declared_png(60000 + n, 60000), "too_large"),
    "png that PIL only warns of": (".png", lambda n: declared_png(10000 + n, 9500), "too_large"),
    "bmp bomb": (".bmp", lambda n: declared_bmp(40000 + n, 40000), "too_large"),
    "gif bomb": (".gif", lambda n: declared_gif(60000 + n, 60000), "too_large"),
    "zero size": (".png", lambda n: declared_png(0, n), None),
    "symlink loop": (".jpg", lambda n, path: path.symlink_to(path), "link_loop"),
    "dangling symlink": (".jpg", lambda n, path: path.symlink_to(path.parent / "nowhere"), "missing"),
    "pipe": (".jpg", lambda n, path: os.mkfifo(path), "empty"),
    "float tiff out of range": (
        ".tif",
        lambda n: encoded(Image.fromarray(np.full((16, 24), 7.0 + n, np.float32)), "TIFF"),
        "bad_values",
    ),
    "names with spaces and non-ASCII": (".jpeg", lambda n: b"\xff\xd8\xff nothing more", "not_an_image"),
}


def cmyk(n):
    return encoded(Image.fromarray(plain(n)).convert("CMYK"), "JPEG", quality=100, subsampling=0), plain(n)


def sixteen_bit(n):
    gray = colors(n)[:, :, 0]
    data = encoded(Image.fromarray(gray.astype(np.uint16) * 257), "PNG")
    return data, np.repeat(gray[:, :, None], 3, axis=2)


def animated(kind):
    def write(n):
        frames = [Image.fromarray(plain(n)), Image.fromarray(255 - plain(n))]
        options = {"lossless": True} if kind == "WEBP" else {}
        return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options), plain(n)

    return write


def turned(n):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(colors(n), 1)))
    return encoded(stored, "PNG", exif=exif), colors(n)


def clear_palette(n):
    image = Image.new("P", (24, 16), n % 2)
    image.putpalette([10, 20, 30, 200, 100, 50])
    wanted = np.array((255, 255, 255) if n % 2 == 0 else (200, 100, 50), np.uint8)
    return encoded(image, "PNG", transparency=0), np.broadcast_to(wanted, (16, 24, 3))


def one_bit(n):
    black_and_white = colors(n)[:, :, 0] > 127
    wanted = np.repeat(black_and_white[:, :, None], 3, axis=2).astype(np.uint8) * 255
    return encoded(Image.fromarray(black_and_white), "PNG"), wanted


def float_tiff(n):
    gray = colors(n)[:, :, 0]
    data = encoded(Image.fromarray(gray.astype(np.float32) / 255), "TIFF")
    return data, np.repeat(gray[:, :, None], 3, axis=2)


def as_png(n):
    return encoded(Image.fromarray(colors(n)), "PNG"), colors(n)


# Name of the kind -> (name of the file, its bytes and the pixels that are read).
ODD = {
    "wrong suffix": ("{}.jpg", as_png),
    "cmyk": ("{}.jpg", cmyk),
    "16 bit": ("{}.png", sixteen_bit),
    "animated gif": ("{}.gif", animated("GIF")),
    "animated webp": ("{}.webp", animated("WEBP")),
    "turned by its exif": ("{}.png", turned),
    "palette with transparency": ("{}.png", clear_palette),
    "one bit": ("{}.png", one_bit),
    "float tiff": ("{}.tiff", float_tiff),
    "name with spaces and non-ASCII": ("päth of 図 {} 'a\\b.PNG", as_png),
    "folder named as an image": ("{}.jpg/inside.png", as_png),
}


def write_files(folder: Path):
    """Ten of each kind and many good ones: key -> kind of its error, and key -> pixels [16, 24, 3]."""
    kinds, pixels = {}, {}
    for name, (suffix, content, kind) in BROKEN.items():
        for number in range(OF_EACH):
            path = folder / name / f"{number} é ü{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if content.__code__.co_argcount == 2:
                content(number, path)
            else:
                path.write_bytes(content(number))
            kinds[path.relative_to(folder).as_posix()] = kind
    for name, (file, content) in {**ODD, "good": ("{}.png", as_png)}.items():
        for number in range(GOOD if name == "good" else OF_EACH):
            path = folder / name / file.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            data, pixels[path.relative_to(folder).as_posix()] = content(number)
            path.write_bytes(data)
    return kinds, pixels


def is_kind(found, wanted):
    """Which check finds what has no beginning, PIL's releases differ in."""
    return found in ("damaged", "not_an_image", "empty") if wanted is None else found == wanted
