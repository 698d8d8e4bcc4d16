"""The data sets of the evaluation, each read in the layout in which it is distributed."""

from clip_surgery_hub.evaluate.datasets.catalog import DATASETS, open_dataset
from clip_surgery_hub.evaluate.datasets.dataset import (
    NO_CLASS,
    VOID,
    AnnotatedImage,
    ClassSet,
    DataSet,
    DatasetEntry,
    TaskName,
)

__all__ = [
    "DATASETS",
    "NO_CLASS",
    "VOID",
    "AnnotatedImage",
    "ClassSet",
    "DataSet",
    "DatasetEntry",
    "TaskName",
    "open_dataset",
]
