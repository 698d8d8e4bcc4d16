"""Predict runs: two processes against one, the whole against the bare forward, a restart, and memory.

Every figure is taken in processes of its own, which this file starts: `python -m benchmarks.predict WAY ...`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Comparison
from benchmarks.memory import peak

SIZE = int(os.environ.get("BENCHMARK_IMAGES", "64"))
"""Images of the figures with ViT-B/16."""
ROWS = int(os.environ.get("BENCHMARK_ROWS", "100000"))
"""Rows of the figures about restart and memory."""
PAIRS = int(os.environ.get("BENCHMARK_PAIRS", "5"))
BATCH = 8
TEXTS = 10


def clip_folder(folder: Path) -> Path:
    """ViT-B/16 with random weights, a tokenizer with one token per word, and CLIP's image processor."""
    from transformers import CLIPImageProcessor

    from benchmarks.texts import full_clip, word_tokenizer

    full_clip().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return folder


def jpegs(folder: Path, number: int) -> Path:
    """Synthetic scenes of 500 x 375 pixels."""
    from PIL import Image

    from clip_surgery_hub.scenes import World, draw_scene

    folder.mkdir()
    world = World(size=(375, 500), objects=(3, 6))
    for seed in range(number):
        Image.fromarray(draw_scene(seed, world).image).save(folder / f"{seed:04}.jpg", quality=90)
    return folder


def manifest(folder: Path, rows: int) -> Path:
    """So many images by name, all of which are one image of 16 x 16 pixels."""
    from PIL import Image

    Image.new("RGB", (16, 16), "green").save(folder / "one.png")
    path = folder / f"{rows}.csv"
    path.write_text("key,path\n" + "".join(f"{row:09},one.png\n" for row in range(rows)))
    return path


def in_a_process(*arguments: object, threads: int = 2) -> dict[str, Any]:
    """What one of the ways below prints in a fresh process."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.predict", *map(str, arguments)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    if answer.returncode:
        sys.exit(answer.stderr)
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def rows() -> Iterator[Comparison]:
    """The rows of the table about predict runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["CLIP_SURGERY_CACHE"] = str(folder / "texts")
        clip, images = clip_folder(folder / "clip"), jpegs(folder / "jpegs", SIZE)
        yield two_processes(clip, images, folder)
        yield whole(clip, images, folder)
        yield from restart(folder)
        yield memory(folder)


def two_processes(clip: Path, images: Path, folder: Path) -> Comparison:
    """The time that two processes take for what one does, each with one thread."""
    pairs = []
    for pair in range(PAIRS):
        times = {}
        for devices in (1, 2) if pair % 2 else (2, 1):
            out = folder / f"together-{pair}-{devices}"
            in_a_process("together", clip, images, out, devices, threads=1)
            spans = [json.loads(file.read_text()) for file in out.parent.glob(f"{out.name}.*.json")]
            assert len(spans) == devices
            times[devices] = max(end for _, end in spans) - min(start for start, _ in spans)
        pairs.append((times[2], times[1]))
    return Comparison(
        f"{SIZE} JPEGs of 500 x 375, random ViT-B/16, 224 px, two processes with one thread each",
        "one process with one thread",
        median(two for two, _ in pairs),
        median(one for _, one in pairs),
        median(two / one for two, one in pairs),
        1 / 1.85,
        "s",
    )


def whole(clip: Path, images: Path, folder: Path) -> Comparison:
    """Decoding, forward, answers and writing against the forward alone."""
    found = in_a_process("whole", clip, images, folder / "whole")
    return Comparison(
        f"predict of {SIZE} JPEGs of 500 x 375, random ViT-B/16, 224 px, batch {BATCH}",
        "bare forward of the same batches",
        median(ours for ours, _ in found["pairs"]),
        median(bare for _, bare in found["pairs"]),
        median(ours / bare for ours, bare in found["pairs"]),
        1.05,
        "s",
    )


def restart(folder: Path) -> Iterator[Comparison]:
    """A finished run that is started again, with its rows in more and more files."""
    path, times = manifest(folder, ROWS), {}
    for shards in (10, 100, 1000):
        found = in_a_process("restart", path, folder / f"restart-{shards}", shards)
        times[shards] = median(found["seconds"])
    what = f"restart of a finished run of {ROWS:,} rows in 100 files"
    yield Comparison(what, "10 s", times[100], 10, times[100] / 10, 1, "s")
    for fewer in (10, 100):
        what, against = f"the same rows in {10 * fewer:,} files", f"10 times the time of {fewer} files"
        baseline = 10 * times[fewer]
        yield Comparison(what, against, times[10 * fewer], baseline, times[10 * fewer] / baseline, 1, "s")


def memory(folder: Path) -> Comparison:
    """The most memory of a run, with many images and with few."""
    peaks = {}
    for number in (ROWS // 100, ROWS):
        peaks[number] = in_a_process("tiny", manifest(folder, number), folder / f"tiny-{number}")["peak"]
    many, few = peaks[ROWS], peaks[ROWS // 100]
    return Comparison(
        f"peak memory over {ROWS:,} tiny images", f"{ROWS // 100:,}", many, few, many / few, 1.1, "MB"
    )


def together(clip: Path, images: Path, out: Path, devices: int) -> dict[str, Any]:
    """A run; each process writes when it began and ended, beside the run."""
    from benchmarks.texts import TEXTS as names
    from clip_surgery_hub.prediction import ImageDataModule, SurgeryPredictor, predict

    class Timed(SurgeryPredictor):
        def on_predict_start(self) -> None:
            super().on_predict_start()
            self.trainer.strategy.barrier()
            self.began = time.time()

        def on_predict_end(self) -> None:
            file = out.with_name(f"{out.name}.{self.global_rank}.json")
            file.write_text(json.dumps((self.began, time.time())))

    predictor = Timed(str(clip), names[:TEXTS])
    predict(predictor, ImageDataModule(images, batch_size=BATCH), out, accelerator="cpu", devices=devices)
    return {}


def whole_pairs(clip: Path, images: Path, out: Path) -> dict[str, Any]:
    """Seconds of a run, from its first batch to its last file, and of the forward of the same batches."""
    import torch

    from benchmarks.texts import TEXTS as names
    from clip_surgery_hub.prediction import ImageDataModule, SurgeryPredictor, predict

    class Timed(SurgeryPredictor):
        began = ended = 0.0

        def on_predict_start(self) -> None:
            super().on_predict_start()
            self.began = time.perf_counter()

        def on_predict_end(self) -> None:
            self.ended = time.perf_counter()

    predictor = Timed(str(clip), names[:TEXTS])
    module = ImageDataModule(images, batch_size=BATCH, image_transform=predictor.image_transform)
    batches = [
        predictor.image_transform.normalization(batch["pixels"]) for batch in module.predict_dataloader()
    ]
    pairs = []
    for pair in range(PAIRS + 1):
        with torch.inference_mode():
            start = time.perf_counter()
            for pixels in batches:
                predictor.clip.encode_pixels(pixels)
            bare = time.perf_counter() - start
        data = ImageDataModule(images, batch_size=BATCH)
        predict(predictor, data, out.with_name(f"{out.name}-{pair}"), accelerator="cpu", devices=1)
        pairs.append((predictor.ended - predictor.began, bare))
    return {"pairs": pairs[1:]}  # the first warms up


def restart_times(path: Path, out: Path, shards: int) -> dict[str, Any]:
    """Seconds of `predict` on a run in which all is done; the run is written here, row by row."""
    from clip_surgery_hub.prediction import ImageDataModule, SurgeryPredictor, predict
    from clip_surgery_hub.prediction.run_settings import run_settings
    from clip_surgery_hub.prediction.runs import RunFolder, ShardSink, images_schema

    predictor = SurgeryPredictor("clip_vit_tiny.scenes", ["dog", "cat", "fish"])
    data = ImageDataModule(path)
    settings = run_settings(predictor, precision="32-true", data=data.source.description)
    row = {"height": 16, "width": 16, "grid_height": 2, "grid_width": 2}
    row |= {"scores": [0.1, 0.2, 0.3], "presence": [0.1, 0.2, 0.3], "points": [[], [], []]}
    with RunFolder.open(out, settings) as run:
        schema = images_schema(predictor.outputs, texts=predictor.texts)
        sink = ShardSink(run, 0, schema, shard_rows=ROWS // shards)
        for start in range(0, ROWS, 1000):
            sink.add("images", [row | {"key": f"{number:09}"} for number in range(start, start + 1000)])
        sink.flush()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        status = predict(predictor, ImageDataModule(path), out, accelerator="cpu", devices=1)
        seconds.append(time.perf_counter() - start)
        assert (status.done, status.left) == (ROWS, 0)
    return {"seconds": seconds}


def tiny(path: Path, out: Path) -> dict[str, float]:
    """What `peak` says of a run over many tiny images."""
    from clip_surgery_hub.prediction import ImageDataModule, SurgeryPredictor, predict

    predictor = SurgeryPredictor("clip_vit_tiny.scenes", ["dog", "cat", "fish"], size=16)
    data = ImageDataModule(path, batch_size=64)
    return peak(lambda: predict(predictor, data, out, accelerator="cpu", devices=1))


def main() -> None:
    """Go one of the ways in this process and print what it found."""
    way, *given = sys.argv[1:]
    found: dict[str, Any]
    first, second, *more = [Path(one) for one in given]
    if way == "together":
        found = together(first, second, more[0], int(given[3]))
    elif way == "whole":
        found = whole_pairs(first, second, more[0])
    elif way == "restart":
        found = restart_times(first, second, int(given[2]))
    else:
        found = tiny(first, second)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
