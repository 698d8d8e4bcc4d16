"""``clip-surgery status``: how far a run is, from any shell."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clip_surgery_hub.cli.options import AsJson
from clip_surgery_hub.cli.reporting import errors_in_one_line

if TYPE_CHECKING:
    from clip_surgery_hub.prediction.runs import RunStatus


def status(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", metavar="RUN")],
    as_json: AsJson = False,
) -> None:
    """Say how far a run is: done, failed, left, speed. Works while it runs, and changes nothing."""
    from clip_surgery_hub.prediction.runs import run_status

    with errors_in_one_line():
        found = run_status(run)
    if as_json:
        times = {"began": found.began.isoformat(), "updated": found.updated.isoformat()}
        typer.echo(json.dumps(asdict(found) | times, indent=2))
    else:
        typer.echo(said(found))


def said(found: RunStatus) -> str:
    """The status in lines for people."""
    unknown = "unknown"
    lines = {
        "done": str(found.done),
        "failed": str(found.failed),
        "left": unknown if found.left is None else str(found.left),
        "speed": f"{found.per_second:.1f} images/s",
        "time left": found.time_left or unknown,
        "state": f"running on {found.ranks} ranks" if found.alive else _ended(found),
        "last heard": f"{found.updated:%Y-%m-%d %H:%M:%S} UTC",
    }
    return "\n".join(f"{name:<11}{value}" for name, value in lines.items())


def _ended(found: RunStatus) -> str:
    return "finished" if found.left == 0 else "not running; start the same command again to resume"
