"""Images to predict on, a checkpoint's options, and what a finished run must hold."""

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from clip_surgery_hub.prediction.runs import read_errors, read_run, verify_run

TEXTS = ("--text", "bench", "--text", "dog")


def write_images(folder: Path, count: int, *, broken: int = 0) -> set[str]:
    """Small images of three shapes, each another, and some that are none; their keys."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(count):
        size = ((16, 24), (16, 16), (24, 16))[number % 3]
        image = Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
        image.save(folder / f"{number:04}.png", compress_level=1)
    # Spread over all shares, at any number of ranks.
    names = [f"{number * count // max(broken, 1):04}-broken.png" for number in range(broken)]
    for name in names:
        (folder / name).write_text(f"{name} is no image")
    return {path.name for path in folder.iterdir()}


def rows_of(run: Path) -> dict[str, dict]:
    """Key -> row of a run in which each key comes once."""
    rows = read_run(run).to_pylist()
    by_key = {row["key"]: row for row in rows}
    assert len(by_key) == len(rows)
    return by_key


def assert_complete(run: Path, keys: set[str], wanted: dict[str, dict] | None = None) -> None:
    """Each key once, as a row or an error; nothing damaged or left over; values as wanted."""
    rows, errors = rows_of(run), read_errors(run)["key"].to_pylist()
    assert Counter([*rows, *errors]) == Counter(keys)
    shards = [*(run / "images").iterdir(), *(run / "errors").iterdir()]
    assert verify_run(run) == len(shards)
    assert not list((run / "unfinished").iterdir())
    if wanted is not None:
        assert set(rows) == set(wanted)
        for key, row in rows.items():
            assert_same(row, wanted[key])


def assert_same(row: dict, wanted: dict) -> None:
    assert set(row) == set(wanted)
    for name, value in wanted.items():
        if name in ("scores", "presence"):
            np.testing.assert_allclose(row[name], value, atol=1e-5)
        else:
            assert row[name] == value, (row["key"], name)
