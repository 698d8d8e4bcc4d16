"""Names in the folder of a run: what is where, and what a start, a shard and a moment are called."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

from clip_surgery_hub.files.lock import LOCK, RANKS_LOCK

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

_SESSION = r"\d{8}T\d{6}-[0-9a-f]{8}"
_SHARD = re.compile(rf"({_SESSION})-(\d{{5}})-\d{{6}}\.parquet")
_MANIFEST = re.compile(rf"({_SESSION})-(\d{{5}})\.jsonl")


def new_session() -> str:
    """A name for one start of a run that no other start has; later starts sort behind earlier ones."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


def shard_name(session: str, rank: int, number: int) -> str:
    """The file name of a rank's shard; number counts the shards of this rank and start."""
    return f"{session}-{rank:05d}-{number:06d}.parquet"


def manifest_name(session: str, rank: int) -> str:
    """The file name of the manifest that one rank of one start appends to."""
    return f"{session}-{rank:05d}.jsonl"


def shard_origin(name: str) -> tuple[str, int] | None:
    """Session and rank that wrote a shard, from its file name; None for a name that no run gives."""
    return _origin(_SHARD.fullmatch(name))


def manifest_origin(name: str) -> tuple[str, int] | None:
    """Session and rank that a manifest belongs to, from its file name; None for a name that no run gives."""
    return _origin(_MANIFEST.fullmatch(name))


def _origin(match: re.Match[str] | None) -> tuple[str, int] | None:
    return None if match is None else (match[1], int(match[2]))
