"""Whole runs on broken files, tars and data sets: each sample once, as a row or an error, for any readers."""

import io
import tarfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.prediction.runs import read_errors, run_status
from tests.support.odd_files import GOOD, is_kind, write_files
from tests.support.prediction_runs import TEXTS, assert_complete, assert_same, rows_of
from tests.support.rank_processes import Ranks

COUNT = 23  # no multiple of a batch, nor of the readers


@pytest.mark.slow
def test_400_good_files_and_270_odd_ones_are_rows_and_errors(checkpoint, tmp_path):
    kinds, pixels = write_files(tmp_path / "files")
    run = tmp_path / "run"
    arguments = ["predict", tmp_path / "files", *TEXTS, "--model", checkpoint, "--size", 16]
    arguments += ["--out", run, "--workers", 2, "--batch-size", 7, "--shard-rows", 50]
    strict = Ranks.start([*arguments, "--max-errors", 20], tmp_path / "strict")
    assert strict.codes() == [2]
    assert "images could not be read, at most 20 were allowed" in strict.err().replace("\n", " ")

    started = Ranks.start([*arguments, "--max-errors", len(kinds)], tmp_path / "log")
    assert started.codes() == [1], started.err()
    assert f"{len(pixels)} images explained, {len(kinds)} could not be read" in started.out()
    assert "Traceback" not in started.err() and "Warning" not in started.err()
    assert len(kinds) + len(pixels) - GOOD >= 200
    assert_complete(run, set(kinds) | set(pixels))
    for error in read_errors(run).to_pylist():
        assert is_kind(error["kind"], kinds[error["key"]]), error
    rows = rows_of(run)
    assert set(rows) == set(pixels)
    clip = CLIPSurgery.from_pretrained(str(checkpoint), device="cpu")
    chosen = [key for key in pixels if "good" not in key and "cmyk" not in key][::7] + ["good/0.png"]
    wanted = clip.explain([Image.fromarray(pixels[key]) for key in chosen], ["bench", "dog"], size=16)
    for key, scores in zip(chosen, wanted.scores, strict=True):
        np.testing.assert_allclose(rows[key]["scores"], scores, atol=2e-6, err_msg=key)


def random_image(number: int) -> bytes:
    """A small image of one of three shapes; the last is broken."""
    if number == COUNT - 1:
        return b"no image"
    values = np.random.default_rng(number).integers(0, 256, (16, 16 + 8 * (number % 3), 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Kind -> what to give as data, and kind -> the keys of images 0 to 22."""
    root = tmp_path_factory.mktemp("origins")
    parts = [range(7), range(7, 8), range(8, COUNT)]
    for part, numbers in enumerate(parts):
        with tarfile.open(root / f"{part}.tar", "w") as tar:
            for number in numbers:
                member = tarfile.TarInfo(f"{number}.png")
                member.size = len(random_image(number))
                tar.addfile(member, io.BytesIO(random_image(number)))
    images = [{"bytes": random_image(number), "path": None} for number in range(COUNT)]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": images}, features=features).save_to_disk(str(root / "saved"))
    data = {"tars": f"{root}/{{0..2}}.tar", "saved": str(root / "saved"), "stream": str(root / "saved")}
    of_shards = [(shard, row) for shard, length in enumerate((8, 8, 7)) for row in range(length)]
    keys = {
        "tars": [f"{part}.tar/{number}" for part, numbers in enumerate(parts) for number in numbers],
        "saved": [str(number) for number in range(COUNT)],
        "stream": [f"{shard}/{row}" for shard, row in of_shards],
    }
    return data, keys


def predict_stream(model: str, data: str, run: str, devices: int, workers: int) -> None:
    """A program of a user's own: a data set that is read as a stream of three shards."""
    from clip_surgery_hub.prediction import ImageDataModule, SurgeryPredictor, predict

    stream = datasets.load_from_disk(data).to_iterable_dataset(num_shards=3)
    images = ImageDataModule(stream, batch_size=4, workers=workers)
    predictor = SurgeryPredictor(model, ["bench", "dog"], size=16)
    strategy = "ddp" if devices > 1 else "auto"
    predict(predictor, images, run, accelerator="cpu", devices=devices, strategy=strategy)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tars", "saved", "stream"])
def test_each_sample_comes_once_whatever_the_ranks_and_workers(checkpoint, origins, tmp_path, kind):
    data, keys = origins[0][kind], origins[1][kind]

    def start(run: Path, ranks: int, workers: int) -> None:
        log = Path(f"{run}-{ranks}-log")
        if kind == "stream":
            given = [str(checkpoint), data, str(run), ranks, workers]
            started = Ranks.start(given, log, ranks=ranks, program=predict_stream)
            wanted = [0] * ranks
        else:
            given = ["predict", data, *TEXTS, "--model", checkpoint, "--size", 16, "--out", run]
            given += ["--workers", workers, "--batch-size", 4]
            started = Ranks.start(given, log, ranks=ranks)
            wanted = [1, *[0] * (ranks - 1)]
        assert started.codes() == wanted, [started.err(rank) for rank in range(ranks)]

    start(tmp_path / "alone", 1, 0)
    start(tmp_path / "run", 2, 2)
    for run in ("alone", "run"):
        assert_complete(tmp_path / run, set(keys))
        assert read_errors(tmp_path / run)["key"].to_pylist() == [keys[-1]]
        status = run_status(tmp_path / run)
        assert (status.total, status.left, status.alive) == (len(keys), 0, False)
    alone, rows = rows_of(tmp_path / "alone"), rows_of(tmp_path / "run")
    for key in keys[:-1]:
        assert_same(rows[key], alone[key])
    shards = Counter(path.name for path in (tmp_path / "run").glob("*/*.parquet"))
    start(tmp_path / "run", 1, 1)  # finds nothing left to do
    assert shards == Counter(path.name for path in (tmp_path / "run").glob("*/*.parquet"))

    # The keys name the images that they should.
    clip = CLIPSurgery.from_pretrained(str(checkpoint), device="cpu")
    images = [Image.open(io.BytesIO(random_image(number))) for number in range(COUNT - 1)]
    wanted = clip.explain(images, ["bench", "dog"], size=16)
    for key, scores in zip(keys[:-1], wanted.scores, strict=True):
        np.testing.assert_allclose(alone[key]["scores"], scores, atol=2e-6)
