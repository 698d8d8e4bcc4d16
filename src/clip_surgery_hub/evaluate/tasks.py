"""The tasks of the paper that can be measured, one entry each."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from clip_surgery_hub.evaluate.metrics import (
    ExplanationMetric,
    InteractionMetric,
    RecognitionMetric,
    RowMetric,
    SegmentationMetric,
)
from clip_surgery_hub.evaluate.variants import Features
from clip_surgery_hub.sam.backends import Sam

__all__ = ["TASKS", "Task", "TaskOptions", "get_task"]


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskOptions:
    """What a task's metric has to know of the data.

    Attributes:
        classes: T.
        background: number of the background class, None where there is none.
        sam: the segmentation model that is asked, None for none.
    """

    classes: int
    background: int | None = None
    sam: Sam | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task.

    Attributes:
        name: what the command line calls it.
        title: for people.
        primary_metric: the metric that variants are compared by, in percent.
        automatic: what the features "auto" are for CLIP Surgery.
        about: what is measured and how, in one paragraph.
        metric: makes the metric of one variant.
    """

    name: str
    title: str
    primary_metric: str
    automatic: Features
    about: str
    metric: Callable[[TaskOptions], RowMetric]


def _explain(task_options: TaskOptions) -> RowMetric:
    return ExplanationMetric(classes=task_options.classes, background=task_options.background)


def _segment(task_options: TaskOptions) -> RowMetric:
    return SegmentationMetric(classes=task_options.classes)


def _recognize(task_options: TaskOptions) -> RowMetric:
    return RecognitionMetric(classes=task_options.classes)


def _interact(task_options: TaskOptions) -> RowMetric:
    return InteractionMetric(
        classes=task_options.classes, background=task_options.background, sam=task_options.sam
    )


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task(
                name="explain",
                title="Explainability",
                primary_metric="mIoU",
                automatic="surgery",
                about="Each class that an image shows is scored by itself, its pixels against all others. "
                "mIoU: intersection over union at the one threshold that is best for all maps. mSC: heat "
                "inside minus heat outside, mean over the classes of an image, then over images. "
                "Pointing: the highest pixel lies on the class.",
                metric=_explain,
            ),
            Task(
                name="segment",
                title="Open-vocabulary segmentation",
                primary_metric="mIoU",
                automatic="plain",
                about="The most similar class of every pixel, at the image's own size. Intersection and "
                "union are summed over the data set before they are divided, then the mean over the classes "
                "is taken; once with all classes as candidates, once with those that the image shows.",
                metric=_segment,
            ),
            Task(
                name="recognize",
                title="Multi-label recognition",
                primary_metric="mAP",
                automatic="surgery",
                about="Average precision of the image-level scores over the images, mean over the classes. "
                "The image-level embedding is the same under every method, so only the features count.",
                metric=_recognize,
            ),
            Task(
                name="interact",
                title="Text to points to masks",
                primary_metric="positive points",
                automatic="surgery",
                about="The points of each class that an image shows: positive points on it, negative "
                "points beside it. With a segmentation model also the overlap of its mask at these points "
                "with the class, for the mask of the highest score and for the one that fits the map best.",
                metric=_interact,
            ),
        )
    }
)
"""Every task by name."""


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: when there is none; the message says which was probably meant.
    """
    if name in TASKS:
        return TASKS[name]
    close = difflib.get_close_matches(name, TASKS, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"There is no task {name!r}: {meant}There are {', '.join(TASKS)}.")
