"""Predicting at scale on Lightning's Trainer."""

from clip_surgery_hub.prediction.data import ImageDataModule as ImageDataModule
from clip_surgery_hub.prediction.module import SurgeryPredictor as SurgeryPredictor
from clip_surgery_hub.prediction.output_columns import COLUMNS as COLUMNS
from clip_surgery_hub.prediction.predict import predict as predict
from clip_surgery_hub.prediction.progress_bar import RunWatch as RunWatch
from clip_surgery_hub.prediction.signals import RESUME_ME as RESUME_ME
from clip_surgery_hub.prediction.signals import RunStopped as RunStopped
from clip_surgery_hub.prediction.writer import ShardWriter as ShardWriter
