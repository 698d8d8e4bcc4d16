"""The card of a saved model: what it is, how it is read, and how both libraries load it."""

from __future__ import annotations

from clip_surgery_hub.checkpoints.checkpoint import Checkpoint
from clip_surgery_hub.checkpoints.saved_surgery import SURGERY_FILE
from clip_surgery_hub.methods import get_method

CARD_FILE = "README.md"
_TAGS = ["clip", "clip-surgery", "explainability", "open-vocabulary-segmentation"]
_BODY = """
# {title}

Where in an image is what a text names? A CLIP whose patch tokens `{method}` reads{over}.

The weights are those of a plain CLIP{of_base}. How they are read is written in `{surgery_file}`.

With [clip_surgery_hub](https://github.com/OWNER/clip_surgery_hub), read as it was saved:

```python
from clip_surgery_hub import CLIPSurgery

clip = CLIPSurgery.from_pretrained("{title}")
clip.explain("photo.jpg", ["bench", "person", "ground"]).plot()
```

With `transformers` alone, a plain CLIP:

```python
from transformers import AutoModel

model = AutoModel.from_pretrained("{title}")
```

| | |
|---|---|
| method | `{method}` |
| depth | {depth} |
| position embeddings | resized by {interpolation} interpolation |

## Citation

The method is that of {reference}.
"""


def model_card(title: str, checkpoint: Checkpoint, *, base_model: str | None, license: str | None) -> str:
    """The text of a ``README.md``, with the metadata that the Hugging Face Hub reads.

    Args:
        title: what `from_pretrained` is given: a hub id, or the name of a folder.
        checkpoint: the model, and how it is read.
        base_model: hub id of the checkpoint it comes from, or None where that is not known.
        license: of the weights, as the hub spells it ("mit"), or None where that is not known.

    Raises:
        ValueError: for a method that is not registered.
    """
    from huggingface_hub import ModelCard, ModelCardData

    surgery, has_text = checkpoint.surgery, hasattr(checkpoint.model, "get_text_features")
    base_model = None if base_model == title else base_model
    about = ModelCardData(
        base_model=base_model,
        license=license,
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification" if has_text else "image-feature-extraction",
        tags=_TAGS,
    )
    blocks = "block" if surgery.depth == 1 else f"{surgery.depth} blocks"
    body = _BODY.format(
        title=title,
        method=surgery.method,
        over="" if surgery.depth is None else f" in its last {blocks}",
        of_base="" if base_model is None else f", [{base_model}](https://huggingface.co/{base_model})",
        surgery_file=SURGERY_FILE,
        depth="no block is modified" if surgery.depth is None else f"the last {blocks}",
        interpolation=surgery.interpolation,
        reference=get_method(surgery.method).reference,
    )
    return str(ModelCard(f"---\n{about.to_yaml()}\n---\n{body}"))
