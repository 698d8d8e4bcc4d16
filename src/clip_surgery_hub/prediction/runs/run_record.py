"""``run.json``, what a run was asked to do, and the names of all else in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from clip_surgery_hub.files.durable import replace_whole
from clip_surgery_hub.files.lock import LOCK, RANKS_LOCK, RunError, stamp

FORMAT = "clip_surgery_hub run"
FORMAT_VERSION = 2

RECORD = "run.json"
TABLES = ("images", "errors")
MANIFEST = "manifest"
UNFINISHED = "unfinished"
RANKS = "ranks"
LOG = "log.jsonl"

FOLDERS = (*TABLES, MANIFEST, UNFINISHED, RANKS)
FILES = (RECORD, LOG, LOCK, RANKS_LOCK)

_ABSENT = object()


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` says.

    Attributes:
        settings: what a run must have in common with the one that it resumes.
        versions: package name -> version, of the installation that began it.
        began: when, ISO 8601 in UTC.
    """

    settings: dict[str, Any]
    versions: dict[str, str]
    began: str

    @classmethod
    def begin(cls, settings: Mapping[str, Any]) -> RunRecord:
        """The record of a run that begins now.

        Args:
            settings: what JSON can hold; ``"versions"`` in it are the versions.

        Raises:
            ValueError: for settings that JSON cannot hold.
        """
        try:
            plain: dict[str, Any] = json.loads(json.dumps(dict(settings), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"The settings of a run must be values that JSON can hold: {error}.") from error
        versions = plain.pop("versions", {})
        return cls(settings=plain, versions=versions, began=stamp(datetime.now(UTC)))


def write_record(run: Path, record: RunRecord) -> None:
    """Write ``run.json``, whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    whole = {"format": FORMAT, "format_version": FORMAT_VERSION, "began": record.began}
    whole |= {"settings": record.settings, "versions": record.versions}
    text = json.dumps(whole, indent=2, ensure_ascii=True) + "\n"
    replace_whole(run / RECORD, text.encode(), part=run / UNFINISHED / RECORD)


def read_record(run: Path) -> RunRecord:
    """What ``run.json`` says.

    Raises:
        RunError: for a folder that is no run, or of another format version.
    """
    try:
        text = (run / RECORD).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        there = "is no run" if run.exists() else "is not there"
        raise RunError(f"{run} {there} ({RECORD} is missing). Name the folder that --out named.") from error
    except OSError as error:
        raise RunError(f"{run / RECORD} cannot be read ({error.strerror}).") from error
    try:
        values = json.loads(text)
        ours, version = values["format"] == FORMAT, values["format_version"]
        record = RunRecord(dict(values["settings"]), dict(values["versions"]), str(values["began"]))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run / RECORD} is no record of a run, or damaged. Choose another folder.") from error
    if not ours:
        raise RunError(f"{run / RECORD} is not of the format {FORMAT!r}. Choose another folder.")
    if version != FORMAT_VERSION:
        raise RunError(
            f"{run} is of format version {version}, this installation reads {FORMAT_VERSION}. "
            "Install the version that began the run, or choose another folder."
        )
    return record


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Every difference of two settings in words: name, old value, new value."""
    found = []
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            found += [f"{name}.{inner}" for inner in differences(before, after)]
        elif isinstance(before, list) and isinstance(after, list):
            found.append(f"{name} was {_lists(before, after)}")
        else:
            found.append(f"{name} was {_short(before)}, is now {_short(after)}")
    return found


def _lists(before: list[Any], after: list[Any]) -> str:
    if max(len(before), len(after)) <= 4:
        return f"{_short(before)}, is now {_short(after)}"
    pairs = enumerate(zip_longest(before, after, fillvalue=_ABSENT))
    place, was, now = next((place, *pair) for place, pair in pairs if pair[0] != pair[1])
    return (
        f"a list of {len(before)}, is now one of {len(after)} (the first difference, number {place}: "
        f"{_short(was)}, now {_short(now)})"
    )


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "not there"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:119]}…"
