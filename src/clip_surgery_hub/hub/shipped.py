"""The checkpoints that this package knows, read from ``assets/models``.

``architectures.json`` has the figures and the configuration of each architecture, ``checkpoints.json`` a row
for each checkpoint. The activation is the row's and becomes part of its configuration, since weights of one
architecture were trained with either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clip_surgery_hub.hub.entry import OPENAI_MEAN, OPENAI_STD, Entry

_ASSETS = Path(__file__).parents[1] / "assets"

# How images are normalized, by the data set whose statistics were taken: mean and standard deviation.
_NORMALIZATIONS = {"openai": (OPENAI_MEAN, OPENAI_STD), "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}

# transformers' text towers of CLIP's kind have the activation of the vision tower; the others have BERT's.
_ONE_ACTIVATION = ("clip", "metaclip_2", "siglip")


def shipped_entries() -> Iterator[Entry]:
    """The bundled checkpoint, then those of the rows."""
    yield Entry(
        name="clip_vit_tiny.scenes",
        source=str(_ASSETS / "clip_vit_tiny.scenes"),
        about="synthetic scenes; comes with the package and needs no network",
        family="clip",
        native_size=80,
        patch=8,
        width=128,
        embedding_width=128,
        activation="quick_gelu",
        license="apache-2.0",
        reference="its config.json",
        short="vit_t8",
    )
    architectures = json.loads((_ASSETS / "models" / "architectures.json").read_text())
    for row in json.loads((_ASSETS / "models" / "checkpoints.json").read_text()):
        yield _entry(row, architectures[row["name"].partition(".")[0]])


def _entry(row: Mapping[str, Any], architecture: Mapping[str, Any]) -> Entry:
    mean, std = _NORMALIZATIONS[row.get("normalization", "openai")]
    told = {key: value for key, value in row.items() if key != "normalization"}
    figures = {key: value for key, value in architecture.items() if key != "config"}
    return Entry(
        **told,
        **figures,
        config=_with_activation(architecture["config"], row["activation"]),
        mean=mean,
        std=std,
    )


def _with_activation(config: Mapping[str, Any], activation: str) -> Mapping[str, Any]:
    if "vision_cfg" in config:
        return MappingProxyType({**config, "quick_gelu": activation == "quick_gelu"})
    towers = ["vision_config", *(["text_config"] if config["model_type"] in _ONE_ACTIVATION else [])]
    return MappingProxyType(
        {**config, **{tower: {**config[tower], "hidden_act": activation} for tower in towers}}
    )
