"""Predicting at scale on Lightning's Trainer."""

from clip_surgery_hub.lightning.data import PictureDataModule as PictureDataModule
from clip_surgery_hub.lightning.predict import predict as predict
from clip_surgery_hub.lightning.predictor import SurgeryPredictor as SurgeryPredictor
from clip_surgery_hub.lightning.rows import COLUMNS as COLUMNS
from clip_surgery_hub.lightning.stopping import RESUME_ME as RESUME_ME
from clip_surgery_hub.lightning.stopping import RunStopped as RunStopped
from clip_surgery_hub.lightning.watch import RunWatch as RunWatch
from clip_surgery_hub.lightning.writer import ShardWriter as ShardWriter
