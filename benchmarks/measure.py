"""Two ways of doing the same, timed in turns, so that a busy machine slows both alike."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter


@dataclass(frozen=True)
class Comparison:
    """What one row of the table says.

    Attributes:
        what: the way that is measured.
        against: the way that it is compared with.
        ours: its median, in `unit`.
        baseline: the other's median, in `unit`.
        ratio: the median of the ratios, pair by pair.
        goal: the ratio to stay below.
        unit: of `ours` and `baseline`.
    """

    what: str
    against: str
    ours: float
    baseline: float
    ratio: float
    goal: float
    unit: str = "ms"

    @property
    def met(self) -> bool:
        """Whether the ratio is as low as it should be."""
        return self.ratio <= self.goal


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = perf_counter()
    run()
    return perf_counter() - start


def compare(
    what: str,
    ours: Callable[[], object],
    against: str,
    baseline: Callable[[], object],
    goal: float,
    *,
    pairs: int = 9,
) -> Comparison:
    """Time both in alternating pairs, after one unmeasured call each; which goes first changes every time."""
    ours()
    baseline()
    times: list[tuple[float, float]] = []
    for pair in range(pairs):
        if pair % 2:
            second, first = seconds(baseline), seconds(ours)
        else:
            first, second = seconds(ours), seconds(baseline)
        times.append((first, second))
    return Comparison(
        what,
        against,
        1000 * median(first for first, _ in times),
        1000 * median(second for _, second in times),
        median(first / second for first, second in times),
        goal,
    )
