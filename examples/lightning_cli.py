"""Predict from a config file: python examples/lightning_cli.py predict --config examples/predict.yaml."""

from __future__ import annotations

from lightning.pytorch.cli import ArgsType, LightningCLI

from clip_surgery_hub.prediction import ImageDataModule, SurgeryPredictor


def main(arguments: ArgsType = None) -> None:
    """Run what the arguments say, those of the command line if there are none."""
    LightningCLI(SurgeryPredictor, ImageDataModule, args=arguments)


if __name__ == "__main__":
    main()
