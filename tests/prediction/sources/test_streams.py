"""Tars and data sets: keys of WebDataset, cuts anywhere, data sets without their own sharding."""

import gzip
import io
import tarfile

import pytest
import webdataset
from PIL import Image

from clip_surgery_hub.images.image_transform import ImageTransform
from clip_surgery_hub.images.loading import ImageError
from clip_surgery_hub.prediction.sources import Share, open_source
from clip_surgery_hub.prediction.sources import columns as columns_module

TRANSFORM = ImageTransform(size=16, patch_size=8)


def png(width):
    """An image 16 pixels high, which its width tells from others."""
    file = io.BytesIO()
    Image.new("RGB", (width, 16), "blue").save(file, "PNG")
    return file.getvalue()


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def samples_of(count, first=0):
    """The files of samples with an image of width 16 + number, a class and a text."""
    return [
        (f"{number:04d}.{suffix}", data)
        for number in range(first, first + count)
        for suffix, data in (("cls", b"1"), ("png", png(16 + number)), ("json", b"{}"))
    ]


def read_all(source, of=1, done=()):
    """Width of the image, or kind of the error, by key; each key once."""
    found = {}
    for number in range(of):
        for key, content in source.samples(Share(number, of), done):
            assert key not in found
            try:
                found[key] = TRANSFORM.read(content)[1][1]
            except ImageError as error:
                found[key] = error.kind
    return found


def test_tars_have_the_keys_of_webdataset(tmp_path):
    write_tar(tmp_path / "a-000.tar", samples_of(5))
    write_tar(
        tmp_path / "a-001.tar", [("./deep/x.y/7.jpg", png(30)), ("README", b"x"), ("8.seg.png", png(31))]
    )
    wanted = {f"a-000.tar/{number:04d}": 16 + number for number in range(5)}
    wanted |= {"a-001.tar/./deep/x.y/7": 30, "a-001.tar/8": 31}
    theirs = [
        f"{sample['__url__'].rpartition('/')[2]}/{sample['__key__']}"
        for sample in webdataset.WebDataset(
            [str(tmp_path / "a-000.tar"), str(tmp_path / "a-001.tar")], shardshuffle=False
        )
    ]
    assert sorted(wanted) == sorted(theirs)
    for given in (tmp_path, f"{tmp_path}/a-{{000..001}}.tar", f"{tmp_path}/*.tar"):
        source = open_source(given)
        for of in (1, 2, 3, 7):
            assert read_all(source, of) == wanted
            left = {
                key: width for key, width in wanted.items() if key not in ("a-000.tar/0001", "a-001.tar/8")
            }
            assert read_all(source, of, {"a-000.tar/0001", "a-001.tar/8"}) == left
    assert open_source(tmp_path).description == f"tars {tmp_path}"


def test_tars_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "0.tar", samples_of(1))
    assert read_all(open_source(f"{tmp_path}/*/0.tar"), 3) == {"x/0.tar/0000": 16, "y/0.tar/0000": 16}
    with pytest.raises(ValueError, match=r"The tar .*0.tar is given twice"):
        open_source(f"{tmp_path}/x/{{0,0}}.tar")


def test_compressed_tars_and_addresses_are_read(tmp_path):
    write_tar(tmp_path / "a.tar.gz", samples_of(3), "w:gz")
    wanted = {"a.tar.gz/0000": 16, "a.tar.gz/0001": 17, "a.tar.gz/0002": 18}
    assert read_all(open_source(tmp_path / "a.tar.gz"), 2) == wanted
    write_tar(tmp_path / "a.tar", samples_of(3))
    assert read_all(open_source(f"pipe:cat {tmp_path}/a.tar"), 2) == {
        key.replace(".gz", ""): width for key, width in wanted.items()
    }
    lost = read_all(open_source(f"pipe:cat {tmp_path}/b.tar"), 2)
    assert lost == {"b.tar": "damaged"}


def test_a_key_that_comes_again_in_a_tar_gets_a_number(tmp_path):
    files = [("a.png", png(16)), ("b.png", png(17)), ("a.png", png(18)), ("c.cls", b""), ("a.png", png(19))]
    write_tar(tmp_path / "t.tar", files)
    wanted = {"t.tar/a": 16, "t.tar/b": 17, "t.tar/a#2": 18, "t.tar/c": "missing", "t.tar/a#3": 19}
    for of in (1, 2, 5):
        assert read_all(open_source(tmp_path / "t.tar"), of) == wanted
    assert read_all(open_source(tmp_path / "t.tar"), 2, {"t.tar/a"}) == {
        key: value for key, value in wanted.items() if key != "t.tar/a"
    }


def test_which_file_of_a_sample_is_the_image_can_be_said(tmp_path):
    write_tar(tmp_path / "t.tar", [("a.jpg", png(16)), ("a.seg.png", png(17)), ("b.jpg", png(18))])
    assert read_all(open_source(tmp_path)) == {"t.tar/a": "missing", "t.tar/b": 18}
    assert read_all(open_source(tmp_path, column="seg.png")) == {"t.tar/a": 17, "t.tar/b": "missing"}
    assert open_source(tmp_path, column="jpg").description == f"tars {tmp_path} (column 'jpg')"
    with pytest.raises(ValueError, match="has no column of keys: leave out key='x'"):
        open_source(tmp_path, key="x")


def test_a_broken_image_in_a_tar_is_an_error_of_its_own(tmp_path):
    write_tar(
        tmp_path / "t.tar", [("a.png", png(16)[:50]), ("b.png", b""), ("c.png", b"no"), ("d.png", png(17))]
    )
    wanted = {"t.tar/a": "damaged", "t.tar/b": "empty", "t.tar/c": "not_an_image", "t.tar/d": 17}
    assert read_all(open_source(tmp_path), 3) == wanted


def test_a_tar_that_is_cut_off_anywhere_gives_what_is_before_and_one_error(tmp_path):
    path = tmp_path / "t.tar"
    write_tar(path, samples_of(4))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        ends = {m.name: m.offset_data + (m.size + 511) // 512 * 512 for m in tar}  # with the padding
    last = max(ends.values())
    cuts = {0, 1, 511, 512, 513, *ends.values(), *(end - 1 for end in ends.values()), last + 511}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        wanted = {
            f"t.tar/{number:04d}": 16 + number for number in range(4) if ends[f"{number:04d}.png"] <= cut
        }
        wanted["t.tar"] = "damaged"
        assert read_all(open_source(path)) == wanted, cut
        assert read_all(open_source(path), 3) == wanted, cut
    path.write_bytes(whole[: last + 512])  # one block of zeros is an end
    assert "t.tar" not in read_all(open_source(path))
    (tmp_path / "z.tgz").write_bytes(gzip.compress(whole)[:-50])
    assert read_all(open_source(tmp_path / "z.tgz"))["z.tgz"] == "damaged"


def test_a_broken_header_in_a_tar_is_no_end(tmp_path):
    path = tmp_path / "t.tar"
    write_tar(path, samples_of(4))
    with tarfile.open(path) as tar:
        place = tar.getmember("0002.cls").offset
    raw = bytearray(path.read_bytes())
    raw[place : place + 512] = b"\x55" * 512
    path.write_bytes(raw)
    assert read_all(open_source(path), 2) == {"t.tar/0000": 16, "t.tar/0001": 17, "t.tar": "damaged"}


def test_images_beside_tars_are_not_passed_over(tmp_path):
    write_tar(tmp_path / "t.tar", samples_of(1))
    (tmp_path / "a.png").write_bytes(png(16))
    with pytest.raises(ValueError, match=r"holds both images and tars; give a pattern of either, .*\*\.tar"):
        open_source(tmp_path)


@pytest.fixture(scope="module")
def dataset():
    """Seven images of widths 16 to 22, with names."""
    datasets = pytest.importorskip("datasets")
    rows = {
        "label": list(range(7)),
        "photo": [{"bytes": png(16 + number), "path": None} for number in range(7)],
        "name": [f"n{number}" for number in range(7)],
    }
    kinds = {
        "label": datasets.Value("int64"),
        "photo": datasets.Image(),
        "name": datasets.Value("string"),
    }
    return datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))


def test_datasets_are_read_by_their_column_of_images(dataset, tmp_path):
    by_row = {str(number): 16 + number for number in range(7)}
    by_name = {f"n{number}": 16 + number for number in range(7)}
    dataset.save_to_disk(str(tmp_path / "saved"))
    for given in (dataset, dataset.with_format("torch"), tmp_path / "saved"):
        for of in (1, 2, 9):
            assert read_all(open_source(given), of) == by_row
            assert read_all(open_source(given, key="name"), of) == by_name
            left = {name: width for name, width in by_name.items() if name not in ("n0", "n4")}
            assert read_all(open_source(given, key="name"), of, {"n0", "n4"}) == left
    shuffled = dataset.shuffle(seed=0).select(range(5))
    assert read_all(open_source(shuffled, key="name"), 2).items() <= by_name.items()
    assert open_source(dataset).count() == 7 and open_source(dataset).remaining({"3"}) == 6
    assert (
        open_source(tmp_path / "saved").description == f"data set {tmp_path}/saved, 7 rows (column 'photo')"
    )
    paths = dataset.remove_columns("photo").add_column("path", [f"{tmp_path}/{n}.png" for n in range(7)])
    (tmp_path / "6.png").write_bytes(png(40))
    assert read_all(open_source(paths), 2) == {str(row): "missing" for row in range(6)} | {"6": 40}


def test_datasets_that_cannot_be_told_apart_are_refused(dataset, tmp_path):
    datasets = pytest.importorskip("datasets")
    splits = datasets.DatasetDict(train=dataset, test=dataset)
    with pytest.raises(ValueError, match="has several splits \\('train', 'test'\\); give one of them"):
        open_source(splits)
    assert len(read_all(open_source(datasets.DatasetDict(train=dataset)))) == 7
    same = dataset.add_column("key", ["a"] * 7)
    with pytest.raises(ValueError, match="Two images have the key 'a' in the data set"):
        open_source(same)
    with pytest.raises(ValueError, match="has no column 'x'; it has 'label', 'photo', 'name'"):
        open_source(dataset, column="x")


def test_streamed_datasets_are_dealt_out_once(dataset):
    by_name = {f"n{number}": 16 + number for number in range(7)}
    whole = dataset.to_iterable_dataset()
    for of in (1, 3, 8):
        assert read_all(open_source(whole), of) == {str(number): 16 + number for number in range(7)}
        assert read_all(open_source(whole, key="name"), of, {"n3"}) == {
            name: width for name, width in by_name.items() if name != "n3"
        }
    shards = dataset.to_iterable_dataset(num_shards=3)
    found = [read_all(open_source(shards), of) for of in (1, 2, 3, 8)]
    assert all(one == found[0] for one in found)
    assert sorted(found[0].values()) == list(range(16, 23)) and "2/0" in found[0]
    named = read_all(open_source(shards, key="name"), 2)
    assert {key.partition("/")[2]: width for key, width in named.items()} == by_name


def test_streamed_datasets_without_known_types_are_looked_at(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "a.png").write_bytes(png(16))

    def rows():
        for number in range(5):
            yield {"path": str(tmp_path / "a.png"), "key": number % 2}

    source = open_source(datasets.IterableDataset.from_generator(rows))
    assert read_all(source, 2) == {"0": 16, "1": 16, "0#2": 16, "1#2": 16, "0#3": 16}


def test_a_package_that_is_not_there_is_named(monkeypatch, tmp_path):
    write_tar(tmp_path / "t.tar", samples_of(1))

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(columns_module, "import_module", missing)
    with pytest.raises(
        ImportError, match="^WebDataset tars need the package webdataset.*: pip install webdataset$"
    ):
        open_source(tmp_path)
