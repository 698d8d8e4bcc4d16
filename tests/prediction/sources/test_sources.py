"""Keys of every kind of list, and shares that hold each sample once, whoever asks."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_surgery_hub.images.image_transform import ImageTransform, Normalization
from clip_surgery_hub.images.loading import ImageError
from clip_surgery_hub.prediction.sources import Sample, Share, Source, open_source
from clip_surgery_hub.prediction.sources.source import StreamedSource, UniqueKeys, refuse_duplicates

TRANSFORM = ImageTransform(size=16, patch_size=8)


def keys_of(source, of=1, done=()):
    """The keys of each share."""
    return [[sample.key for sample in source.samples(Share(number, of), done)] for number in range(of)]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def red(folder, name, width=16):
    """A red image 16 pixels high."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, 16), "red").save(folder / name, "PNG")
    return (folder / name).read_bytes()


class Stream(StreamedSource):
    """Parts of given sizes, which note what is asked of them."""

    description = "stream"

    def __init__(self, sizes):
        self.sizes = sizes
        self.asked = []

    def parts(self):
        return len(self.sizes)

    def part(self, number):
        for row in range(self.sizes[number]):
            key = f"{number}/{row}"
            yield key, lambda key=key: self.asked.append(key)


@given(st.integers(0, 40), st.integers(1, 12), st.sets(st.integers(0, 39)))
def test_shares_of_a_list_hold_each_sample_that_is_not_done_once(count, of, done):
    source = open_source([(f"k{number}", number) for number in range(count)])
    done = {f"k{number}" for number in done}
    shares = [list(source.samples(Share(number, of), done)) for number in range(of)]
    wanted = [Sample(f"k{number}", number) for number in range(count) if f"k{number}" not in done]
    assert [sample for share in shares for sample in share] == wanted
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert source.count() == count and source.remaining(done) == len(wanted)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 14), st.data())
def test_shares_of_a_stream_hold_each_sample_that_is_not_done_once(sizes, of, data):
    source = Stream(sizes)
    everything = {f"{number}/{row}" for number, size in enumerate(sizes) for row in range(size)}
    done = data.draw(st.sets(st.sampled_from(sorted(everything)))) if everything else set()
    shares = keys_of(source, of, done)
    given_out = [key for share in shares for key in share]
    assert sorted(given_out) == sorted(everything - done)
    assert sorted(source.asked) == sorted(given_out)  # no content was read for another share, or again
    if of <= len(sizes):
        assert all(len({key.split("/")[0] for key in share} & {key.split("/")[0] for key in other}) == 0
                   for share in shares for other in shares if share is not other)  # fmt: skip


def test_a_share_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="Share 2 of 2 does not exist; they count from 0"):
        Share(2, 2)


def test_a_folder_is_searched_in_the_order_of_the_names_and_hidden_files_are_left_out(tmp_path):
    touch(tmp_path, "b.png", "a/z.JPG", "a.png", "c d/ü.webp", "notes.txt", ".hidden.png", ".cache/x.png")
    source = open_source(tmp_path)
    assert keys_of(source) == [["a/z.JPG", "a.png", "b.png", "c d/ü.webp"]]
    assert source.description == f"folder {tmp_path}"
    (sample,) = source.samples(Share(3, 4))
    assert sample == Sample("c d/ü.webp", tmp_path / "c d" / "ü.webp")


def test_links_in_circles_end_and_links_elsewhere_are_followed(tmp_path):
    touch(tmp_path, "in/a/1.png", "in/b/2.png", "out/3.png")
    (tmp_path / "in" / "a" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "b" / "aside").symlink_to(tmp_path / "in" / "a")
    (tmp_path / "in" / "away").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "lost.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "own.png").symlink_to(tmp_path / "in" / "own.png")
    assert keys_of(open_source(tmp_path / "in")) == [
        ["a/1.png", "b/2.png", "lost.png", "own.png", "away/3.png"]
    ]


def test_names_that_are_not_utf8_have_keys_that_are(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    red(tmp_path, name)
    (sample,) = open_source(tmp_path).samples(Share())
    assert sample.key == "caf\\xe9.png"
    assert TRANSFORM.read(sample.content)[1] == (16, 16)


def test_patterns_and_single_files_are_relative_to_what_is_fixed(tmp_path, monkeypatch):
    touch(tmp_path, "x/1/a.png", "x/2/a.png", "x/2/b.tif", "x/.a.png")
    (tmp_path / "x" / "3.png").mkdir()
    assert keys_of(open_source(f"{tmp_path}/x/*/a.png")) == [["1/a.png", "2/a.png"]]
    assert keys_of(open_source(f"{tmp_path}/x/**/*.*")) == [["1/a.png", "2/a.png", "2/b.tif"]]
    assert keys_of(open_source(tmp_path / "x" / "2" / "b.tif")) == [["b.tif"]]
    monkeypatch.chdir(tmp_path)
    source = open_source("x/2/*")
    assert keys_of(source) == [["a.png", "b.tif"]] and source.description == f"files {tmp_path}/x/2/*"


def test_what_is_not_there_is_said(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(FileNotFoundError, match="holds no images"):
        open_source(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"No file matches the pattern .*\*\.png. Check the pattern"):
        open_source(f"{tmp_path}/*.png")
    for name in ("a.png", "a.parquet", "a.csv", "a.tar"):
        with pytest.raises(FileNotFoundError, match=f"{name}. Check the pa"):
            open_source(tmp_path / name)


def write_manifest(path, rows):
    if path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
        path.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_manifests_name_paths_relative_to_their_folder(tmp_path, suffix):
    path = tmp_path / f"list{suffix}"
    names = [f"sub/{number}.png" for number in range(7)]
    write_manifest(path, [{"label": "x", "file_name": name} for name in names])
    source = open_source(path)
    assert sum(keys_of(source, 3), []) == names
    assert sum(keys_of(source, 3, {"sub/2.png", "sub/3.png"}), []) == names[:2] + names[4:]
    assert [sample.content for sample in source.samples(Share(1, 3))] == [
        tmp_path / name for name in names[2:4]
    ]
    assert source.count() == 7 and source.description == f"manifest {path} (column 'file_name')"

    write_manifest(path, [{"file_name": "no", "at": name, "key": 3 * row} for row, name in enumerate(names)])
    source = open_source(path, column="at")
    assert sum(keys_of(source, 2), []) == ["0", "3", "6", "9", "12", "15", "18"]
    assert source.description == f"manifest {path} (column 'at', key 'key')"
    assert next(source.samples(Share(1, 7))).content == tmp_path / "sub/1.png"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_manifests_that_cannot_be_followed_are_refused_at_the_start(tmp_path, suffix):
    path = tmp_path / f"list{suffix}"
    write_manifest(path, [{"path": "a.png"}, {"path": "b.png"}, {"path": "a.png"}])
    with pytest.raises(ValueError, match=r"Two images have the key 'a.png' in the manifest .*list"):
        open_source(path)
    write_manifest(path, [{"path": "a.png", "id": "1"}, {"path": "b.png", "id": ""}])
    with pytest.raises(ValueError, match="has nothing in column 'id'"):
        open_source(path, key="id")
    with pytest.raises(ValueError, match="has no column 'name'; it has 'path', 'id'. Name one of them"):
        open_source(path, key="name")
    write_manifest(path, [{"where": "a.png"}])
    with pytest.raises(ValueError, match=r"it has 'where'. Say which one holds the images: column="):
        open_source(path)
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="is not UTF-8|no Parquet"):
        open_source(path)


def test_lines_that_are_no_json_are_named(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text('{"path": "a.png"}\n{"path": \n')
    with pytest.raises(ValueError, match="Line 2 of the manifest is no JSON"):
        open_source(path)
    path.write_text('{"path": "a.png"}\n\n["b.png"]\n')
    with pytest.raises(ValueError, match="Line 3 of the manifest is list where an object was expected"):
        open_source(path)
    path.write_text('{"path": 7}\n')
    with pytest.raises(ValueError, match="Line 1 of .* has int in column 'path' where a path was expected"):
        open_source(path)


def test_a_row_without_an_image_is_an_error_of_its_own(tmp_path):
    path = tmp_path / "list.jsonl"
    write_manifest(path, [{"path": None, "key": "a"}, {"path": "http://x.org/a.png", "key": "b"}])
    kinds = {}
    for sample in open_source(path).samples(Share()):
        with pytest.raises(ImageError) as caught:
            TRANSFORM.read(sample.content)
        kinds[sample.key] = caught.value.kind
    assert kinds == {"a": "missing", "b": "not_a_file"}


def test_parquet_holds_files_as_bytes_over_several_files(tmp_path):
    rows = [{"bytes": red(tmp_path, "x.png", 16 + number)} for number in range(9)]
    (tmp_path / "x.png").unlink()
    write_manifest(tmp_path / "a.parquet", rows[:5])
    write_manifest(tmp_path / "b.parquet", rows[5:])
    source = open_source(f"{tmp_path}/*.parquet")
    assert sum(keys_of(source, 4), []) == [str(number) for number in range(9)]
    for of in (1, 2, 9, 11):
        widths = {
            sample.key: TRANSFORM.read(sample.content)[1][1]
            for number in range(of)
            for sample in source.samples(Share(number, of), {"3", "6"})
        }
        assert widths == {str(number): 16 + number for number in range(9) if number not in (3, 6)}


def test_parquet_of_pairs_and_of_something_else(tmp_path):
    inside = red(tmp_path, "x.png", 20)
    pairs = [
        {"bytes": inside, "path": "y.png"},
        {"bytes": None, "path": "x.png"},
        {"bytes": None, "path": None},
    ]
    write_manifest(tmp_path / "a.parquet", [{"image": pair} for pair in pairs])
    contents = [sample.content for sample in open_source(tmp_path / "a.parquet").samples(Share())]
    assert contents[:2] == [inside, tmp_path / "x.png"]
    assert isinstance(contents[2], ImageError) and contents[2].kind == "missing"
    write_manifest(tmp_path / "b.parquet", [{"image": 7}])
    with pytest.raises(ValueError, match="Column 'image' of the manifest .* is of type int64"):
        open_source(tmp_path / "b.parquet")


def test_a_damaged_row_group_is_an_error_for_each_of_its_rows(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"key": list("abcdef"), "bytes": [bytes([65 + row]) * 3000 for row in range(6)]})
    pq.write_table(table, path, row_group_size=2, compression="none", use_dictionary=False)
    raw = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    for place in range(column.data_page_offset, column.data_page_offset + 40):
        raw[place] = 0xFF
    path.write_bytes(raw)
    samples = list(open_source(path).samples(Share()))
    assert [sample.key for sample in samples] == list("abcdef")
    damaged = [isinstance(sample.content, ImageError) and sample.content.kind for sample in samples]
    assert damaged == [False, False, "damaged", "damaged", False, False]


def test_pairs_must_be_pairs_of_one_key_each():
    with pytest.raises(ValueError, match="Two images have the key 'a' in the sequence of 2 images"):
        open_source([("a", 1), ("a", 2)])
    with pytest.raises(ValueError, match="Item 1 of the data is str where a pair"):
        open_source([("a", 1), "b"])
    with pytest.raises(ValueError, match="not int"):
        open_source(7)
    with pytest.raises(ValueError, match="sequence of 1 images has no columns: leave out column='x'"):
        open_source([("a", 1)], column="x")
    with pytest.raises(ValueError, match="has no column of keys: leave out key='x'"):
        open_source([("a", 1)], key="x")


def test_a_source_is_taken_as_it_is():
    source = Stream([1])
    assert open_source(source) is source and isinstance(source, Source)
    assert source.count() is None and source.remaining({"0/0"}) is None


@pytest.mark.slow
@settings(max_examples=50)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=2), max_size=12))
def test_duplicates_are_found_wherever_they_are(keys):
    if len(set(keys)) == len(keys):
        refuse_duplicates(lambda: keys, "list")
    else:
        again = next(key for number, key in enumerate(keys) if key in keys[:number])
        with pytest.raises(ValueError) as caught:
            refuse_duplicates(lambda: keys, "list")
        assert repr(again) in str(caught.value)


@given(st.lists(st.sampled_from(["a", "a#2", "a#2#2", "b"]), max_size=12))
def test_own_names_differ_and_the_first_stays(keys):
    unique = UniqueKeys()
    named = [unique(key) for key in keys]
    assert len(set(named)) == len(keys)
    for name, key in zip(named, keys, strict=True):
        assert name.startswith(key)
    if keys:
        assert named[0] == keys[0]


def test_images_are_read_as_explained_images_are(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    image_transform = ImageTransform(
        size=16, patch_size=8, max_side=24, normalization=Normalization(resample=Image.Resampling.BILINEAR)
    )
    wanted = Image.fromarray(values).resize((24, 16), Image.Resampling.BILINEAR)
    for content in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), Image.fromarray(values), values):
        pixels, size = image_transform.read(content)
        assert size == (30, 50)
        np.testing.assert_array_equal(pixels.permute(1, 2, 0), np.asarray(wanted))
    with pytest.raises(ValueError, match="size must be at least one patch, 8 pixels, got 7"):
        ImageTransform(size=7, patch_size=8)
    with pytest.raises(ImageError, match="cannot be read") as caught:
        image_transform.read("a\0b.png")
    assert caught.value.kind == "unreadable"
