"""The metrics of the evaluation as torchmetrics metrics, one file per task."""

from clip_surgery_hub.evaluate.metrics.explainability import ExplanationMetric
from clip_surgery_hub.evaluate.metrics.interaction import InteractionMetric
from clip_surgery_hub.evaluate.metrics.recognition import RecognitionMetric
from clip_surgery_hub.evaluate.metrics.row_metric import Measurement, RowMetric
from clip_surgery_hub.evaluate.metrics.segmentation import SegmentationMetric

__all__ = [
    "ExplanationMetric",
    "InteractionMetric",
    "Measurement",
    "RecognitionMetric",
    "RowMetric",
    "SegmentationMetric",
]
