"""Loading SAM: weights of the segment-anything package from a file, models of `transformers` from a folder.

Nothing that a file holds is executed: files are read as tensors only, models and processors are made by the
classes that are installed, never by code that came with a checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip_surgery_hub.sam.backends import Sam, SamAndProcessor

__all__ = ["load_sam"]

# What config.json calls a model -> the class of transformers that takes points. The video models hold the
# weights of the image models among their own.
_CLASSES = {
    "sam": "SamModel",
    "sam_hq": "SamHQModel",
    "sam2": "Sam2Model",
    "sam2_video": "Sam2Model",
    "edgetam": "EdgeTamModel",
    "edgetam_video": "EdgeTamModel",
}
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_BUNDLED = Path(__file__).parents[1] / "assets"
# The two numbers that the shapes of segment-anything's weights do not tell; all its kinds have them.
_DECODER_HEADS = 8
_NORM_EPS = 1e-6


def load_sam(
    source: str | Path, *, device: str | torch.device | None = None, revision: str | None = None
) -> Sam:
    """Load a segmentation model that ``masks`` can ask, in float32 and eval mode.

    Args:
        source: a checkpoint file of the segment-anything package (``sam_vit_b_01ec64.pth``; of which kind it
            is, ViT-B, -L, -H or another size, is read from the shapes of its weights); a folder of
            `transformers` that holds SAM, SAM-HQ, SAM 2 or EdgeTAM; the name of a SAM that comes with the
            package; or a hub id ``owner/name`` of such a folder.
        device: where to put it; None: the CPU.
        revision: branch, tag or commit of a hub id.

    Returns:
        For a file a ``segment_anything.SamPredictor``; otherwise the model of `transformers`, with its
        processor as :class:`SamAndProcessor` where the folder has one.

    Raises:
        FileNotFoundError: if there is no such file, folder or name.
        OSError: for a hub id that is not in the cache and cannot be reached.
        ValueError: for files that are damaged, incomplete, or of another model.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _load_segment_anything(path, device)
    if path.is_dir() and str(source):  # an empty name would be the working folder
        return _load_transformers(path, device)
    name = str(source)
    if re.fullmatch(r"[\w.-]+", name) and (_BUNDLED / name / "config.json").is_file():
        return _load_transformers(_BUNDLED / name, device)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and path.suffix not in (".pth", ".pt"):
        return _load_transformers(_from_hub(name, revision), device)
    raise FileNotFoundError(
        f"There is no SAM {name}: no file, folder, SAM of the package, or hub id owner/name. Check the path, "
        "or download a checkpoint: https://github.com/facebookresearch/segment-anything#model-checkpoints."
    )


def _from_hub(name: str, revision: str | None) -> Path:
    """The files of a hub repository in the cache, weights as safetensors only; without a network as it is."""
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:  # ValueError: the hub allows no such name
        raise OSError(
            f"The SAM {name} cannot be loaded: it is not in the cache and the hub has none of that name or "
            "cannot be reached; check the name and the network, or give a file or folder."
        ) from error


def _load_transformers(folder: Path, device: str | torch.device | None) -> Sam:
    import transformers

    settings = _read_config(folder)
    model_type = str(settings.pop("model_type", None))  # the class says it; a video model's would not fit
    if model_type not in _CLASSES:
        raise ValueError(
            f"The folder {folder} holds a model of type {model_type!r}, no SAM that takes points; give one "
            f"of type {', '.join(_CLASSES)}."
        )
    kind: Any = getattr(transformers, _CLASSES[model_type])
    try:
        model, found = kind.from_pretrained(
            folder,
            config=kind.config_class.from_dict(settings),
            dtype=torch.float32,
            local_files_only=True,
            weights_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # of whichever library meets the damage
        raise ValueError(
            f"The {kind.__name__} in {folder} cannot be loaded: its files are damaged, missing or do not "
            f"belong together; copy them again. ({_first_line(error)})"
        ) from error
    if found["missing_keys"]:
        raise ValueError(
            f"The weights in {folder} lack {_some(found['missing_keys'])} of {kind.__name__}, so its masks "
            "would be random; give a complete checkpoint."
        )
    model = model.eval().to(device)
    if not any((folder / file).is_file() for file in _PROCESSOR_FILES):
        return model  # type: ignore[no-any-return]
    try:
        processor: Any = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # likewise
        raise ValueError(
            f"The image processor in {folder} cannot be loaded; copy {' or '.join(_PROCESSOR_FILES)} again. "
            f"({_first_line(error)})"
        ) from error
    return SamAndProcessor(model, processor)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ValueError(
            f"The folder {folder} holds no model of transformers (config.json is not there); give the folder "
            "that save_pretrained wrote, or the .pth file itself."
        ) from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"The file {folder / 'config.json'} is damaged; copy it again.") from error


def _load_segment_anything(path: Path, device: str | torch.device | None) -> Sam:
    from segment_anything import SamPredictor

    weights = _read_weights(path)
    try:
        model = _empty_sam(weights)
    except KeyError as error:
        raise _not_segment_anything(path, f"it lacks {error.args[0]}") from error
    except (IndexError, ValueError, RuntimeError, TypeError, ZeroDivisionError) as error:
        raise _not_segment_anything(path, "its weights have shapes that make no SAM") from error
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if missing := expected.keys() - weights.keys():
        raise _not_segment_anything(path, f"it lacks {_some(missing)}")
    if unknown := weights.keys() - expected.keys():
        raise _not_segment_anything(path, f"it also holds {_some(unknown)}")
    if other := [name for name in expected if weights[name].shape != expected[name]]:
        shapes = f"{list(weights[other[0]].shape)} in place of {list(expected[other[0]])}"
        raise _not_segment_anything(path, f"{other[0]} has shape {shapes}")
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    return SamPredictor(model.eval().to(device))  # type: ignore[no-any-return]


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # the reader raises errors of every kind on damaged files
        # Not its own words: they advise to read the file in a way that executes what it holds.
        raise _not_segment_anything(
            path, "it is damaged, of another kind, or holds more than tensors"
        ) from error
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise _not_segment_anything(path, f"it holds a {type(stored).__name__} of other things than tensors")
    return stored


def _not_segment_anything(path: Path, why: str) -> ValueError:
    return ValueError(
        f"The file {path} is no checkpoint of segment-anything that can be loaded: {why}. Download a vit_b, "
        "vit_l or vit_h again; other models (SAM-HQ, SAM 2, EdgeTAM) are given as folders of transformers."
    )


def _empty_sam(weights: Mapping[str, Tensor]) -> nn.Module:
    """The SAM that weights of these shapes belong to, without memory for weights of its own.

    Raises:
        KeyError: for weights that are missing; others for shapes that make no sense.
    """
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    def shape(name: str) -> torch.Size:
        return weights[name].shape

    def count(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})

    _, grid, _, width = shape("image_encoder.pos_embed")
    patch = shape("image_encoder.patch_embed.proj.weight")[-1]
    depth = count("image_encoder.blocks.")
    # A block that attends over s x s patches has 2s - 1 relative positions: over the grid, or over a window.
    relative = [shape(f"image_encoder.blocks.{block}.attn.rel_pos_h") for block in range(depth)]
    spans = [(length + 1) // 2 for length, _ in relative]
    channels = shape("image_encoder.neck.0.weight")[0]
    with torch.device("meta"):
        image_encoder = ImageEncoderViT(
            img_size=grid * patch,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=width // relative[0][1],
            mlp_ratio=shape("image_encoder.blocks.0.mlp.lin1.weight")[0] / width,
            out_chans=channels,
            norm_layer=partial(nn.LayerNorm, eps=_NORM_EPS),
            use_rel_pos=True,
            window_size=min(spans),
            global_attn_indexes=tuple(block for block, span in enumerate(spans) if span == grid),
        )
        prompt_encoder = PromptEncoder(
            embed_dim=channels,
            image_embedding_size=(grid, grid),
            input_image_size=(grid * patch, grid * patch),
            mask_in_chans=shape("prompt_encoder.mask_downscaling.3.weight")[0],
        )
        mask_decoder = MaskDecoder(
            transformer_dim=channels,
            num_multimask_outputs=shape("mask_decoder.mask_tokens.weight")[0] - 1,
            transformer=TwoWayTransformer(
                depth=count("mask_decoder.transformer.layers."),
                embedding_dim=channels,
                num_heads=_DECODER_HEADS,
                mlp_dim=shape("mask_decoder.transformer.layers.0.mlp.lin1.weight")[0],
            ),
            iou_head_depth=count("mask_decoder.iou_prediction_head.layers."),
            iou_head_hidden_dim=shape("mask_decoder.iou_prediction_head.layers.0.weight")[0],
        )
    return Sam(image_encoder, prompt_encoder, mask_decoder)  # type: ignore[no-any-return]


def _some(names: Any) -> str:
    first, *others = sorted(names)
    return first if not others else f"{first} and {len(others)} more"


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n\n")[0].split())[:200]
