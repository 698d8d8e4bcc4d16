"""Predicting at scale on Lightning's Trainer."""

from clip_surgery_hub.lightning.data import PictureDataModule

__all__ = ["PictureDataModule"]
