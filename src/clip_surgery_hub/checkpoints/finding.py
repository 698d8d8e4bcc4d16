"""The files of a checkpoint, in a folder or on the hub, and those of them that the cache holds."""

from __future__ import annotations

from pathlib import Path

_ADVICE = (
    "check the name and the network, or give a folder; list_models() and `clip-surgery models` tell what can "
    "be named"
)


def find_file(source: str, name: str, revision: str | None) -> Path | None:
    """A file of the checkpoint, or None where there is none (or none in the cache, without a network).

    Raises:
        ValueError: where something else has the name: a folder, a pipe, a link to nothing or to itself.
        OSError: where the hub refuses, or has no checkpoint of this name.
    """
    if Path(source).is_dir():
        path = Path(source) / name
        if path.is_file():
            return path
        if path.is_symlink() or path.exists():
            what = "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else "no file"
            raise ValueError(f"{path} is {what}, where the checkpoint must have a file; copy it again.")
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(source, name, revision=revision))
    except EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"the model {source} cannot be loaded: {_ADVICE}. ({one_line(error)})") from error


def one_line(error: Exception) -> str:
    """What an error says, without its line breaks."""
    return " ".join(str(error).split())


def reachable(source: str, revision: str | None) -> str:
    """`source`, or the folder in the cache that stands for a hub id when the hub does not answer.

    Raises:
        OSError: for a hub id that is not in the cache, without an answer of the hub.
    """
    if Path(source).is_dir() or _answers(source, revision):
        return source
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(source, revision=revision, local_files_only=True))
    except OSError as error:
        raise OSError(
            f"the model {source} cannot be loaded: it is not in the cache and the hub cannot be reached; "
            f"{_ADVICE}."
        ) from error


def _answers(source: str, revision: str | None) -> bool:
    """Whether the hub can be asked; else its client would knock for every file, half a minute at each."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(source, "config.json", revision=revision))
    except HfHubHTTPError:  # an answer, if a refusal: transformers tells what it means
        return True
    except Exception:  # of whichever network library the client uses, or of its offline mode
        return False
    return True
