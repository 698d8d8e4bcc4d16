"""Predicting at scale on Lightning's Trainer.

The names are loaded when they are first asked for: who only reads a run needs no Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_surgery_hub.prediction.data import ImageDataModule as ImageDataModule
    from clip_surgery_hub.prediction.module import SurgeryPredictor as SurgeryPredictor
    from clip_surgery_hub.prediction.output_columns import COLUMNS as COLUMNS
    from clip_surgery_hub.prediction.progress_bar import RunWatch as RunWatch
    from clip_surgery_hub.prediction.signals import RunStopped as RunStopped
    from clip_surgery_hub.prediction.trainer import predict as predict
    from clip_surgery_hub.prediction.writer import ShardWriter as ShardWriter

# Public name -> the module that defines it.
_HOME = {
    "COLUMNS": "output_columns",
    "ImageDataModule": "data",
    "RunStopped": "signals",
    "RunWatch": "progress_bar",
    "ShardWriter": "writer",
    "SurgeryPredictor": "module",
    "predict": "trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
