"""What the columns of a run's tables are: types for Parquet, and a doc with shape, unit and order for each.

Every column opens in pyarrow, DuckDB, polars and pandas as it is. The docs travel in the metadata of the
fields (``schema.field("scores").metadata[b"doc"]``), the texts in the metadata of the schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from clip_surgery_hub.prediction.runs.run_files import FORMAT

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["OUTPUTS", "SCHEMA_VERSION", "check_outputs", "errors_schema", "images_schema"]

SCHEMA_VERSION = 1

OUTPUTS = ("scores", "presence", "points", "boxes", "labels", "segments", "maps", "embeddings")
"""The columns that can be chosen, in the order that they have in the table."""


def check_outputs(outputs: Iterable[str]) -> None:
    """Refuse a name that is none of :data:`OUTPUTS`.

    Raises:
        ValueError: for any other.
    """
    for name in outputs:
        if name not in OUTPUTS:
            raise ValueError(f"There is no output {name!r}. Choose from {', '.join(OUTPUTS)}.")


def images_schema(
    outputs: Iterable[str], *, texts: Sequence[str], background: Sequence[str] = (), width: int | None = None
) -> pa.Schema:
    """The schema of the table of explained images: key, sizes, and a column per chosen output.

    Args:
        outputs: which of :data:`OUTPUTS`, in any order.
        texts: the T texts; lists of length T are in their order.
        background: the background texts, which only ``segments`` has.
        width: C, the length of an embedding; None where it is not known, lists of any length then.

    Raises:
        ValueError: for an output that there is not, or no texts.
    """
    import pyarrow as pa

    chosen = list(outputs)
    check_outputs(chosen)
    if not texts:
        raise ValueError("A run needs texts, got none; give one or more.")
    number = len(texts)
    point = pa.struct([_whole("x", pa.int32()), _whole("y", pa.int32()), _whole("label", pa.uint8())])
    box = pa.struct([_whole(name, pa.int32()) for name in ("x0", "y0", "x1", "y1")])
    label = pa.struct([_whole("text", pa.string()), _whole("score", pa.float32())])
    segment = pa.struct(
        [
            _whole("text", pa.string()),
            _whole("height", pa.int32()),
            _whole("width", pa.int32()),
            _whole("counts", pa.string()),
        ]
    )
    columns = {
        "scores": (
            _list(pa.float32(), number),
            "[T], one per text: the score for multi-label recognition, CLS after feature surgery",
        ),
        "presence": (
            _list(pa.float32(), number),
            "[T] in [0, 1], one per text: how surely the text is in the image at all",
        ),
        "points": (
            _list(_list(point), number),
            "[T] lists, one per text: points x, y in pixels of the image; label 1 on the text, 0 off it",
        ),
        "boxes": (
            _list(_list(box), number),
            "[T] lists, one per text: boxes x0, y0, x1, y1 in pixels of the image, x1 and y1 exclusive",
        ),
        "labels": (_list(label), "the texts that the image shows, with their scores, the highest first"),
        "segments": (
            _list(segment),
            "one mask per text, then per background text: COCO's compressed run lengths of a mask of "
            "height x width pixels",
        ),
        "maps": (
            _list(pa.float16()),
            "[T, grid_height, grid_width] row by row, float16: patch similarity after feature surgery",
        ),
        "embeddings": (
            _list(pa.float32(), width),
            "[C], unit length: the image embedding, CLS of the original path",
        ),
    }
    described = [
        ("key", pa.string(), "names the image; each once in a run"),
        ("height", pa.int32(), "of the image in pixels"),
        ("width", pa.int32(), "of the image in pixels"),
        ("grid_height", pa.int32(), "of the grid of patches, in patches"),
        ("grid_width", pa.int32(), "of the grid of patches, in patches"),
        *((name, *columns[name]) for name in OUTPUTS if name in chosen),
    ]
    told = {"texts": json.dumps(list(texts)), "background": json.dumps(list(background))}
    return _schema("images", described, told)


def errors_schema() -> pa.Schema:
    """The schema of the table of images that could not be explained: key, kind, message."""
    import pyarrow as pa

    described = [
        ("key", pa.string(), "names the image; each once in a run"),
        ("kind", pa.string(), "what went wrong, in a word that can be counted"),
        ("message", pa.string(), "what went wrong, in one line"),
    ]
    return _schema("errors", described, {})


def _schema(table: str, described: list[tuple[str, pa.DataType, str]], told: dict[str, str]) -> pa.Schema:
    import pyarrow as pa

    fields = [_whole(name, kind).with_metadata({"doc": doc}) for name, kind, doc in described]
    metadata = {"format": FORMAT, "schema_version": str(SCHEMA_VERSION), "table": table}
    return pa.schema(fields, metadata=metadata | told)


def _whole(name: str, kind: pa.DataType) -> pa.Field:
    """A field that is never null."""
    import pyarrow as pa

    return pa.field(name, kind, nullable=False)


def _list(kind: pa.DataType, length: int | None = None) -> pa.DataType:
    import pyarrow as pa

    return pa.list_(_whole("element", kind), -1 if length is None else length)
