"""How far a run is, from its folder alone: recorded images, and those that its ranks have open."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clip_surgery_hub.files.lock import is_held, read_holder
from clip_surgery_hub.prediction.runs.folder import RunFolder
from clip_surgery_hub.prediction.runs.run_files import RANKS
from clip_surgery_hub.prediction.runs.run_record import read_record
from clip_surgery_hub.prediction.runs.shard_records import (
    Counts,
    ShardRecord,
    count_rows,
    read_manifests,
)

__all__ = ["RunStatus", "finished_ranks", "run_status"]

_STALLED = 10.0
"""Seconds after which a rank that says nothing is taken to have done nothing since it last spoke."""


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


@dataclass(frozen=True)
class RankReport:
    """What a rank says of itself in ``ranks/<rank>.json``.

    Attributes:
        session: the start that it belongs to.
        rank: its number.
        host: name of its machine.
        pid: number of its process.
        counts: images that it has done since this start.
        total: images of the whole run, those done earlier included, as far as the rank knows.
        window: a moment within the last minute, and how many images it had done then.
        updated: when this was written.
        finished: whether it has nothing left to do.
    """

    session: str
    rank: int
    host: str
    pid: int
    counts: Counts
    total: int | None
    window: tuple[datetime, int]
    updated: datetime
    finished: bool

    def per_second(self, now: datetime) -> float:
        """Images per second since the beginning of the window."""
        # A rank that is silent for long has slowed down, however fast it was when it last spoke.
        end = now if (now - self.updated).total_seconds() > _STALLED else self.updated
        seconds = (end - self.window[0]).total_seconds()
        return 0.0 if self.finished or seconds <= 0 else (self.counts.all - self.window[1]) / seconds

    def to_json(self) -> str:
        """The report as the file says it."""
        values = {
            "session": self.session,
            "rank": self.rank,
            "host": self.host,
            "pid": self.pid,
            "images": self.counts.images,
            "errors": self.counts.errors,
            "total": self.total,
            "window": [self.window[0].isoformat(), self.window[1]],
            "updated": self.updated.isoformat(),
            "finished": self.finished,
        }
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> RankReport:
        """The report that a file holds.

        Raises:
            ValueError: for another text.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            moment, done = values.pop("window")
            return cls(
                counts=Counts(values.pop("images"), values.pop("errors")),
                window=(datetime.fromisoformat(moment), int(done)),
                updated=datetime.fromisoformat(values.pop("updated")),
                **values,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no report of a rank: {error}") from error


def run_status(run: str | Path) -> RunStatus:
    """How far a run is, at any time and from any process; changes nothing.

    Args:
        run: its folder.

    Raises:
        RunError: for a folder that is no run.
    """
    run = Path(run)
    record = read_record(run)
    began = datetime.fromisoformat(record.began)
    holder, alive = read_holder(run), is_held(run)
    # The reports first: what is recorded in between is counted once, below.
    reports = _read_reports(run)
    records = read_manifests(run)
    live = [report for report in reports if alive and holder and report.session == holder.session]
    counts = _count(records, live)
    totals = [report.total for report in reports if report.total is not None]
    total = max(totals, default=None)
    heard = [report.updated for report in reports] + [datetime.fromisoformat(one.time) for one in records]
    now = datetime.now(UTC)
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


def _count(records: list[ShardRecord], live: list[RankReport]) -> Counts:
    """Recorded rows, and the open ones of live ranks.

    A live rank's recorded rows are among those it reports, unless it recorded them after its last report.
    """
    by_origin = {(report.session, report.rank): report.counts for report in live}
    of_live: dict[tuple[str, int], list[ShardRecord]] = {origin: [] for origin in by_origin}
    others: list[ShardRecord] = []
    for record in records:
        of_live.get(record.origin, others).append(record)
    counts = count_rows(others)
    for origin, reported in by_origin.items():
        recorded = count_rows(of_live[origin])
        counts += Counts(max(recorded.images, reported.images), max(recorded.errors, reported.errors))
    return counts


def _read_reports(run: Path) -> list[RankReport]:
    """What the ranks say; a file that a crash of the machine left empty says nothing."""
    reports = []
    for path in sorted((run / RANKS).glob("*.json")):
        try:
            reports.append(RankReport.from_json(path.read_text()))
        except (ValueError, FileNotFoundError):
            continue
    return reports


def finished_ranks(run: RunFolder) -> int:
    """How many ranks of this start have said that nothing is left for them to do."""
    reports = _read_reports(run.path)
    return sum(report.finished for report in reports if report.session == run.session)
