"""The metrics of the paper for any checkpoint and method: data sets, metrics, protocols, reports."""

from clip_surgery_hub.evaluate.datasets import DATASETS, DataSet, open_dataset
from clip_surgery_hub.evaluate.result import Evaluation, MetricValue
from clip_surgery_hub.evaluate.run import evaluate
from clip_surgery_hub.evaluate.tasks import TASKS, Task, get_task
from clip_surgery_hub.evaluate.variants import Variant, variants_of

__all__ = [
    "DATASETS",
    "TASKS",
    "DataSet",
    "Evaluation",
    "MetricValue",
    "Variant",
    "Task",
    "evaluate",
    "get_task",
    "open_dataset",
    "variants_of",
]
