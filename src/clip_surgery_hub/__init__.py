"""Where in this image does CLIP see that? CLIP Surgery for the CLIP models of transformers.

The public names are loaded when they are first asked for, so that ``import clip_surgery_hub`` costs
nothing and the command line can answer ``--help`` without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from clip_surgery_hub import functional as functional
    from clip_surgery_hub.factory import create_model as create_model
    from clip_surgery_hub.hub.entry import Entry as Entry
    from clip_surgery_hub.hub.registry import list_models as list_models
    from clip_surgery_hub.hub.registry import model_info as model_info
    from clip_surgery_hub.hub.registry import register_model as register_model
    from clip_surgery_hub.methods.method import METHODS as METHODS
    from clip_surgery_hub.methods.method import Method as Method
    from clip_surgery_hub.methods.method import get_method as get_method
    from clip_surgery_hub.methods.method import register_method as register_method
    from clip_surgery_hub.model import CLIPSurgery as CLIPSurgery
    from clip_surgery_hub.prediction.runs.reading import read_errors as read_errors
    from clip_surgery_hub.prediction.runs.reading import read_run as read_run
    from clip_surgery_hub.prediction.runs.reading import run_dataset as run_dataset
    from clip_surgery_hub.results.explanation import Explanation as Explanation
    from clip_surgery_hub.results.sentence import SentenceExplanation as SentenceExplanation
    from clip_surgery_hub.text.cache import clear_text_cache as clear_text_cache
    from clip_surgery_hub.transform import apply_surgery as apply_surgery
    from clip_surgery_hub.transform import remove_surgery as remove_surgery
    from clip_surgery_hub.transform import surgery as surgery
    from clip_surgery_hub.transform import surgery_state as surgery_state

# Public name -> the module that defines it.
_HOME = {
    "CLIPSurgery": "model",
    "Entry": "hub.entry",
    "Explanation": "results.explanation",
    "METHODS": "methods.method",
    "Method": "methods.method",
    "SentenceExplanation": "results.sentence",
    "apply_surgery": "transform",
    "clear_text_cache": "text.cache",
    "create_model": "factory",
    "get_method": "methods.method",
    "list_models": "hub.registry",
    "model_info": "hub.registry",
    "read_errors": "prediction.runs.reading",
    "read_run": "prediction.runs.reading",
    "register_method": "methods.method",
    "register_model": "hub.registry",
    "remove_surgery": "transform",
    "run_dataset": "prediction.runs.reading",
    "surgery": "transform",
    "surgery_state": "transform",
}

__all__ = ["__version__", "functional", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name == "functional":
        return import_module("clip_surgery_hub.functional")
    if name not in _HOME:
        raise AttributeError(f"module 'clip_surgery_hub' has no attribute {name!r}")
    value = getattr(import_module(f"clip_surgery_hub.{_HOME[name]}"), name)
    globals()[name] = value  # the next look-up finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
