"""Where images come from: folders, patterns, manifests, tars, datasets; each once, in equal shares."""

from clip_surgery_hub.prediction.sources.batches import ImageBatches as ImageBatches
from clip_surgery_hub.prediction.sources.batches import batches_of as batches_of
from clip_surgery_hub.prediction.sources.batches import (
    leave_signals_to_the_rank as leave_signals_to_the_rank,
)
from clip_surgery_hub.prediction.sources.opening import open_source as open_source
from clip_surgery_hub.prediction.sources.source import Sample as Sample
from clip_surgery_hub.prediction.sources.source import Share as Share
from clip_surgery_hub.prediction.sources.source import Source as Source
