"""The figures of the paper for any checkpoint and method: data sets, metrics, protocols, reports."""

from clip_surgery_hub.evaluate.datasets import DATASETS, DataSet, open_dataset
from clip_surgery_hub.evaluate.result import Evaluation, Figure
from clip_surgery_hub.evaluate.run import evaluate
from clip_surgery_hub.evaluate.tasks import TASKS, Task, get_task
from clip_surgery_hub.evaluate.variants import Reading, readings_of

__all__ = [
    "DATASETS",
    "TASKS",
    "DataSet",
    "Evaluation",
    "Figure",
    "Reading",
    "Task",
    "evaluate",
    "get_task",
    "open_dataset",
    "readings_of",
]
