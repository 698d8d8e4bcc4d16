"""A run that is asked to stop does so in good order, whoever asks and how; the same command resumes it."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from clip_surgery_hub.files.lock import read_holder
from clip_surgery_hub.prediction.runs import run_status
from tests.support.prediction_runs import TEXTS, assert_complete, write_images
from tests.support.rank_processes import Ranks, recorded_rows, wait_until

COPIES = 60


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder with 1,800 images, and their keys: more than are done before a signal comes."""
    root = tmp_path_factory.mktemp("many")
    names = write_images(root / "0", 30, broken=1)
    for number in range(1, COPIES):
        (root / str(number)).mkdir()
        for name in names:
            os.link(root / "0" / name, root / str(number) / name)
    return root, {f"{number}/{name}" for number in range(COPIES) for name in names}


@pytest.fixture
def arguments(checkpoint, many, tmp_path):
    """The command, which writes a shard only at its end."""
    data = ["predict", many[0], *TEXTS, "--model", checkpoint, "--size", 16, "--outputs", "scores"]
    return [*data, "--out", tmp_path / "run"]


def reports(run: Path) -> dict[int, dict]:
    """What the ranks of the last start say; they may be replaced and removed while this reads."""
    found = {}
    holder = read_holder(run)
    for path in (run / "ranks").glob("*.json"):
        with suppress(FileNotFoundError):
            report = json.loads(path.read_text())
            if holder is None or report["session"] == holder.session:
                found[report["rank"]] = report
    return found


def all_work(run: Path, ranks: int) -> bool:
    """Whether all ranks of a start that lives have done something.

    The holder is asked for first: before there is one, the reports are still those of the start before.
    """
    return read_holder(run) is not None and ranks == sum(
        report["images"] > 0 for report in reports(run).values()
    )


def assert_all_is_recorded(run: Path, before: int) -> None:
    """What the ranks say they have done is on the disk, and it is not all there is to do."""
    told = sum(report["images"] + report["errors"] for report in reports(run).values())
    assert 0 < recorded_rows(run) - before == told


SAID = "stopped as asked; start the same command again to resume"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_process_that_is_asked_writes_all_it_did(arguments, many, tmp_path, number):
    run = tmp_path / "run"
    started = Ranks.start([*arguments, "--batch-size", 1], tmp_path / "log")
    wait_until(lambda: all_work(run, 1), started)
    started.send(number)
    assert started.codes() == [75], started.err()
    assert SAID in started.err() and "Traceback" not in started.err() and started.out() == ""
    assert_all_is_recorded(run, 0)
    assert recorded_rows(run) < len(many[1])
    assert not run_status(run).alive

    last = Ranks.start(arguments, tmp_path / "last")
    assert last.codes() == [1], last.err()
    assert_complete(run, many[1])


@pytest.mark.slow
def test_ranks_that_torchrun_asks_write_all_they_did(arguments, many, tmp_path):
    run, before = tmp_path / "run", 0
    for asked in [(0, 1, 2), (0,), (2,)]:
        started = Ranks.start([*arguments, "--batch-size", 1], tmp_path / "log", ranks=3)
        wait_until(lambda: all_work(run, 3), started)
        started.send(signal.SIGTERM, *asked)
        for rank in asked:
            started.processes[rank].join(60)
        started.send(signal.SIGTERM)  # torchrun does when the first has ended
        assert started.codes() == [75, 75, 75], [started.err(rank) for rank in range(3)]
        assert [SAID in started.err(rank) for rank in range(3)] == [True, False, False]
        assert_all_is_recorded(run, before)
        before = recorded_rows(run)
    assert before < len(many[1])
    last = Ranks.start(arguments, tmp_path / "last", ranks=2)
    assert last.codes() == [1, 0], last.err(0) + last.err(1)
    assert_complete(run, many[1])


@pytest.mark.slow
def test_ranks_that_lightning_started_end_together(arguments, many, tmp_path):
    """Asked or killed: the first, which started the other; the other alone; both, as Ctrl+C does."""
    run, before = tmp_path / "run", 0
    for number, asked, code in [
        (signal.SIGTERM, [0], 75),
        (signal.SIGTERM, [1], 75),
        (signal.SIGINT, [0, 1], 75),
        (signal.SIGKILL, [0], -signal.SIGKILL),
    ]:
        started = Ranks.start([*arguments, "--batch-size", 1], tmp_path / "log", devices=2)
        wait_until(lambda: all_work(run, 2), started)
        pids = [reports(run)[rank]["pid"] for rank in (0, 1)]
        assert pids[0] == started.processes[0].pid
        for rank in asked:
            os.kill(pids[rank], number)
        assert started.codes() == [code], started.err()
        wait_until(lambda pid=pids[1]: not Path(f"/proc/{pid}").exists())
        assert "Traceback" not in started.err()
        if code == 75:
            assert started.err().count(SAID) == 1
            assert_all_is_recorded(run, before)
        before = recorded_rows(run)
    assert before < len(many[1])
    last = Ranks.start(arguments, tmp_path / "last")
    assert last.codes() == [1], last.err()
    assert_complete(run, many[1])


def own_trainer(model: str, data: str, run: str, batch_size: int) -> None:
    """A program of a user's own."""
    import lightning

    from clip_surgery_hub.prediction import ImageDataModule, ShardWriter, SurgeryPredictor

    predictor = SurgeryPredictor(model, ["bench", "dog"], outputs=["scores"], size=16)
    trainer = lightning.Trainer(accelerator="cpu", devices=1, logger=False, callbacks=[ShardWriter(run)])
    trainer.predict(predictor, ImageDataModule(data, batch_size=batch_size), return_predictions=False)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_user_s_own_trainer_stops_in_good_order_too(checkpoint, many, tmp_path, number):
    run = tmp_path / "run"
    given = [str(checkpoint), str(many[0]), str(run)]
    started = Ranks.start([*given, 1], tmp_path / "log", program=own_trainer)
    wait_until(lambda: all_work(run, 1), started)
    started.send(number)
    assert started.codes() == [75], started.err()
    assert_all_is_recorded(run, 0)
    assert recorded_rows(run) < len(many[1])
    last = Ranks.start([*given, 64], tmp_path / "last", program=own_trainer)
    assert last.codes() == [0], last.err()
    assert_complete(run, many[1])
