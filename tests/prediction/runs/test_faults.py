"""Whatever breaks, a run loses nothing that it recorded: full disks at any byte, failing calls, kills."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time

import pytest

from clip_surgery_hub.prediction.runs import (
    Counts,
    RunError,
    RunFolder,
    RunLog,
    ShardSink,
    read_errors,
    read_run,
    verify_run,
)
from tests.support.rank_processes import PATIENCE, Ranks, wait_until
from tests.support.run_rows import PLAIN, SETTINGS, error_row, files_of, plain_row


class Killed(BaseException):
    """Stands for SIGKILL: no clean-up of the code below runs, see `killed_at`."""


class Disk:
    """In place of ``os.write``: has room for ``room`` bytes; the write that reaches the end is cut."""

    def __init__(self, room, error):
        self.room, self.error, self.write, self.taken = room, error, os.write, 0

    def __call__(self, handle, content):
        content = bytes(content)[: self.room - self.taken]
        if not content:
            raise self.error
        self.taken += len(content)
        return self.write(handle, content)


def full():
    return OSError(errno.ENOSPC, "No space left on device")


def sink_of(run):
    """Of rank 0, at a time that stands still: its manifest lines are equally long."""
    return ShardSink(run, 0, PLAIN, clock=lambda: 0.0)


def add_and_flush(run, table="errors", keys="yz"):
    sink = sink_of(run)
    sink.add(table, [error_row(key) if table == "errors" else plain_row(key) for key in keys])
    sink.flush()


def keys_of(path):
    return sorted(read_run(path, ["key"])["key"].to_pylist() + read_errors(path)["key"].to_pylist())


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run with two recorded images and one error."""
    path = tmp_path_factory.mktemp("runs") / "RUN"
    with RunFolder.open(path, SETTINGS) as run:
        add_and_flush(run, "images", "ab")
        second = ShardSink(run, 1, PLAIN)
        second.add("errors", [error_row("c")])
        second.flush()
    return path


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch):
    """Thousands of failures: what is synced when is of no matter to them."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def bytes_of_one_shard(begun, path, table):
    """How many bytes a shard of `add_and_flush` and its manifest line have."""
    shutil.copytree(begun, path)
    with RunFolder.open(path, SETTINGS) as run, pytest.MonkeyPatch.context() as patch:
        disk = Disk(1 << 30, full())
        patch.setattr(os, "write", disk)
        add_and_flush(run, table)
    shutil.rmtree(path)
    return disk.taken


@pytest.mark.slow
@pytest.mark.parametrize("table", ["images", "errors"])
def test_a_disk_that_is_full_at_any_byte_damages_nothing(table, begun, tmp_path, no_waiting_for_the_disk):
    path = tmp_path / "RUN"
    size = bytes_of_one_shard(begun, path, table)
    assert size > 1000
    shutil.copytree(begun, path)
    with RunFolder.open(path, SETTINGS) as run:
        manifest = f"manifest/{run.session}-00000.jsonl"
        (path / manifest).touch()
        before = files_of(path)
        sink = sink_of(run)
        row = plain_row if table == "images" else error_row
        sink.add(table, [row("y"), row("z")])
        for room in range(size):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "write", Disk(room, full()))
                with pytest.raises(RunError, match="no space left on .*: 3 images are recorded, nothing of"):
                    sink.flush()
            assert files_of(path) == before, f"full after {room} bytes"
            assert sink.rows_open == 2
        sink.flush()  # with room again, the same sink goes on
    assert keys_of(path) == list("abcyz") and verify_run(path) == 3


@pytest.mark.slow
def test_a_run_resumes_from_a_kill_at_any_byte(begun, tmp_path, no_waiting_for_the_disk):
    """Of the shard and of its line: what the killed writer left is removed, the rest is as it was."""
    path = tmp_path / "RUN"
    size = bytes_of_one_shard(begun, path, "errors")
    assert size > 1000
    shutil.copytree(begun, path)
    before = files_of(path)
    for room in range(size):
        run = RunFolder.open(path, SETTINGS)
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, room)
            with pytest.raises(Killed):
                add_and_flush(run)
        assert len(files_of(path)) > len(before)
        run.close()
        with RunFolder.open(path, SETTINGS) as run:
            assert run.recorded == Counts(2, 1), f"killed after {room} bytes"
        assert files_of(path) == before, f"killed after {room} bytes"
    with RunFolder.open(path, SETTINGS) as run:
        known = run.recorded_keys()
        assert [key for key in "abcyz" if key not in known] == ["y", "z"]
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, size)  # with the last byte of the line it is recorded
            add_and_flush(run)
    assert keys_of(path) == list("abcyz") and verify_run(path) == 3


def killed_at(patch, room):
    """The process ends after so many bytes: later calls that clean up do not happen either."""

    def never(*_, **__):
        raise Killed

    disk = Disk(room, Killed())

    def write(handle, content):
        try:
            return disk(handle, content)
        except Killed:
            for name in ("unlink", "ftruncate", "rename"):
                patch.setattr(os, name, never)
            raise

    patch.setattr(os, "write", write)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["open", "fsync", "rename", "ftruncate"])
def test_any_call_that_fails_leaves_the_run_as_it_was(call, code, begun, tmp_path):
    path = tmp_path / "RUN"
    shutil.copytree(begun, path)
    said = "no space left on" if code != errno.EIO else f"cannot be written to .*{os.strerror(errno.EIO)}"
    with RunFolder.open(path, SETTINGS) as run:
        manifest = path / "manifest" / f"{run.session}-00000.jsonl"
        manifest.touch()
        before, failures = files_of(path), 0
        sink = ShardSink(run, 0, PLAIN)
        sink.add("images", [plain_row("y"), plain_row("z")])
        while True:
            with pytest.MonkeyPatch.context() as patch:
                counted = FailingCall(getattr(os, call), at=failures, error=OSError(code, os.strerror(code)))
                patch.setattr(os, call, counted)
                if counted_all := not raises_run_error(sink.flush, said):
                    assert counted.calls <= failures
            if counted_all:
                break
            assert files_of(path) == before, f"{call} number {failures} failed"
            failures += 1
    assert failures >= 1
    assert keys_of(path) == list("abcyz") and verify_run(path) == 3


class FailingCall:
    """A function that fails once, at its call number ``at``."""

    def __init__(self, function, at, error):
        self.function, self.at, self.error, self.calls = function, at, error, 0

    def __call__(self, *given, **named):
        self.calls += 1
        if self.calls - 1 == self.at:
            raise self.error
        return self.function(*given, **named)


def raises_run_error(function, said):
    try:
        function()
    except RunError as error:
        assert re.search(said, str(error)) and "\n" not in str(error)
        return True
    return False


def test_an_interrupt_while_a_shard_is_written_leaves_no_second_copy(begun, tmp_path):
    path = tmp_path / "RUN"
    shutil.copytree(begun, path)
    with RunFolder.open(path, SETTINGS) as run:
        sink = ShardSink(run, 0, PLAIN)
        sink.add("images", [plain_row("y")])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "rename", FailingCall(os.rename, at=0, error=KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                sink.flush()
        sink.flush()
    assert keys_of(path) == list("abcy") and len(list((path / "images").iterdir())) == 2


def test_a_log_that_cannot_be_written_is_one_clear_error(begun, tmp_path):
    path = tmp_path / "RUN"
    shutil.copytree(begun, path)
    log = RunLog(path)
    log.write()
    before = files_of(path)
    for room in (0, 1, 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", Disk(room, full()))
            with pytest.raises(RunError, match="no space left on"):
                log.write()
        assert files_of(path) == before


def test_a_run_cannot_begin_on_a_full_disk_and_then_begins(tmp_path):
    for room in (0, 1, 50):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", Disk(room, full()))
            with pytest.raises(RunError, match="no space left on .*: 0 images are recorded"):
                RunFolder.open(tmp_path / "RUN", SETTINGS)
        assert not (tmp_path / "RUN" / "run.json").exists()
    with RunFolder.open(tmp_path / "RUN", SETTINGS) as run:
        add_and_flush(run)
    assert keys_of(tmp_path / "RUN") == ["y", "z"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB in memory."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, text=True
    )
    if not mounted or mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip() if mounted else 'no mount'}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_small_disk_runs_full_and_the_run_resumes(small_disk):
    path = small_disk / "RUN"
    wanted = [f"image {number}" for number in range(400)]
    (small_disk / "ballast").write_bytes(b"\0" * 200_000)
    with RunFolder.open(path, SETTINGS) as run, pytest.raises(RunError, match="no space left on") as stopped:
        sink = ShardSink(run, 0, PLAIN, shard_rows=20)
        for start in range(0, 400, 20):
            sink.add("images", [plain_row(key) for key in wanted[start : start + 20]])
    recorded = keys_of(path)
    assert 0 < len(recorded) < 400 and f": {len(recorded)} images are recorded" in str(stopped.value)
    assert list((path / "unfinished").iterdir()) == [] and verify_run(path) == len(recorded) // 20
    (small_disk / "ballast").unlink()
    with RunFolder.open(path, SETTINGS) as run:
        done = run.recorded_keys()
        sink = ShardSink(run, 0, PLAIN, shard_rows=100)
        sink.add("images", [plain_row(key) for key in wanted if key not in done])
        sink.flush()
    assert keys_of(path) == sorted(wanted)


def write_rows(path, count, most):
    """A program: write all rows that are not there, and say each; or wait to be killed after some."""
    with RunFolder.open(path, SETTINGS) as run:
        keys = run.recorded_keys()
        sink = ShardSink(run, 0, PLAIN, shard_rows=7)
        print(len(keys), flush=True)
        for written, number in enumerate(number for number in range(count) if f"{number}" not in keys):
            if written == most:
                time.sleep(PATIENCE)
            if number % 10:
                sink.add("images", [plain_row(f"{number}")])
            else:
                sink.add("errors", [error_row(f"{number}")])
            print(number, flush=True)
        sink.flush()


def has_said(started, lines):
    return lambda: started.out().count("\n") >= lines


@pytest.mark.slow
def test_a_writer_that_is_killed_twenty_times_does_every_image_once(tmp_path):
    count, path, chance = 3000, tmp_path / "RUN", random.Random(0)
    earlier: set[str] = set()
    for kill in range(20):
        rows = chance.randint(1, 100)
        # No machine is so fast that it is done before it is killed.
        started = Ranks.start([path, count, rows + 7], tmp_path / "log", program=write_rows)
        if kill % 4:  # while it writes; the others while it starts, opens and cleans
            wait_until(has_said(started, 1), started)
            assert int(started.out().splitlines()[0]) == len(earlier)
            begun = time.monotonic()
            wait_until(has_said(started, 1 + rows), started)
            # Some moment within the next shard, however long a row takes on this machine.
            time.sleep(chance.uniform(0, 7 * (time.monotonic() - begun) / rows))
        else:
            time.sleep(chance.uniform(0, 0.1))
        started.send(signal.SIGKILL)
        assert started.codes() == [-signal.SIGKILL]
        if not (path / "run.json").exists():
            continue
        recorded = set(keys_of(path))
        assert recorded >= earlier and len(keys_of(path)) == len(recorded)
        earlier = recorded
    assert 0 < len(earlier) < count
    finish = Ranks.start([path, count, -1], tmp_path / "last", program=write_rows)
    assert finish.codes() == [0], finish.err()
    assert int(finish.out().splitlines()[0]) == len(earlier) and not finish.err()
    assert keys_of(path) == sorted(map(str, range(count)))
    assert sorted(read_errors(path)["key"].to_pylist(), key=int) == [str(n) for n in range(0, count, 10)]
    assert list((path / "unfinished").iterdir()) == []
    recorded_files = {
        (line["table"], line["file"])
        for manifest in (path / "manifest").iterdir()
        for line in map(json.loads, manifest.read_text().splitlines())
    }
    there = {(table, file.name) for table in ("images", "errors") for file in (path / table).iterdir()}
    assert there == recorded_files and verify_run(path) == len(there)
    with RunFolder.open(path, SETTINGS) as run:
        assert run.recorded == Counts(count - count // 10, count // 10)
