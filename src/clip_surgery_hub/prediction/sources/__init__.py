"""Where images come from: folders, patterns, manifests, tars, datasets; each once, in equal shares."""

from clip_surgery_hub.prediction.sources.batches import (
    ImageBatches,
    batches_of,
    leave_signals_to_the_rank,
)
from clip_surgery_hub.prediction.sources.opening import open_source
from clip_surgery_hub.prediction.sources.source import Sample, Share, Source

__all__ = [
    "ImageBatches",
    "Sample",
    "Share",
    "Source",
    "batches_of",
    "leave_signals_to_the_rank",
    "open_source",
]
