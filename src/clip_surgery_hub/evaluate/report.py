"""An evaluation for people: a table with the published figures beside, and bars per class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clip_surgery_hub.evaluate.published import Published
from clip_surgery_hub.evaluate.result import Evaluation, Figure
from clip_surgery_hub.evaluate.variants import Reading
from clip_surgery_hub.files.durable import replace_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

__all__ = ["class_bars", "figures_table", "results_table", "save_table"]

_MOST_CLASSES = 60
"""So many classes are readable in one picture."""


def results_table(evaluation: Evaluation) -> str:
    """What was measured and its figures as Markdown, the published ones below."""
    lines = [
        evaluation.task.about,
        "",
        f"{evaluation.pictures} pictures, {len(evaluation.class_names)} classes; in brackets the middle 95% "
        "of 1,000 bootstrap samples of the pictures.",
        "",
        figures_table(evaluation),
    ]
    if evaluation.published:
        lines += ["", *_published_lines(evaluation)]
    return "\n".join(lines) + "\n"


def figures_table(evaluation: Evaluation) -> str:
    """The figures as a Markdown table: readings down, figures across."""
    names = list(dict.fromkeys(figure.name for figure in evaluation.figures))
    lines = [
        f"| method | depth | features | {' | '.join(names)} |",
        f"|---|---|---|{'---|' * len(names)}",
    ]
    for reading in evaluation.readings:
        found = evaluation.of(reading)
        cells = [_cell(found.get(name)) for name in names]
        lines.append(f"| {reading.method} | {reading.depth} | {reading.features} | {' | '.join(cells)} |")
    return "\n".join(lines)


def save_table(evaluation: Evaluation, folder: Path) -> Path:
    """Write `results.md` into a folder, whole or not at all; its path.

    Raises:
        OSError: it cannot be written.
    """
    title = f"# {evaluation.task.title}: {evaluation.settings['dataset']}, {evaluation.settings['model']}\n\n"
    path = folder / "results.md"
    replace_whole(path, (title + results_table(evaluation)).encode(), part=folder / ".results.md")
    return path


def class_bars(evaluation: Evaluation, reading: Reading) -> Drawing:
    """Bars of the first figure of each class, the best on top; classes that do not occur are left out.

    Of more than 60 classes the best and the worst 30 are drawn.
    """
    from matplotlib.figure import Figure as Drawing

    name, values = next(iter(evaluation.per_class[reading.name].items()))
    pairs = zip(evaluation.class_names, values.tolist(), strict=True)
    ranked = sorted(((value, one) for one, value in pairs if math.isfinite(value)), reverse=True)
    title = f"{name} per class, {reading.name}"
    if len(ranked) > _MOST_CLASSES:
        half = _MOST_CLASSES // 2
        title += f": the best and the worst {half} of {len(ranked)}"
        ranked = ranked[:half] + ranked[-half:]
    drawing = Drawing(figsize=(7, 1.2 + 0.2 * len(ranked)), layout="constrained")
    axes = drawing.subplots()
    axes.barh([one for _, one in ranked], [value for value, _ in ranked], color="#3b6ea5")
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(f"{name} in percent")
    axes.tick_params(labelsize=8)
    return drawing


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    if figure.name == "threshold":
        return f"{figure.value:.2f}"
    return f"{figure.value:.1f} [{figure.low:.1f}, {figure.high:.1f}]"


def _published_lines(evaluation: Evaluation) -> list[str]:
    """The published figures, and how far the measured ones are from them where the method was measured."""
    lines = [
        "Published for this data set and task (protocols differ in detail, and only the model named there "
        "can be compared):",
        "",
        "| method | model | figure | published | measured here minus published | source |",
        "|---|---|---|---|---|---|",
    ]
    measured = _first(evaluation)
    for one in evaluation.published:
        here = measured.get((one.method, one.figure))
        difference = "" if here is None else f"{here - one.value:+.1f}"
        lines.append(
            f"| {one.method} | {one.model} | {one.figure} | {one.value} | {difference} | {_source(one)} |"
        )
    return lines


def _first(evaluation: Evaluation) -> Mapping[tuple[str, str], float]:
    """The figures of each method at the first of its readings."""
    found: dict[tuple[str, str], float] = {}
    for figure in evaluation.figures:
        found.setdefault((figure.reading.method, figure.name), figure.value)
    return found


def _source(one: Published) -> str:
    return f"{one.source}; {one.note}" if one.note else one.source
