"""Metrics as Markdown tables, and into their place on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.bootstrap import MetricValue

BEGIN, END = "<!-- metrics: begin -->", "<!-- metrics: end -->"


def tables(metrics: Sequence[MetricValue]) -> str:
    """A row per variant and a column per metric; variants of other metrics get a table of their own."""
    variants: dict[str, list[MetricValue]] = {}
    for metric in metrics:
        variants.setdefault(metric.variant, []).append(metric)
    parts: dict[tuple[str, ...], list[str]] = {}
    for variant, found in variants.items():
        cells = [variant, *map(_with_interval, found), " / ".join(str(one.count) for one in found)]
        parts.setdefault(tuple(one.name for one in found), []).append(f"| {' | '.join(cells)} |")
    return "\n\n".join(
        "\n".join([f"| variant | {' | '.join(names)} | counted |", "|---" * (len(names) + 2) + "|", *rows])
        for names, rows in parts.items()
    )


def section(task: str, about: str, command: str, metrics: Sequence[MetricValue]) -> str:
    """A heading, what is measured, the command that measures it, and the table."""
    return f"### {task.capitalize()}\n\n{about}\n\n```sh\n{command}\n```\n\n{tables(metrics)}"


def put_into(page: Path, sections: Mapping[str, str]) -> None:
    """Replace what stands between the two marks of a page.

    Raises:
        ValueError: if the page has no such marks; nothing is written.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for metrics: put {BEGIN} and {END} into it.")
    page.write_text(
        f"{before}{BEGIN}\n\n" + "\n\n".join(sections.values()) + f"\n\n{END}{after}", encoding="utf-8"
    )


def _with_interval(metric: MetricValue) -> str:
    digits = 3 if metric.name == "presence" else 1
    value, low, high = (f"{number:.{digits}f}" for number in (metric.value, metric.low, metric.high))
    return f"{value} ({low} to {high})"
