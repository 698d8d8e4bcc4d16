"""What a run tells while it runs: a report per rank every few seconds, a line of a log every minute."""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clip_surgery_hub.files.durable import append_line
from clip_surgery_hub.files.lock import stamp
from clip_surgery_hub.prediction.runs.folder import RunFolder
from clip_surgery_hub.prediction.runs.run_files import LOG, RANKS
from clip_surgery_hub.prediction.runs.shard_records import Counts, writing
from clip_surgery_hub.prediction.runs.status import RankReport, RunStatus, run_status

__all__ = ["RankProgress", "RunLog"]

_WINDOW = timedelta(seconds=60)


def _now() -> datetime:
    return datetime.now(UTC)


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
            counts=self._counts,
            total=self._total,
            window=self._seen[0],
            updated=now,
            finished=finished,
        )
        path = self._run.path / RANKS / f"{self._rank}.json"
        part = path.with_suffix(".part")
        with writing(self._run.path):
            # Not synced: it is of no use after a crash.
            part.write_text(report.to_json())
            os.replace(part, path)
        self._reported = now


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
