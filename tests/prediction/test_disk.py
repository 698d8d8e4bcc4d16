"""A disk that runs full: one line, nothing damaged, and the same command resumes it once there is room."""

import subprocess
from pathlib import Path

import pytest

from clip_surgery_hub.prediction.runs import read_run, run_status, verify_run
from tests.support.prediction_runs import TEXTS, assert_complete, write_images
from tests.support.rank_processes import Ranks, recorded_rows


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 60 KiB, and a function that gives it another size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"mounting is not allowed here: {made.stderr.strip()}")

    def resize(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)

    yield folder, resize
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_a_run_and_the_same_command_finishes_it(checkpoint, small_disk, tmp_path):
    folder, resize = small_disk
    run = folder / "run"
    keys = write_images(tmp_path / "images", 120, broken=3)
    arguments = ["predict", tmp_path / "images", *TEXTS, "--model", checkpoint, "--size", 32, "--out", run]
    arguments += ["--outputs", "scores,points,maps,embeddings", "--batch-size", 4, "--shard-rows", 8]
    recorded = 0
    for size in ("60k", "100k"):
        resize(size)
        full = Ranks.start(arguments, tmp_path / "log")
        assert full.codes() == [2]
        assert full.out() == ""
        lines = [line for line in full.err().splitlines() if not line.startswith("note: ")]
        assert len(lines) == 1 and lines[0].startswith("error: ") and "no space left on the disk" in lines[0]
        assert recorded < recorded_rows(run) < len(keys)
        recorded = recorded_rows(run)
        assert verify_run(run) > 0
        assert read_run(run).num_rows + run_status(run).failed == recorded
        assert not run_status(run).alive
    resize("4m")
    last = Ranks.start(arguments, tmp_path / "last")
    assert last.codes() == [1], last.err()
    assert_complete(run, keys)
