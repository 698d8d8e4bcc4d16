"""Each image once, in a user's own Trainer: real processes, ranks and workers, any kind of data."""

import io
import os
import signal
import tarfile
from collections import Counter
from itertools import chain
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lightning import LightningModule, Trainer
from PIL import Image

from clip_surgery_hub.images.image_transform import ImageTransform
from clip_surgery_hub.prediction import ImageDataModule
from tests.support.keys_of_ranks import write_keys
from tests.support.rank_processes import Ranks

TRANSFORM = ImageTransform(size=16, patch_size=8)
COUNT = 23  # no multiple of a batch, nor of the readers


def png(number):
    """An image 16 pixels high, of one of three shapes once it is resized; the last is broken."""
    file = io.BytesIO()
    Image.new("RGB", (16 + 8 * (number % 3) + number % 2, 16), "green").save(file, "PNG")
    return b"no image" if number == COUNT - 1 else file.getvalue()


def value(number):
    return "not_an_image" if number == COUNT - 1 else str(16 + 8 * (number % 3) + number % 2)


@pytest.fixture(scope="module")
def origins(tmp_path_factory):
    """Kinds of data -> (what to give, what each key is to be seen with)."""
    root = tmp_path_factory.mktemp("origins")
    images = [png(number) for number in range(COUNT)]
    for number, data in enumerate(images):
        path = root / "folder" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    tars = [range(7), range(7, 8), range(8, COUNT)]
    for part, numbers in enumerate(tars):
        with tarfile.open(root / f"{part}.tar", "w") as tar:
            for number in numbers:
                member = tarfile.TarInfo(f"{number}.png")
                member.size = len(images[number])
                tar.addfile(member, io.BytesIO(images[number]))
    pq.write_table(pa.table({"image": images}), root / "list.parquet", row_group_size=4)
    rows = {"image": [{"bytes": data, "path": None} for data in images], "id": list(range(COUNT))}
    features = datasets.Features({"image": datasets.Image(), "id": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(root / "saved"))
    numbers = range(COUNT)
    shards = [len(chunk) for chunk in (range(8), range(8), range(7))]
    places = [(shard, row) for shard, length in enumerate(shards) for row in range(length)]
    return {
        "folder": (str(root / "folder"), {f"{number % 2}/{number}.png": value(number) for number in numbers}),
        "tars": (
            f"{root}/{{0..2}}.tar",
            {f"{part}.tar/{number}": value(number) for part, chosen in enumerate(tars) for number in chosen},
        ),
        "parquet": (str(root / "list.parquet"), {str(number): value(number) for number in numbers}),
        "dataset": (str(root / "saved"), {str(number): value(number) for number in numbers}),
        "stream": (
            f"stream:{root / 'saved'}",
            {f"{shard}/{row}": value(number) for number, (shard, row) in enumerate(places)},
        ),
    }


def seen(folder):
    lines = [path.read_text(encoding="utf-8").splitlines() for path in sorted(folder.glob("*.txt"))]
    return lines, Counter(chain.from_iterable(lines))


def predict(folder, origins, *, ranks, workers, start="fork", batch_size=4):
    given = [data for data, _ in origins.values()]
    log = folder / "log"
    asked = [str(folder), ranks, workers, start, batch_size, given]
    started = Ranks.start(asked, log, ranks=ranks, program=write_keys)
    assert started.codes() == [0] * ranks, [started.err(rank)[-4000:] for rank in range(ranks)]


@pytest.mark.slow
def test_two_ranks_with_two_workers_see_each_image_once(tmp_path, origins):
    predict(tmp_path, origins, ranks=2, workers=2)
    for number, (kind, (_, wanted)) in enumerate(origins.items()):
        by_rank, lines = seen(tmp_path / str(number))
        assert lines == Counter(f"{key}\t{shown}" for key, shown in wanted.items()), kind
        assert len(by_rank) == 2 and all(by_rank), kind


@pytest.mark.slow
def test_workers_that_start_anew_see_each_image_once(tmp_path, origins):
    chosen = {kind: origins[kind] for kind in ("tars", "stream")}
    predict(tmp_path, chosen, ranks=1, workers=2, start="spawn", batch_size=30)
    for number, (kind, (_, wanted)) in enumerate(chosen.items()):
        _, lines = seen(tmp_path / str(number))
        assert lines == Counter(f"{key}\t{shown}" for key, shown in wanted.items()), kind


def keys_of(batches):
    return [key for batch in batches for key in chain(batch["keys"], (e["key"] for e in batch["errors"]))]


class Rank(SimpleNamespace):
    """What the data module asks of a Trainer."""

    strategy = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))
    lightning_module = SimpleNamespace(image_transform=TRANSFORM)
    callbacks = ()


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 3), (2, 1), (3, 2), (30, 0)])
@pytest.mark.parametrize("kind", ["folder", "tars"])
def test_any_ranks_and_workers_share_what_is_not_done(origins, kind, ranks, workers):
    data, wanted = origins[kind]
    done = set(sorted(wanted)[::4])
    keys = []
    for rank in range(ranks):
        module = ImageDataModule(data, batch_size=3, workers=workers, done=done)
        module.trainer = Rank(global_rank=rank, world_size=ranks)
        keys += keys_of(module.predict_dataloader())
    assert sorted(keys) == sorted(set(wanted) - done)


class ToNowhere(LightningModule):
    """Keeps the keys that it is given."""

    def __init__(self, image_transform=None):
        super().__init__()
        self.image_transform = image_transform
        self.batches = []

    def predict_step(self, batch, batch_index):
        self.batches.append(batch)


def trainer(tmp_path, *callbacks):
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
    )


def test_what_a_callback_has_recorded_is_left_out(tmp_path, origins):
    from lightning import Callback

    data, wanted = origins["folder"]
    recording, other = Callback(), Callback()
    recording.recorded_keys = set(sorted(wanted)[:20])
    module = ImageDataModule(data, batch_size=2)
    assert module.remaining == COUNT
    model = ToNowhere(TRANSFORM)
    run = trainer(tmp_path, other, recording)
    run.predict(model, module)
    assert sorted(keys_of(model.batches)) == sorted(wanted)[20:]
    assert module.remaining == 3

    model = ToNowhere(TRANSFORM)  # what is given here counts before it
    trainer(tmp_path, recording).predict(model, ImageDataModule(data, done=()))
    assert sorted(keys_of(model.batches)) == sorted(wanted)
    assert ImageDataModule(origins["tars"][0]).remaining is None


def test_the_reading_is_the_one_given_or_the_module_s(tmp_path, origins):
    data, _ = origins["folder"]
    model, larger = ToNowhere(TRANSFORM), ImageTransform(size=32, patch_size=8)
    trainer(tmp_path).predict(model, ImageDataModule(data, image_transform=larger))
    assert {min(batch["pixels"].shape[2:]) for batch in model.batches if batch["keys"]} == {32}
    with pytest.raises(
        ValueError, match="has no attribute 'image_transform'. Give image_transform=ImageTransform"
    ):
        trainer(tmp_path).predict(ToNowhere(), ImageDataModule(data))
    with pytest.raises(ValueError, match="Give image_transform=ImageTransform"):
        ImageDataModule(data).predict_dataloader()


def test_sizes_that_make_no_sense_are_refused(origins):
    data, _ = origins["folder"]
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        ImageDataModule(data, batch_size=0)
    with pytest.raises(ValueError, match="workers must be 0 or more, got -1"):
        ImageDataModule(data, workers=-1)


class Deadly:
    """An image whose reader does not survive it."""

    def __fspath__(self):
        os.kill(os.getpid(), signal.SIGKILL)


os.PathLike.register(Deadly)


def test_a_worker_that_dies_is_an_error_and_no_end():
    pairs = [("a", Image.new("RGB", (16, 16))), ("b", Deadly()), ("c", Image.new("RGB", (16, 16)))]
    module = ImageDataModule(pairs, batch_size=1, workers=1, image_transform=TRANSFORM)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.*\)"):
        keys_of(module.predict_dataloader())


class Signalling:
    """An image during whose image_transform its reader is told to stop, as all processes of a job are."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        return self.path


os.PathLike.register(Signalling)


def test_workers_leave_it_to_their_rank_to_stop(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    pairs = [(str(number), Signalling(str(tmp_path / "a.png"))) for number in range(6)]
    module = ImageDataModule(pairs, batch_size=2, workers=2, image_transform=TRANSFORM)
    assert sorted(keys_of(module.predict_dataloader())) == [str(number) for number in range(6)]
