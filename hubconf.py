"""Entry points for torch.hub: ``torch.hub.load("OWNER/clip_surgery_hub", "clip_surgery_vit_b16")``.

Nothing needs to be installed but the dependencies below. Whose package answers:

- None is imported yet: the one in ``src`` of the folder that this file is in, whatever else is installed.
- One is imported already: that one, if it is the same or of the same version, since the classes of two would
  not know each other; one of another version is refused.

``sys.path`` stays as it is. A name that begins with an underscore is no entry point to torch.hub.
"""

import importlib.util as _importlib_util
import re as _re
import sys as _sys
from pathlib import Path as _Path
from types import ModuleType as _ModuleType
from typing import Any as _Any

# The modules without which nothing can be loaded and explained.
dependencies = ["torch", "numpy", "PIL", "huggingface_hub", "safetensors", "transformers", "timm"]

_NAME = "clip_surgery_hub"
_FOLDER = _Path(__file__).resolve().parent / "src" / _NAME


def _package() -> _ModuleType:
    """The package, by the rule above.

    Raises:
        RuntimeError: another version of it is imported already.
    """
    imported = _sys.modules.get(_NAME)
    if imported is None:
        return _import_from_folder()
    [version] = _re.findall(r'^__version__ = "(.+)"$', (_FOLDER / "__init__.py").read_text(), _re.MULTILINE)
    if imported.__version__ != version:
        home = _Path(imported.__file__ or "").parent
        raise RuntimeError(
            f"{_NAME} {imported.__version__} of {home} is imported already, and torch.hub would load "
            f"{version} of {_FOLDER}; call torch.hub.load before that import, or use what is imported: "
            "clip_surgery_hub.create_model(...)."
        )
    return imported


def _import_from_folder() -> _ModuleType:
    """Import the package of this folder under its name, without a trace when that fails."""
    spec = _importlib_util.spec_from_file_location(
        _NAME, _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
    )
    assert spec and spec.loader
    package = _importlib_util.module_from_spec(spec)
    _sys.modules[_NAME] = package
    try:
        spec.loader.exec_module(package)
    except BaseException:
        del _sys.modules[_NAME]
        raise
    return package


def clip_surgery(name: str, **options: _Any) -> _Any:
    """Any CLIP whose patches can be read: a registered name, a hub id, or a folder.

    Args:
        name: a registered name such as "clip_vit_base_patch16.openai" (`clip_surgery_hub.list_models()` gives
            all), a hub id "owner/name" of the Hugging Face Hub, or a folder with a checkpoint.
        **options: all by name.
            pretrained: False gives random weights, without network for registered names. Default: True.
            method: how the vision tower is read: "clip_surgery", "gem", "maskclip", "sclip", "clearclip",
                "naclip", or "none" for raw CLIP. Default: as the checkpoint was saved, else "clip_surgery".
            depth: how many of the last blocks are modified. Default: the method's own.
            device: Default: a GPU where there is one, else "cpu".
            dtype: of the weights. Default: torch.float32.
            revision: branch, tag or commit of a hub id.

    Returns:
        A `clip_surgery_hub.CLIPSurgery`: ``clip.explain("photo.jpg", ["bench", "person"])`` gives heatmaps,
        points, segments and scores; ``clip.encode_image`` and ``clip.encode_text`` give embeddings.
    """
    return _package().create_model(name, **options)


def clip_surgery_tiny(**options: _Any) -> _Any:
    """The bundled small CLIP of synthetic scenes, which needs no network: `clip_vit_tiny.scenes`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("clip_vit_tiny.scenes", **options)


def clip_surgery_vit_b32(**options: _Any) -> _Any:
    """OpenAI's CLIP, ViT-B/32 at 224 px: `clip_vit_base_patch32.openai`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("clip_vit_base_patch32.openai", **options)


def clip_surgery_vit_b16(**options: _Any) -> _Any:
    """OpenAI's CLIP, ViT-B/16 at 224 px, the one of the paper: `clip_vit_base_patch16.openai`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("clip_vit_base_patch16.openai", **options)


def clip_surgery_vit_l14(**options: _Any) -> _Any:
    """OpenAI's CLIP, ViT-L/14 at 224 px: `clip_vit_large_patch14.openai`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("clip_vit_large_patch14.openai", **options)


def clip_surgery_vit_l14_336(**options: _Any) -> _Any:
    """OpenAI's CLIP, ViT-L/14 at 336 px: `clip_vit_large_patch14_336.openai`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("clip_vit_large_patch14_336.openai", **options)


def clip_surgery_rn50(**options: _Any) -> _Any:
    """OpenAI's CLIP, ResNet-50 at 224 px: `clip_resnet50.openai`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("clip_resnet50.openai", **options)


def clip_surgery_vit_b16_laion2b(**options: _Any) -> _Any:
    """OpenCLIP's ViT-B/16 at 224 px, trained on LAION-2B: `clip_vit_base_patch16.laion2b_s34b`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("clip_vit_base_patch16.laion2b_s34b", **options)


def clip_surgery_vit_h14_laion2b(**options: _Any) -> _Any:
    """OpenCLIP's ViT-H/14 at 224 px, trained on LAION-2B: `clip_vit_huge_patch14.laion2b_s32b`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("clip_vit_huge_patch14.laion2b_s32b", **options)


def clip_surgery_vit_l14_datacomp(**options: _Any) -> _Any:
    """OpenCLIP's ViT-L/14 at 224 px, trained on DataComp-1B: `clip_vit_large_patch14.datacomp_xl_s13b`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("clip_vit_large_patch14.datacomp_xl_s13b", **options)


def clip_surgery_vit_h14_dfn5b(**options: _Any) -> _Any:
    """Apple's DFN, ViT-H/14 at 224 px: `clip_vit_huge_patch14.dfn5b`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("clip_vit_huge_patch14.dfn5b", **options)


def clip_surgery_vit_l14_metaclip(**options: _Any) -> _Any:
    """Meta's MetaCLIP, ViT-L/14 at 224 px: `clip_vit_large_patch14.metaclip_fullcc`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("clip_vit_large_patch14.metaclip_fullcc", **options)


def clip_surgery_vit_h14_metaclip2(**options: _Any) -> _Any:
    """Meta's MetaCLIP 2, ViT-H/14 at 224 px, texts of many languages: `metaclip2_vit_huge_patch14.worldwide`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("metaclip2_vit_huge_patch14.worldwide", **options)


def clip_surgery_eva02_b16(**options: _Any) -> _Any:
    """EVA-02-CLIP, ViT-B/16 at 224 px: `eva02_clip_base_patch16.merged2b_s8b`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("eva02_clip_base_patch16.merged2b_s8b", **options)


def clip_surgery_eva02_l14_336(**options: _Any) -> _Any:
    """EVA-02-CLIP, ViT-L/14 at 336 px: `eva02_clip_large_patch14_336.merged2b_s6b`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("eva02_clip_large_patch14_336.merged2b_s6b", **options)


def clip_surgery_siglip_b16(**options: _Any) -> _Any:
    """Google's SigLIP, ViT-B/16 at 224 px: `siglip_vit_base_patch16_224.webli`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("siglip_vit_base_patch16_224.webli", **options)


def clip_surgery_siglip2_b16(**options: _Any) -> _Any:
    """Google's SigLIP 2, ViT-B/16 at 224 px: `siglip2_vit_base_patch16_224.webli`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("siglip2_vit_base_patch16_224.webli", **options)


def clip_surgery_siglip2_so400m_384(**options: _Any) -> _Any:
    """Google's SigLIP 2, So400m/14 at 384 px: `siglip2_vit_so400m_patch14_384.webli`.

    Args:
        **options: those of `clip_surgery`.
    """
    return clip_surgery("siglip2_vit_so400m_patch14_384.webli", **options)
