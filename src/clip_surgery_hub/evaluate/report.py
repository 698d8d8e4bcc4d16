"""An evaluation for people: a table with the published metrics beside, and bars per class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clip_surgery_hub.evaluate.published import Published
from clip_surgery_hub.evaluate.result import Evaluation, MetricValue
from clip_surgery_hub.evaluate.variants import Variant
from clip_surgery_hub.files.durable import replace_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["class_bars", "metrics_table", "results_table", "save_table"]

_MOST_CLASSES = 60
"""So many classes are readable in one figure."""


def results_table(evaluation: Evaluation) -> str:
    """What was measured and its metrics as Markdown, the published ones below."""
    lines = [
        evaluation.task.about,
        "",
        f"{evaluation.images} images, {len(evaluation.class_names)} classes; in brackets the middle 95% "
        "of 1,000 bootstrap samples of the images.",
        "",
        metrics_table(evaluation),
    ]
    if evaluation.published:
        lines += ["", *_published_lines(evaluation)]
    return "\n".join(lines) + "\n"


def metrics_table(evaluation: Evaluation) -> str:
    """The metrics as a Markdown table: variants down, metrics across."""
    names = list(dict.fromkeys(metric.name for metric in evaluation.metrics))
    lines = [
        f"| method | depth | features | {' | '.join(names)} |",
        f"|---|---|---|{'---|' * len(names)}",
    ]
    for variant in evaluation.variants:
        found = evaluation.of(variant)
        cells = [_cell(found.get(name)) for name in names]
        lines.append(f"| {variant.method} | {variant.depth} | {variant.features} | {' | '.join(cells)} |")
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


def class_bars(evaluation: Evaluation, variant: Variant) -> Figure:
    """Bars of the first metric of each class, the best on top; classes that do not occur are left out.

    Of more than 60 classes the best and the worst 30 are drawn.
    """
    from matplotlib.figure import Figure

    name, values = next(iter(evaluation.per_class[variant.name].items()))
    pairs = zip(evaluation.class_names, values.tolist(), strict=True)
    ranked = sorted(((value, one) for one, value in pairs if math.isfinite(value)), reverse=True)
    title = f"{name} per class, {variant.name}"
    if len(ranked) > _MOST_CLASSES:
        half = _MOST_CLASSES // 2
        title += f": the best and the worst {half} of {len(ranked)}"
        ranked = ranked[:half] + ranked[-half:]
    figure = Figure(figsize=(7, 1.2 + 0.2 * len(ranked)), layout="constrained")
    axes = figure.subplots()
    axes.barh([one for _, one in ranked], [value for value, _ in ranked], color="#3b6ea5")
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(f"{name} in percent")
    axes.tick_params(labelsize=8)
    return figure


def _cell(metric: MetricValue | None) -> str:
    if metric is None:
        return ""
    if metric.name == "threshold":
        return f"{metric.value:.2f}"
    return f"{metric.value:.1f} [{metric.low:.1f}, {metric.high:.1f}]"


def _published_lines(evaluation: Evaluation) -> list[str]:
    """The published metrics, and how far the measured ones are from them where the method was measured."""
    lines = [
        "Published for this data set and task (protocols differ in detail, and only the model named there "
        "can be compared):",
        "",
        "| method | model | metric | published | measured here minus published | source |",
        "|---|---|---|---|---|---|",
    ]
    measured = _first(evaluation)
    for one in evaluation.published:
        here = measured.get((one.method, one.metric))
        difference = "" if here is None else f"{here - one.value:+.1f}"
        lines.append(
            f"| {one.method} | {one.model} | {one.metric} | {one.value} | {difference} | {_source(one)} |"
        )
    return lines


def _first(evaluation: Evaluation) -> Mapping[tuple[str, str], float]:
    """The metrics of each method at the first of its variants."""
    found: dict[tuple[str, str], float] = {}
    for metric in evaluation.metrics:
        found.setdefault((metric.variant.method, metric.name), metric.value)
    return found


def _source(one: Published) -> str:
    return f"{one.source}; {one.note}" if one.note else one.source
