"""Ranks are killed at random moments, again and again: nothing is lost, nothing comes twice."""

import random
import signal
import time

import pytest

from tests.support.prediction_runs import TEXTS, assert_complete, rows_of, write_images
from tests.support.rank_processes import Ranks, recorded_rows, wait_until

KILLS = 20
COUNT = 1000


@pytest.fixture(scope="module")
def begun(checkpoint, tmp_path_factory):
    """A folder with images, their keys, the arguments of the command without --out, an undisturbed run."""
    root = tmp_path_factory.mktemp("kills")
    keys = write_images(root / "images", COUNT, broken=9)
    arguments = ["predict", root / "images", *TEXTS, "--model", checkpoint, "--size", 16]
    calm = Ranks.start([*arguments, "--out", root / "calm", "--batch-size", 64], root / "calm-log")
    assert calm.codes() == [1], calm.err()
    assert_complete(root / "calm", keys)
    return root, keys, arguments, rows_of(root / "calm")


def has(run, rows):
    return lambda: recorded_rows(run) >= rows


@pytest.mark.slow
def test_killed_twenty_times_by_any_number_of_ranks_a_run_loses_nothing(begun, tmp_path):
    _, keys, arguments, wanted = begun
    chance, run = random.Random(5), tmp_path / "run"
    arguments = [*arguments, "--out", run, "--batch-size", 3, "--shard-rows", 4]
    killed = in_the_middle = 0
    while killed < KILLS:
        ranks = chance.choice([1, 2, 3])
        before = recorded_rows(run)
        most = COUNT * (killed + 1) // (KILLS + 1)  # so that no kill finds the run done, however quick it is
        workers = chance.choice([0, 0, 1])
        started = Ranks.start([*arguments, "--workers", workers], tmp_path / "log", ranks=ranks)
        if chance.random() < 0.25:
            wait_until(has(run, most), started, patience=chance.uniform(0, 3))  # anywhere, the start included
        else:
            wait_until(has(run, min(most, before + chance.randint(1, 20))), started)
            time.sleep(chance.uniform(0, 0.02))
        started.send(signal.SIGKILL, *chance.choice([range(ranks), [0], [ranks - 1]]))
        wait_until(has(run, most), started, patience=chance.uniform(0, 0.5))
        codes = started.end(patience=chance.choice([0, 5]))
        killed += codes.count(-signal.SIGKILL) > 0
        in_the_middle += before < recorded_rows(run) < len(keys)
        assert set(codes) <= {-signal.SIGKILL, -signal.SIGTERM, 2, 75, 1, 0}, (codes, started.err())
    assert in_the_middle > KILLS // 2
    assert recorded_rows(run) < len(keys), "the run was done before the last kill"
    last = Ranks.start(arguments, tmp_path / "last", ranks=2)
    assert last.codes() == [1, 0], last.err(0) + last.err(1)
    assert_complete(run, keys, wanted)


@pytest.mark.slow
def test_ranks_end_themselves_when_rank_0_was_killed(begun, tmp_path):
    _, keys, arguments, wanted = begun
    run = tmp_path / "run"
    arguments = [*arguments, "--out", run, "--batch-size", 1, "--shard-rows", 2]  # work for long enough
    started = Ranks.start(arguments, tmp_path / "log", ranks=3)
    wait_until(lambda: recorded_rows(run) >= 10, started)
    started.send(signal.SIGKILL, 0)
    assert started.codes() == [-signal.SIGKILL, 2, 2]
    for rank in (1, 2):
        assert f"error: Rank 0 of the run in {run} has ended; start the same command again." in (
            started.err(rank).replace("\n", " ")
        )
    last = Ranks.start(arguments, tmp_path / "last")
    assert last.codes() == [1], last.err()
    assert_complete(run, keys, wanted)
