"""The registered checkpoints by name: list them, look them up, add to them."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from clip_surgery_hub.hub.entry import Entry
from clip_surgery_hub.hub.shipped import shipped_entries

_ENTRIES: dict[str, Entry] = {entry.name: entry for entry in shipped_entries()}

MODELS: Mapping[str, Entry] = MappingProxyType(_ENTRIES)
"""The registered entries by name, read-only; `register_model` adds to it."""


def register_model(entry: Entry) -> None:
    """Make a checkpoint available by name.

    Raises:
        ValueError: an entry of that name is registered already.
    """
    if entry.name in _ENTRIES:
        taken = _ENTRIES[entry.name].source or "an architecture without weights"
        raise ValueError(
            f"the name {entry.name!r} is taken by {taken!r}; choose another tag, such as '{entry.name}-2'"
        )
    _ENTRIES[entry.name] = entry


def list_models(filter: str = "", *, pretrained: bool | None = None) -> list[str]:
    """Names of the registered models, sorted.

    Args:
        filter: a glob pattern such as ``"*patch16*"`` or ``"*.openai"``; a bare architecture gives all its
            tags. Architectures are known by their short names too (`Entry.short`): ``"*b16*"`` gives every
            ViT-B/16, whatever it is called in full. Empty: every name.
        pretrained: True: only those that have weights somewhere; False or None: all, as in timm.
    """
    patterns = (filter or "*", f"{filter}.*")
    return sorted(
        entry.name
        for entry in _ENTRIES.values()
        if (entry.source or not pretrained)
        and any(fnmatch.fnmatchcase(name, pattern) for name in entry.names for pattern in patterns)
    )


def model_info(name: str) -> Entry:
    """What is known of a registered model: sizes, license, methods, where it comes from.

    Raises:
        ValueError: no model of that name is registered; near names are suggested.
    """
    if name not in _ENTRIES:
        raise ValueError(f"no model is called {name!r}; {_advice(name)}")
    return _ENTRIES[name]


def resolve(name: str) -> str:
    """Where the files of a model are: a folder or a file on this machine, or a hub id.

    Args:
        name: a registered name, an existing folder, an existing file of OpenAI's (``*.pt``), or a hub id
            ``owner/name``.

    Raises:
        ValueError: none of these (near names are suggested), or an architecture without weights.
    """
    if name in _ENTRIES:
        source = _ENTRIES[name].source
        if not source:
            raise ValueError(
                f"{name} is an architecture without weights: create_model({name!r}, pretrained=False) draws "
                "some at random"
            )
        return source
    if name and Path(name).expanduser().exists():
        return str(Path(name).expanduser())
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return name
    raise ValueError(
        f"no model is called {name!r}, and no folder; {_advice(name)} (a hub id is 'owner/name')"
    )


def pinned_revision(name: str) -> str | None:
    """The commit that a registered name stands for; None: the newest, and for everything else."""
    return _ENTRIES[name].revision if name in _ENTRIES else None


def origin(name: str) -> tuple[str | None, str | None]:
    """Where weights come from, by the name they were loaded by: a hub id, and their license.

    Each is None where it is not known. A folder of this machine is nobody else's business, and no origin.
    """
    entry = _ENTRIES.get(name)
    source = name if entry is None else entry.source or ""
    is_hub_id = source.count("/") == 1 and not Path(source).exists()
    return source if is_hub_id else None, (entry.license or None) if entry else None


def known_activation(source: str) -> str | None:
    """The activation that the weights at a source were trained with, where an entry says so."""
    return next((entry.activation or None for entry in _ENTRIES.values() if entry.source == source), None)


def _advice(name: str) -> str:
    """At most three near names, in full, for a name or a short name that is not quite right."""
    meant = {spelling: entry.name for entry in _ENTRIES.values() for spelling in entry.names}
    close = difflib.get_close_matches(name, meant, n=3, cutoff=0.6)
    near = list(dict.fromkeys(meant[spelling] for spelling in close))
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return "list_models() and `clip-surgery models` give the known names"
