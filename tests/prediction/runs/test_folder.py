"""The folder of a run: begun, resumed, refused, taken over, held by one run at a time, watched."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from clip_surgery_hub.prediction.runs import (
    Counts,
    RankProgress,
    RunError,
    RunFolder,
    RunLog,
    RunMismatch,
    ShardSink,
    read_run,
    run_status,
    verify_run,
)
from tests.support.run_rows import PLAIN, SCHEMA, SETTINGS, error_row, files_of, plain_row, write_run

HOLD = """
import sys, time
from clip_surgery_hub.prediction.runs import RunFolder
run = RunFolder.open(sys.argv[1], {"texts": ["bench"]})
print(run.session, flush=True)
time.sleep(60)
"""


def held_elsewhere(path):
    """A process that holds a run, and its session."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


def keys_of(path):
    return read_run(path, ["key"])["key"].to_pylist()


# Begun and resumed


def test_a_run_begins_in_a_new_or_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "some" / "new" / "RUN", tmp_path / "empty"):
        with RunFolder.open(path, SETTINGS | {"versions": {"torch": "2.8"}}) as run:
            assert (run.path, run.settings, run.recorded) == (path, SETTINGS, Counts())
            assert len(run.recorded_keys()) == 0
        saved = json.loads((path / "run.json").read_text())
        assert saved["format_version"] == 2 and saved["settings"] == SETTINGS
        assert saved["versions"] == {"torch": "2.8"}


def test_the_next_start_knows_what_is_recorded(tmp_path):
    path = write_run(tmp_path / "RUN", ["a", "b"], errors=["c"])
    began = json.loads((path / "run.json").read_text())["began"]
    with RunFolder.open(path, SETTINGS) as run:
        keys = run.recorded_keys()
        assert [key in keys for key in "abcd"] == [True, True, True, False]
        assert run.recorded == Counts(images=2, errors=1)
        sink = ShardSink(run, 0, SCHEMA)
        sink.add("errors", [error_row("d")])
        sink.flush()
        with RunFolder.join(path, run.session) as other:  # sees what rank 0 saw, however late it comes
            assert other.recorded == run.recorded and "d" not in other.recorded_keys()
    assert json.loads((path / "run.json").read_text())["began"] == began
    with RunFolder.open(path, SETTINGS) as run:
        assert run.recorded == Counts(2, 2) and "d" in run.recorded_keys()


def test_keys_are_read_without_the_other_columns(tmp_path):
    """Every other column of a run of 100,000 rows is overwritten, and the bookkeeping does not notice."""
    from pyarrow import parquet

    path = tmp_path / "RUN"
    with RunFolder.open(path, SETTINGS) as run:
        sink = ShardSink(run, 0, PLAIN, shard_rows=20_000)
        sink.add("images", [plain_row(f"image {number}") for number in range(100_000)])
    for shard in (path / "images").iterdir():
        content = bytearray(shard.read_bytes())
        groups = parquet.read_metadata(shard)
        for group in range(groups.num_row_groups):
            for column in range(1, groups.num_columns):
                chunk = groups.row_group(group).column(column)
                start = chunk.dictionary_page_offset or chunk.data_page_offset
                content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
        shard.write_bytes(content)
    with RunFolder.open(path, SETTINGS) as run:
        keys = run.recorded_keys()
        assert len(keys) == 100_000 == run.recorded.images
        assert all(f"image {number}" in keys for number in range(0, 100_000, 997))
    with pytest.raises(OSError):
        read_run(path)  # the columns are indeed destroyed


def test_a_shard_whose_keys_are_damaged_is_named(tmp_path):
    path = write_run(tmp_path / "RUN", ["a"])
    (shard,) = (path / "images").iterdir()
    shard.write_bytes(b"\0" * shard.stat().st_size)
    with RunFolder.open(path, SETTINGS) as run, pytest.raises(RunError, match=f"{shard.name} is damaged"):
        run.recorded_keys()
    shard.unlink()
    with pytest.warns(UserWarning, match="is missing"), RunFolder.open(path, SETTINGS) as run:
        assert len(run.recorded_keys()) == 0


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_recorded_shard_that_is_not_there_whole_is_done_again(damage, tmp_path):
    path = write_run(tmp_path / "RUN", "abcd", shard_rows=2)
    first, second = sorted((path / "images").iterdir())
    if damage == "missing":
        first.unlink()
    else:
        first.write_bytes(first.read_bytes()[:-1])
    said = rf"shard images/{first.name} of .* is missing or not of its recorded size; its 2 images"
    with pytest.warns(UserWarning, match=said), RunFolder.open(path, SETTINGS) as run:
        keys = run.recorded_keys()
        assert [key in keys for key in "abcd"] == [False, False, True, True]
    assert list((path / "images").iterdir()) == [second]
    with RunFolder.open(path, SETTINGS) as run:  # without another warning: warnings are said once
        assert run.recorded == Counts(2, 0)
    assert verify_run(path) == 1


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    path = write_run(tmp_path / "RUN", "ab", errors="c")
    before = files_of(path)
    name = "20200101T000000-0000abcd-00000-000000"
    left = {
        f"unfinished/{name}.parquet": b"PAR1",
        "unfinished/run.json": b"{",
        f"images/{name}.parquet": b"PAR1 not recorded",
        f"errors/{name}.parquet": b"PAR1 not recorded",
        "ranks/7.json": b"{}",
        "ranks/7.part": b"{",
    }
    for file, content in left.items():
        (path / file).write_bytes(content)
    (manifest,) = (path / "manifest").iterdir()
    manifest.write_bytes(manifest.read_bytes() + b'{"table": "images", "fi')
    (path / "images" / "notes.txt").write_text("mine")
    with RunFolder.open(path, SETTINGS) as run:
        assert run.recorded == Counts(2, 1)
    assert files_of(path) == before | {"images/notes.txt": b"mine"}


def test_a_line_in_between_that_cannot_be_read_is_told(tmp_path):
    path = write_run(tmp_path / "RUN", "abcd", shard_rows=2)
    (manifest,) = (path / "manifest").iterdir()
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([lines[0][:-5], lines[1], ""]))
    with pytest.warns(UserWarning, match=f"Line 1 of {manifest} cannot be read"):
        with RunFolder.open(path, SETTINGS) as run:
            assert [key in run.recorded_keys() for key in "abcd"] == [False, False, True, True]


# Refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": ["bench", "cat"]}, r'texts was \["bench", "dog"\], is now \["bench", "cat"\]'),
        ({"method": "none"}, 'method was not there, is now "none"'),
        ({"width": 4, "background": []}, r'background was \["sky"\], is now \[\]; width was 3, is now 4'),
    ],
)
def test_other_settings_are_refused_with_every_difference_named(change, message, tmp_path):
    path = write_run(tmp_path / "RUN", "ab")
    before = files_of(path)
    for refuse in (RunFolder.check, RunFolder.open):
        with pytest.raises(RunMismatch, match=f"{message}. Choose another --out, .* --overwrite"):
            refuse(path, SETTINGS | change)
        assert files_of(path) == before


def test_differences_within_settings_and_long_lists_are_short(tmp_path):
    texts = [f"thing {number}" for number in range(1000)]
    old = {"texts": texts, "data": {"path": "/images", "column": "path"}}
    write_run(tmp_path / "RUN", [], settings=old)
    new = {"texts": [*texts[:500], "cat", *texts[500:]], "data": {"path": "/photos", "column": "path"}}
    with pytest.raises(RunMismatch) as refused:
        RunFolder.check(tmp_path / "RUN", new)
    assert (
        "texts was a list of 1000, is now one of 1001 (the first difference, number 500: "
        '"thing 500", now "cat"); data.path was "/images", is now "/photos".'
    ) in str(refused.value)


def test_other_versions_are_a_warning(tmp_path):
    write_run(tmp_path / "RUN", "a", settings=SETTINGS | {"versions": {"torch": "2.8"}})
    with pytest.warns(UserWarning, match='other versions of packages: torch was "2.8", is now "2.9"'):
        with RunFolder.open(tmp_path / "RUN", SETTINGS | {"versions": {"torch": "2.9"}}) as run:
            assert run.recorded == Counts(1, 0)


def test_tuples_and_lists_are_the_same_setting_and_objects_are_none(tmp_path):
    write_run(tmp_path / "RUN", "a")
    RunFolder.check(tmp_path / "RUN", SETTINGS | {"texts": ("bench", "dog")})
    for wrong in (object(), float("nan")):
        with pytest.raises(ValueError, match="must be values that JSON can hold"):
            RunFolder.check(tmp_path / "RUN", SETTINGS | {"texts": wrong})


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_files_is_refused_also_with_overwrite(overwrite, tmp_path):
    for number, name in enumerate(("thesis.tex", "images/dog.parquet", "manifest/a.txt")):
        path = tmp_path / str(number)
        (path / name).parent.mkdir(parents=True)
        (path / name).write_text("mine")
        for refuse in (RunFolder.check, RunFolder.open):
            with pytest.raises(RunError, match=rf"holds other files \({name}\) and no run"):
                refuse(path, SETTINGS, overwrite=overwrite)
        assert files_of(path) == {name: b"mine"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no record of a run, or damaged"),
        ('{"format": "a game"}', "no record of a run"),
        (
            '{"format": "a game", "format_version": 2, "settings": {}, "versions": {}, "began": ""}',
            "not of the format",
        ),
        (
            '{"format": "clip_surgery_hub run", "format_version": 1, '
            '"settings": {}, "versions": {}, "began": ""}',
            "is of format version 1, this installation reads 2",
        ),
    ],
)
def test_another_run_json_is_refused_also_with_overwrite(content, message, tmp_path):
    (tmp_path / "run.json").write_text(content)
    for refuse in (RunFolder.check, RunFolder.open):
        with pytest.raises(RunError, match=message):
            refuse(tmp_path, SETTINGS, overwrite=True)
    assert files_of(tmp_path) == {"run.json": content.encode()}


def test_places_that_cannot_be_written_to_are_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path, message in (
        (tmp_path / "file", "is a file where the folder of a run was expected"),
        (tmp_path / "file" / "RUN", "cannot be written to"),
        ("/proc/RUN", "/proc cannot be written to"),
    ):
        for refuse in (RunFolder.check, RunFolder.open):
            with pytest.raises(RunError, match=message):
                refuse(path, SETTINGS)


def test_a_check_changes_nothing(tmp_path):
    RunFolder.check(tmp_path / "some" / "RUN", SETTINGS)
    assert list(tmp_path.iterdir()) == []


# Overwritten


def test_overwrite_removes_what_the_run_wrote_and_nothing_else(tmp_path):
    path = write_run(tmp_path / "RUN", "ab", errors="c")
    RunLog(path).write()
    (path / "notes.txt").write_text("mine")
    (path / "images" / "mine.parquet").write_text("mine")
    RunFolder.check(path, SETTINGS | {"width": 4}, overwrite=True)
    with RunFolder.open(path, SETTINGS | {"width": 4}, overwrite=True) as run:
        assert run.recorded == Counts() and len(run.recorded_keys()) == 0
    left = files_of(path)
    assert json.loads(left.pop("run.json"))["settings"]["width"] == 4
    assert left == {"notes.txt": b"mine", "images/mine.parquet": b"mine", "lock": b"", "ranks.lock": b""}


def test_the_same_command_with_overwrite_goes_on(tmp_path):
    path = write_run(tmp_path / "RUN", "ab")
    with RunFolder.open(path, SETTINGS, overwrite=True) as run:
        assert run.recorded == Counts(2, 0)


def test_a_run_that_was_killed_before_it_had_a_record_begins(tmp_path):
    for name in ("images", "errors", "manifest", "unfinished", "ranks"):
        (tmp_path / name).mkdir()
    (tmp_path / "lock").write_text('{"pid": 1')
    (tmp_path / "unfinished" / "run.json").write_text("{")
    with RunFolder.open(tmp_path, SETTINGS) as run:
        assert run.recorded == Counts()
    assert set(files_of(tmp_path)) == {"run.json", "lock", "ranks.lock"}


# One run at a time


def test_a_second_run_is_refused_while_the_first_lives(tmp_path):
    process, session = held_elsewhere(tmp_path / "RUN")
    try:
        for refuse in (RunFolder.check, RunFolder.open):
            with pytest.raises(
                RunError, match=rf"Another run is writing .*\(process {process.pid} on .* since 20"
            ):
                refuse(tmp_path / "RUN", {"texts": ["bench"]}, overwrite=True)
        with RunFolder.join(tmp_path / "RUN", session) as rank:
            assert not rank.abandoned
            end(process)
            assert rank.abandoned
    finally:
        end(process)
    with RunFolder.open(tmp_path / "RUN", {"texts": ["bench"]}) as run:
        assert run.session != session


def test_one_process_cannot_open_a_run_twice(tmp_path):
    with RunFolder.open(tmp_path / "RUN", SETTINGS) as run:
        with pytest.raises(RunError, match=f"process {os.getpid()} "):
            RunFolder.open(tmp_path / "RUN", SETTINGS)
        assert not run.abandoned and not run.released
    run.close()
    assert run.abandoned and run.released
    RunFolder.open(tmp_path / "RUN", SETTINGS).close()


def test_the_next_start_waits_for_ranks_that_outlived_rank_0(tmp_path):
    process, session = held_elsewhere(tmp_path / "RUN")
    orphan = RunFolder.join(tmp_path / "RUN", session)
    end(process)
    assert orphan.abandoned and not orphan.released
    with pytest.raises(RunError, match=r"Ranks of an earlier run still write to .* \(0.2 s were waited"):
        RunFolder.open(tmp_path / "RUN", {"texts": ["bench"]}, wait=0.2)
    assert orphan.abandoned and orphan.released  # which tells it to end, also while the next start waits
    orphan.close()
    RunFolder.open(tmp_path / "RUN", {"texts": ["bench"]}, wait=0.2).close()


def test_a_rank_joins_no_other_start(tmp_path):
    with RunFolder.open(tmp_path / "RUN", SETTINGS) as run:
        with pytest.raises(RunError, match=f"The start other does not hold .*, {run.session} does"):
            RunFolder.join(tmp_path / "RUN", "other", wait=0)
    with pytest.raises(RunError, match="does not hold"):
        RunFolder.join(tmp_path / "RUN", run.session, wait=0)


def test_a_forked_worker_does_not_hold_the_run_on(tmp_path):
    """As the workers of a data loader, which may outlive a killed run."""
    run = RunFolder.open(tmp_path / "RUN", SETTINGS)
    worker = os.fork()
    if not worker:
        signal.pause()
    try:
        run.close()
        RunFolder.open(tmp_path / "RUN", SETTINGS, wait=10).close()  # the worker lets go when it first runs
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


# Watched


class Clock:
    """A time that passes when it is told to."""

    def __init__(self):
        self.now = datetime.now(UTC)

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += timedelta(seconds=seconds)


def test_status_counts_recorded_and_open_images_once(tmp_path):
    path = write_run(tmp_path / "RUN", "ab", errors="c")
    done = run_status(path)
    assert (done.done, done.failed, done.total, done.left, done.alive) == (2, 1, None, None, False)
    assert (done.per_second, done.ranks) == (0, 0) and done.began <= done.updated
    with RunFolder.open(path, SETTINGS) as run:
        sinks = [ShardSink(run, rank, PLAIN, shard_rows=3) for rank in range(2)]
        reports = [RankProgress(run, rank, total=20, every=0) for rank in range(2)]
        for rank, (sink, report) in enumerate(zip(sinks, reports, strict=True)):
            sink.add("images", [plain_row(f"{rank}-{number}") for number in range(5)])
            report.update(sink.added)
        status = run_status(path)
        assert (status.done, status.failed, status.total, status.left) == (12, 1, 20, 7)
        assert status.alive and status.ranks == 2
        sinks[0].add("images", [plain_row("late")])  # recorded after the last report
        assert run_status(path).done == 13
        reports[1].close()
        assert run_status(path).ranks == 1
    killed = run_status(path)  # what was open is gone
    assert (killed.done, killed.failed, killed.alive, killed.left) == (2 + 6 + 3, 1, False, 8)


def test_speed_is_that_of_the_last_minute(tmp_path):
    with RunFolder.open(tmp_path / "RUN", SETTINGS) as run:
        clock = Clock()
        clock.sleep(-400)  # so that the last report is of now
        report = RankProgress(run, 0, clock=clock)
        done = 0
        for seconds, speed in ((300, 1), (100, 50)):
            for _ in range(seconds // 5):
                clock.sleep(5)
                done += 5 * speed
                report.update(Counts(done - 7, 7))
        assert run_status(run.path).per_second == pytest.approx(50, rel=0.05)
        report.close()
        assert run_status(run.path).per_second == 0


def test_a_rank_that_falls_silent_slows_down(tmp_path):
    with RunFolder.open(tmp_path / "RUN", SETTINGS) as run:
        clock = Clock()
        clock.sleep(-50 - 150)
        report = RankProgress(run, 0, clock=clock)
        clock.sleep(50)
        report.update(Counts(1000, 0))
        assert run_status(run.path).per_second == pytest.approx(1000 / 200, rel=0.05)


def test_reports_are_written_no_more_often_than_every_two_seconds(tmp_path):
    with RunFolder.open(tmp_path / "RUN", SETTINGS) as run:
        clock = Clock()
        report = RankProgress(run, 3, clock=clock)
        report.update(Counts(1, 0))
        clock.sleep(1.9)
        report.update(Counts(2, 0))
        assert run_status(run.path).done == 1
        clock.sleep(0.2)
        report.update(Counts(3, 0))
        assert run_status(run.path).done == 3
        assert list(files_of(run.path / "ranks")) == ["3.json"]


def test_status_of_another_folder_is_refused(tmp_path):
    with pytest.raises(RunError, match="is no run"):
        run_status(tmp_path)


def test_the_log_has_a_line_per_minute(tmp_path):
    path = write_run(tmp_path / "RUN", "ab", errors="c")
    clock = Clock()
    log = RunLog(path, clock=clock)
    said = []
    for _ in range(13):
        clock.sleep(10)
        said.append(log.tick() is not None)
    assert [number for number, one in enumerate(said) if one] == [5, 11]
    (path / "log.jsonl").write_bytes((path / "log.jsonl").read_bytes() + b'{"torn')
    assert log.write().done == 2
    lines = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and lines[2] | {"time": ""} == {
        "time": "",
        "done": 2,
        "failed": 1,
        "total": None,
        "left": None,
        "per_second": 0.0,
        "ranks": 0,
    }


def test_a_killed_run_is_not_alive(tmp_path):
    process, session = held_elsewhere(tmp_path / "RUN")
    with RunFolder.join(tmp_path / "RUN", session) as run:
        RankProgress(run, 0, total=9).update(Counts(5, 1))
    status = run_status(tmp_path / "RUN")
    assert (status.alive, status.done, status.failed, status.left) == (True, 5, 1, 3)
    end(process)
    deadline = time.monotonic() + 10
    while run_status(tmp_path / "RUN").alive and time.monotonic() < deadline:
        time.sleep(0.01)
    status = run_status(tmp_path / "RUN")
    assert (status.alive, status.done, status.failed, status.left) == (False, 0, 0, 9)
