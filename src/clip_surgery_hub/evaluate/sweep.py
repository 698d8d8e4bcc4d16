"""Which depth, method, size, features and templates are best: all variants of a size from one pass each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_surgery_hub.evaluate.datasets import DataSet
from clip_surgery_hub.evaluate.result import Evaluation, MetricValue
from clip_surgery_hub.evaluate.run import evaluate
from clip_surgery_hub.evaluate.tasks import Task
from clip_surgery_hub.evaluate.variants import Variant, variants_of
from clip_surgery_hub.files.durable import replace_whole
from clip_surgery_hub.model import CLIPSurgery

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Sweep", "SweepPart", "sweep"]


@dataclass(frozen=True, eq=False, kw_only=True)
class SweepPart:
    """The variants at one size with one set of templates.

    Attributes:
        size: short side in pixels.
        templates: name of the set, or "bare text".
        evaluation: what was measured.
    """

    size: int
    templates: str
    evaluation: Evaluation


@dataclass(frozen=True, eq=False, kw_only=True)
class Sweep:
    """What was measured.

    Attributes:
        task: the task, by whose metric variants are compared.
        parts: one per size and set of templates.
    """

    task: Task
    parts: tuple[SweepPart, ...]

    @property
    def best(self) -> tuple[SweepPart, MetricValue]:
        """Where the task's metric is highest, the first among equals."""
        found = [(part, metric) for part in self.parts for metric in self._metrics(part)]
        return max(found, key=lambda pair: pair[1].value)

    def table(self) -> str:
        """All of it as a Markdown table, the best in bold."""
        names = list(dict.fromkeys(metric.name for part in self.parts for metric in part.evaluation.metrics))
        lines = [
            self.task.about,
            "",
            f"{self.parts[0].evaluation.images} images; in brackets the middle 95% of 1,000 bootstrap "
            "samples of the images.",
            "",
            f"| method | depth | features | size | templates | {' | '.join(names)} |",
            f"|---|---|---|---|---|{'---|' * len(names)}",
        ]
        _, best = self.best
        for part in self.parts:
            for variant in part.evaluation.variants:
                found = part.evaluation.of(variant)
                cells = [_cell(found[name], bold=found[name] is best) for name in names]
                told = (variant.method, variant.depth, variant.features, part.size, part.templates)
                lines.append(f"| {' | '.join(map(str, told))} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def plot(self) -> Figure:
        """The task's metric over the depth, a line per method, features, size and templates.

        Variants that have one depth only are drawn across.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for part in self.parts:
            curves: dict[tuple[str, str], list[MetricValue]] = {}
            for metric in self._metrics(part):
                curves.setdefault((metric.variant.method, metric.variant.features), []).append(metric)
            for (method, features), metrics in curves.items():
                label = f"{method}, {features}, {part.size} px, {part.templates}"
                _draw_curve(axes, sorted(metrics, key=lambda one: one.variant.depth), label)
        axes.set_xlabel("depth: how many of the last blocks are modified")
        axes.set_ylabel(f"{self.task.primary_metric} in percent")
        axes.set_title(self.task.title, fontsize=11)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure

    def save(self, folder: Path) -> None:
        """Write `sweep.md`, `sweep.json` and `sweep.png` into a folder.

        Raises:
            OSError: it cannot be written.
        """
        title = f"# {self.task.title}: sweep\n\n"
        replace_whole(folder / "sweep.md", (title + self.table()).encode(), part=folder / ".sweep.md")
        values = [
            {"size": part.size, "templates": part.templates, **part.evaluation.to_dict()}
            for part in self.parts
        ]
        content = json.dumps(values, indent=2, ensure_ascii=False).encode()
        replace_whole(folder / "sweep.json", content, part=folder / ".sweep.json")
        self.plot().savefig(folder / "sweep.png", dpi=130)

    def _metrics(self, part: SweepPart) -> list[MetricValue]:
        return [metric for metric in part.evaluation.metrics if metric.name == self.task.primary_metric]


def sweep(
    clip: CLIPSurgery,
    dataset: DataSet,
    task: Task,
    *,
    out: str | Path,
    methods: Sequence[str] = ("none", "clip_surgery"),
    depths: Sequence[int] | None = None,
    features: Sequence[str] = ("plain", "surgery"),
    sizes: Sequence[int | None] = (None,),
    templates: Mapping[str, str | None] | None = None,
    **evaluate_options: Any,
) -> Sweep:
    """Measure all combinations; those of one size and one set of templates share one pass over the images.

    Args:
        clip: a checkpoint under any method; it is left under it.
        dataset: see `datasets.open_dataset`.
        task: see `tasks.get_task`.
        out: the folder; each size and set of templates gets one inside.
        methods: names out of `methods.METHODS`.
        depths: for the methods that have more than one; None: from 1 to all blocks.
        features: "plain", "surgery" or "auto".
        sizes: short sides in pixels, None for the checkpoint's own.
        templates: sets of prompt templates by the name they get; None: the paper's ensemble.
        evaluate_options: more of :func:`~clip_surgery_hub.evaluate.evaluate`, such as ``limit``.

    Raises:
        ValueError: as `evaluate`.
    """
    blocks = len(clip.tower.blocks)
    variants: tuple[Variant, ...] = variants_of(
        methods,
        blocks=blocks,
        depths=depths or range(1, blocks + 1),
        features=features,
        automatic=task.automatic,
    )
    parts = []
    for name, chosen in (templates or {"paper": "paper"}).items():
        for size in sizes:
            side = clip.image_transform(size=size).size
            folder = Path(out) / f"{name.replace(' ', '_')}_{side}"
            found = evaluate(
                clip,
                dataset,
                task,
                variants,
                out=folder,
                templates=chosen,
                size=size,
                draw=False,
                devices=1,
                **evaluate_options,
            )
            assert found is not None  # one process has rank 0
            parts.append(SweepPart(size=side, templates=name, evaluation=found))
    whole = Sweep(task=task, parts=tuple(parts))
    whole.save(Path(out))
    return whole


def _cell(metric: MetricValue, *, bold: bool) -> str:
    if metric.name == "threshold":
        return f"{metric.value:.2f}"
    said = f"{metric.value:.1f} [{metric.low:.1f}, {metric.high:.1f}]"
    return f"**{said}**" if bold else said


def _draw_curve(axes: Any, metrics: Sequence[MetricValue], label: str) -> None:
    depth = [metric.variant.depth for metric in metrics]
    value = [metric.value for metric in metrics]
    if len(metrics) == 1:
        axes.axhline(value[0], linestyle="--", linewidth=1, label=label, color=f"C{len(axes.lines)}")
        return
    (line,) = axes.plot(depth, value, marker="o", label=label)
    low, high = ([getattr(metric, end) for metric in metrics] for end in ("low", "high"))
    axes.fill_between(depth, low, high, alpha=0.15, color=line.get_color())
