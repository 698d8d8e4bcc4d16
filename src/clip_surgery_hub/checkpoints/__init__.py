"""Checkpoints: from a folder, a file or a hub id to a model to be modified, one file per format."""

from clip_surgery_hub.checkpoints.building import build_open_clip
from clip_surgery_hub.checkpoints.checkpoint import Checkpoint, correct_activation, load_checkpoint

__all__ = ["Checkpoint", "build_open_clip", "correct_activation", "load_checkpoint"]
