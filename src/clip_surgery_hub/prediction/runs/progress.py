"""How far a run is: what its ranks report while they work, and what anybody reads from its folder.

A rank reports every few seconds, the log has a line per minute. The status counts recorded images, and those
that live ranks have open.
"""

from __future__ import annotations

import json
import os
import socket
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clip_surgery_hub.files.durable import append_line
from clip_surgery_hub.files.lock import is_held, read_holder, stamp
from clip_surgery_hub.prediction.runs.folder import RunFolder
from clip_surgery_hub.prediction.runs.run_record import LOG, RANKS, read_record
from clip_surgery_hub.prediction.runs.shard_records import Counts, ShardRecord, read_manifests, writing

_WINDOW = timedelta(seconds=60)
_STALLED = timedelta(seconds=10)
"""After which a rank that says nothing is taken to have done nothing since it last spoke."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class RankReport:
    """What a rank says of itself in ``ranks/<rank>.json``.

    Attributes:
        session: the start that it belongs to.
        rank: its number.
        host: name of its machine.
        pid: number of its process.
        images: that it has explained since this start.
        errors: that it could not explain, likewise.
        total: images of the whole run, those done earlier included, as far as the rank knows.
        window: a moment within the last minute, and how many images it had done then.
        updated: when this was written.
        finished: whether it has nothing left to do.
    """

    session: str
    rank: int
    host: str
    pid: int
    images: int
    errors: int
    total: int | None
    window: tuple[datetime, int]
    updated: datetime
    finished: bool

    def per_second(self, now: datetime) -> float:
        """Images per second since the beginning of the window."""
        # A rank that is silent for long has slowed down, however fast it was when it last spoke.
        end = now if now - self.updated > _STALLED else self.updated
        seconds = (end - self.window[0]).total_seconds()
        return (
            0.0 if self.finished or seconds <= 0 else (self.images + self.errors - self.window[1]) / seconds
        )


class RankProgress:
    """Reports how far a rank is in ``ranks/<rank>.json``.

    Args:
        run: that the rank writes to.
        rank: of the process, counted over all nodes.
        total: images of the whole run, those done by earlier starts included; None where it is not known.
        every: the least seconds between two reports.
        clock: gives the time; for tests.
    """

    def __init__(
        self,
        run: RunFolder,
        rank: int,
        *,
        total: int | None = None,
        every: float = 2.0,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._run, self._rank = run, rank
        self._total, self._every, self._clock = total, timedelta(seconds=every), clock
        self._counts = Counts()
        self._seen: deque[tuple[datetime, int]] = deque([(clock(), 0)])
        self._reported = self._seen[0][0] - self._every

    def update(self, counts: Counts) -> None:
        """Say what the rank has done since this start; written down if the last report is old enough.

        Args:
            counts: :attr:`ShardSink.added`.

        Raises:
            RunError: if the report cannot be written.
        """
        self._counts, now = counts, self._clock()
        if now - self._reported < self._every:
            return
        self._seen.append((now, counts.all))
        while now - self._seen[0][0] > _WINDOW and len(self._seen) > 2:
            self._seen.popleft()
        self._report(now, finished=False)

    def close(self, *, total: int | None = None) -> None:
        """Report for the last time: this rank has nothing left to do.

        Args:
            total: images of the whole run, where only its end tells.

        Raises:
            RunError: as :meth:`update`.
        """
        self._total = self._total if total is None else total
        self._report(self._clock(), finished=True)

    def _report(self, now: datetime, *, finished: bool) -> None:
        report = RankReport(
            session=self._run.session,
            rank=self._rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            images=self._counts.images,
            errors=self._counts.errors,
            total=self._total,
            window=self._seen[0],
            updated=now,
            finished=finished,
        )
        path = self._run.path / RANKS / f"{self._rank}.json"
        part = path.with_suffix(".part")
        with writing(self._run.path):
            # Not synced: it is of no use after a crash.
            part.write_text(json.dumps(asdict(report), default=datetime.isoformat))
            os.replace(part, path)
        self._reported = now


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        done: images explained, those not recorded yet included while their rank lives.
        failed: images that could not be explained, likewise.
        total: images there are, None where nobody knows.
        left: images still to do, None where nobody knows.
        per_second: images, explained or not, per second of the last minute; 0 for a run that is not alive.
        alive: whether a process holds the run.
        ranks: how many ranks work on it.
        began: when the run began, at its first start.
        updated: when something was last heard of it.
    """

    done: int
    failed: int
    total: int | None
    left: int | None
    per_second: float
    alive: bool
    ranks: int
    began: datetime
    updated: datetime

    @property
    def time_left(self) -> str | None:
        """How long the rest takes at the present speed, such as ``1:02:03``; None where nobody knows."""
        if self.left == 0:
            return "0:00:00"
        if self.left is None or self.per_second <= 0:
            return None
        minutes, seconds = divmod(round(self.left / self.per_second), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def run_status(run: str | Path) -> RunStatus:
    """How far a run is, at any time and from any process; changes nothing.

    Args:
        run: its folder.

    Raises:
        RunError: for a folder that is no run.
    """
    run = Path(run)
    began = datetime.fromisoformat(read_record(run).began)
    holder, alive = read_holder(run), is_held(run)
    # The reports first: what is recorded in between is counted once, below.
    reports = _read_reports(run)
    records = read_manifests(run)
    live = [report for report in reports if alive and holder and report.session == holder.session]
    counts = _count(records, live)
    total = max((report.total for report in reports if report.total is not None), default=None)
    heard = [report.updated for report in reports] + [datetime.fromisoformat(one.time) for one in records]
    now = _now()
    return RunStatus(
        done=counts.images,
        failed=counts.errors,
        total=total,
        left=None if total is None else max(0, total - counts.all),
        per_second=sum(report.per_second(now) for report in live),
        alive=alive,
        ranks=sum(not report.finished for report in live),
        began=began,
        updated=max([began, *heard]),
    )


def finished_ranks(run: RunFolder) -> int:
    """How many ranks of this start have said that nothing is left for them to do."""
    reports = _read_reports(run.path)
    return sum(report.finished for report in reports if report.session == run.session)


class RunLog:
    """Appends a line of JSON to ``log.jsonl`` every minute; for rank 0.

    A line says time, done, failed, total, left, per_second and ranks, see :class:`RunStatus`.

    Args:
        run: folder of the run.
        every: the least seconds between two lines.
        clock: gives the time; for tests.
    """

    def __init__(self, run: Path, *, every: float = 60.0, clock: Callable[[], datetime] = _now) -> None:
        self._run, self._every, self._clock = run, timedelta(seconds=every), clock
        self._last = clock()

    def tick(self) -> RunStatus | None:
        """Append a line if the last one is old enough; what it says, or None.

        Raises:
            RunError: if it cannot be written.
        """
        return self.write() if self._clock() - self._last >= self._every else None

    def write(self) -> RunStatus:
        """Append a line now, as at the end of a run; what it says.

        Raises:
            RunError: if it cannot be written.
        """
        self._last = self._clock()
        status = run_status(self._run)
        line = {
            "time": stamp(self._last),
            "done": status.done,
            "failed": status.failed,
            "total": status.total,
            "left": status.left,
            "per_second": round(status.per_second, 3),
            "ranks": status.ranks,
        }
        with writing(self._run):
            append_line(self._run / LOG, json.dumps(line))
        return status


def _count(records: list[ShardRecord], live: list[RankReport]) -> Counts:
    """Recorded rows, and the open ones of live ranks.

    A live rank's recorded rows are among those it reports, unless it recorded them after its last report.
    """
    counts: defaultdict[tuple[str, int], Counts] = defaultdict(Counts)
    for record in records:
        counts[record.origin] += Counts(**{record.table: record.rows})
    for report in live:
        origin = report.session, report.rank
        images, errors = counts[origin].images, counts[origin].errors
        counts[origin] = Counts(max(images, report.images), max(errors, report.errors))
    return sum(counts.values(), Counts())


def _read_reports(run: Path) -> list[RankReport]:
    """What the ranks say; a file that a crash of the machine left empty says nothing."""
    reports = []
    for path in sorted((run / RANKS).glob("*.json")):
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            values = json.loads(path.read_text())
            begin, done = values["window"]
            values["window"] = (datetime.fromisoformat(begin), int(done))
            values["updated"] = datetime.fromisoformat(values["updated"])
            reports.append(RankReport(**values))
    return reports
