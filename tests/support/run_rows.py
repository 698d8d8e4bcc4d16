"""Rows and settings of a small run, for the tests of the folder of a run."""

from pathlib import Path

import numpy as np

from clip_surgery_hub.prediction.runs import OUTPUTS, RunFolder, ShardSink, images_schema

TEXTS = ("bench", "dog")
BACKGROUND = ("sky",)
WIDTH = 3
SETTINGS = {"texts": list(TEXTS), "background": list(BACKGROUND), "outputs": list(OUTPUTS), "width": WIDTH}
SCHEMA = images_schema(OUTPUTS, texts=TEXTS, background=BACKGROUND, width=WIDTH)
PLAIN = images_schema([], texts=TEXTS)


def plain_row(key):
    """An image without outputs."""
    return {"key": key, "height": 40, "width": 60, "grid_height": 2, "grid_width": 3}


def row(key, number=0):
    """An image with all outputs; its numbers follow from ``number`` and float16 holds them exactly."""
    return plain_row(key) | {
        "scores": np.array([number, number + 0.5], np.float32),
        "presence": [0.25, 0.75],
        "points": [[{"x": 59, "y": 39, "label": 1}, {"x": number, "y": 2, "label": 0}], []],
        "boxes": [[], [{"x0": 0, "y0": 1, "x1": 2, "y1": 3}, {"x0": 4, "y0": 5, "x1": 6, "y1": 7}]],
        "labels": [{"text": "dog", "score": number + 0.5}],
        "segments": [
            {"text": text, "height": 40, "width": 60, "counts": "PXa"} for text in (*TEXTS, *BACKGROUND)
        ],
        "maps": (np.arange(12, dtype=np.float16) + number).reshape(2, 2, 3),
        "embeddings": np.array([1, 0, number], np.float64),
    }


def error_row(key):
    return {"key": key, "kind": "damaged", "message": f"The image {key} is damaged; replace it."}


def write_run(path: Path, keys, *, errors=(), shard_rows=10, settings=SETTINGS):
    """A run that is done, with all outputs."""
    with RunFolder.open(path, settings) as run:
        sink = ShardSink(run, 0, SCHEMA, shard_rows=shard_rows)
        sink.add("images", [row(key, number) for number, key in enumerate(keys)])
        sink.add("errors", [error_row(key) for key in errors])
        sink.flush()
    return path


def files_of(path: Path):
    """Every file under a folder with what it holds."""
    return {str(one.relative_to(path)): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}
