"""A model and its surgery into a folder or a repository, which plain `transformers` loads as a plain CLIP.

Beside the weights, the configuration and the tokenizer, as `transformers` writes them, lie the file of the
image processor, ``clip_surgery.json`` with the surgery, ``concepts.json`` where the model knows few words,
and a ``README.md``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from clip_surgery_hub.checkpoints.checkpoint import SIDECAR_FILES, Checkpoint
from clip_surgery_hub.checkpoints.finding import one_line
from clip_surgery_hub.checkpoints.model_card import CARD_FILE, model_card
from clip_surgery_hub.checkpoints.saved_surgery import SURGERY_FILE
from clip_surgery_hub.files.folders import whole_folder
from clip_surgery_hub.towers import find_tower

# What a loader may read of a model: a file left from an earlier one would be taken for a part of this one.
_MODEL_FILES = (
    SURGERY_FILE,
    *SIDECAR_FILES,
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    "adapter_config.json",
    "adapter_model.bin",
    "open_clip_*",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
)


def save(
    checkpoint: Checkpoint, folder: str | Path, *, name: str, base_model: str | None, license: str | None
) -> None:
    """Write a model into a folder, all or nothing; see :meth:`CLIPSurgery.save_pretrained`.

    Args:
        checkpoint: what `load_checkpoint` gives of the folder afterwards.
        folder: new, empty, or with nothing in it but an earlier saved model.
        name: what messages call the model.
        base_model: hub id of the checkpoint it comes from, or None where that is not known.
        license: of the weights, as the hub spells it, or None where that is not known.
    """
    _check_can_be_saved(checkpoint, name)
    folder = Path(folder)
    card = model_card(folder.resolve().name, checkpoint, base_model=base_model, license=license)
    with whole_folder(folder, replaceable=_holds_only_a_model) as temporary:
        _write(checkpoint, temporary)
        earlier = folder / CARD_FILE
        (temporary / CARD_FILE).write_bytes(earlier.read_bytes() if earlier.is_file() else card.encode())


def push(
    checkpoint: Checkpoint,
    repo_id: str,
    *,
    name: str,
    base_model: str | None,
    license: str | None,
    revision: str | None,
    private: bool | None,
    token: str | None,
    commit_message: str,
) -> str:
    """Write a model into a repository, in one commit; see :meth:`CLIPSurgery.push_to_hub` and `save`."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    _check_can_be_saved(checkpoint, name)
    if repo_id.count("/") != 1:
        raise ValueError(f"a repository is named 'owner/name', got {repo_id!r}.")
    card = model_card(repo_id, checkpoint, base_model=base_model, license=license)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as parent, _refusals_in_one_line(repo_id):
        # First of all, so that nothing large is written or sent where it would be refused.
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        there = api.model_info(repo_id, revision=revision)
        earlier = {file.rfilename for file in there.siblings or ()}
        folder = Path(parent)
        _write(checkpoint, folder)
        if CARD_FILE not in earlier:
            (folder / CARD_FILE).write_text(card, encoding="utf-8")
        files = {path.name: path for path in sorted(folder.iterdir())}
        left_over = sorted(name for name in earlier - set(files) if _is_of_a_model(name))
        # Not upload_folder, which makes several commits of a large upload.
        commit = api.create_commit(
            repo_id,
            [
                *(CommitOperationDelete(name, is_folder=False) for name in left_over),
                *(CommitOperationAdd(name, str(path)) for name, path in files.items()),
            ],
            commit_message=commit_message,
            revision=revision,
            parent_commit=there.sha,
        )
    return str(commit.oid)


def _check_can_be_saved(checkpoint: Checkpoint, name: str) -> None:
    """Refuse what `transformers` could not load again.

    Raises:
        TypeError: the model or the tokenizer is not one of `transformers`.
        ValueError: the model has adapters of `peft` in it.
    """
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"{type(model).__name__} is not a model of transformers, and no other can be saved; "
            "take it out of its wrapper, or keep its weights with torch.save(clip.model.state_dict(), file)."
        )
    if getattr(model, "peft_config", None):
        raise ValueError(
            f"{name} has adapters of peft in it, of which transformers would save nothing else; "
            "merge them into the model first (merge_and_unload of peft.PeftModel)."
        )
    if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(
            f"{type(tokenizer).__name__} is not a tokenizer of transformers, and no other can be saved; "
            "give the CLIPSurgery one of transformers, or none."
        )


def _write(checkpoint: Checkpoint, folder: Path) -> None:
    """All files but the card."""
    checkpoint.model.save_pretrained(folder)  # type: ignore[operator]
    if checkpoint.tokenizer is not None:
        checkpoint.tokenizer.save_pretrained(folder)
    for name, content in (_made_sidecar_files(checkpoint) | dict(checkpoint.sidecar_files)).items():
        (folder / name).write_bytes(content)
    (folder / SURGERY_FILE).write_text(checkpoint.surgery.to_json(), encoding="utf-8")


def _made_sidecar_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """What is known of images and words, as files, where the checkpoint came without these."""
    values = {}
    normalization = checkpoint.normalization
    if normalization is not None and "processor_config.json" not in checkpoint.sidecar_files:
        side = find_tower(checkpoint.model).native_size
        values["preprocessor_config.json"] = {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": side},
            "resample": int(normalization.resample),
            "do_center_crop": True,
            "crop_size": {"height": side, "width": side},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(normalization.mean),
            "image_std": list(normalization.std),
        }
    if checkpoint.known_words is not None:
        values["concepts.json"] = {"words": sorted(checkpoint.known_words)}
    return {name: (json.dumps(value, indent=2) + "\n").encode() for name, value in values.items()}


def _is_of_a_model(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _MODEL_FILES) and "/" not in name


def _holds_only_a_model(folder: Path) -> bool:
    """Whether nothing but a saved model, and a card that is kept, would be lost by replacing the folder."""
    names = {path.name for path in folder.iterdir()}
    return SURGERY_FILE in names and all(name == CARD_FILE or _is_of_a_model(name) for name in names)


@contextmanager
def _refusals_in_one_line(repo_id: str) -> Iterator[None]:
    """Say in one line, an OSError, what the hub, or the way to it, did not allow, and what to do."""
    try:
        yield
    except Exception as error:  # of whichever network library the client of the hub uses
        raise OSError(f"the push to {repo_id} failed: {_advice(error)} ({one_line(error)})") from error


def _advice(error: BaseException) -> str:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "huggingface_hub is in offline mode; unset HF_HUB_OFFLINE."
    while not isinstance(error, HfHubHTTPError) and error.__cause__ is not None:
        error = error.__cause__
    advice = {
        401: "the hub does not know who is pushing; log in with `hf auth login`, or give token=.",
        403: "you may not write there; take a token with write permission, or a repository of your own.",
        404: "there is no such repository or branch, or you may not see it; check the name and the token.",
        412: "somebody else pushed at the same time; push again.",
    }
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    return advice.get(status or 0, "check the network and the message, and push again.")
