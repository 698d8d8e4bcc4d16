"""Which checkpoints can be named, what is known of each, and where its files are.

Names are ``architecture.tag`` as in timm: ``clip_vit_base_patch16.openai``. A new checkpoint is one `Entry`:
a row in ``assets/models/checkpoints.json``, or outside of the project an argument of `register_model`. This
package loads neither torch nor transformers.
"""

from clip_surgery_hub.hub.entry import Entry
from clip_surgery_hub.hub.registry import (
    MODELS,
    known_activation,
    list_models,
    model_info,
    origin,
    pinned_revision,
    register_model,
    resolve,
)

__all__ = [
    "MODELS",
    "Entry",
    "known_activation",
    "list_models",
    "model_info",
    "origin",
    "pinned_revision",
    "register_model",
    "resolve",
]
