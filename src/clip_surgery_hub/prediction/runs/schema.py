"""What the columns of a run's tables are: types for Parquet, and a doc with shape, unit and order for each.

Every column opens in pyarrow, DuckDB, polars and pandas as it is. The docs travel in the metadata of the
fields (``schema.field("scores").metadata[b"doc"]``), the texts in the metadata of the schema. Rows, as plain
dictionaries, become Arrow columns; what does not fit the schema is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_surgery_hub.prediction.runs.run_record import FORMAT

if TYPE_CHECKING:
    import pyarrow as pa

_SCHEMA_VERSION = 1

OUTPUTS = ("scores", "presence", "points", "boxes", "labels", "segments", "maps", "embeddings")
"""The columns that can be chosen, in the order that they have in the table."""

_DOCS = {
    "key": "names the image; each once in a run",
    "height": "of the image in pixels",
    "width": "of the image in pixels",
    "grid_height": "of the grid of patches, in patches",
    "grid_width": "of the grid of patches, in patches",
    "scores": "[T], one per text: the score for multi-label recognition, CLS after feature surgery",
    "presence": "[T] in [0, 1], one per text: how surely the text is in the image at all",
    "points": "[T] lists, one per text: points x, y in pixels of the image; label 1 on the text, 0 off it",
    "boxes": "[T] lists, one per text: boxes x0, y0, x1, y1 in pixels of the image, x1 and y1 exclusive",
    "labels": "the texts that the image shows, with their scores, the highest first",
    "segments": "one mask per text, then per background text: COCO's compressed run lengths of a mask of "
    "height x width pixels",
    "maps": "[T, grid_height, grid_width] row by row, float16: patch similarity after feature surgery",
    "embeddings": "[C], unit length: the image embedding, CLS of the original path",
    "kind": "what went wrong, in a word that can be counted",
    "message": "what went wrong, in one line",
}


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
    point = _struct(x=pa.int32(), y=pa.int32(), label=pa.uint8())
    box = _struct(**dict.fromkeys(("x0", "y0", "x1", "y1"), pa.int32()))
    label = _struct(text=pa.string(), score=pa.float32())
    segment = _struct(text=pa.string(), height=pa.int32(), width=pa.int32(), counts=pa.string())
    columns = {
        "scores": _list(pa.float32(), number),
        "presence": _list(pa.float32(), number),
        "points": _list(_list(point), number),
        "boxes": _list(_list(box), number),
        "labels": _list(label),
        "segments": _list(segment),
        "maps": _list(pa.float16()),
        "embeddings": _list(pa.float32(), width),
    }
    kinds = {"key": pa.string(), "height": pa.int32(), "width": pa.int32()}
    kinds |= {"grid_height": pa.int32(), "grid_width": pa.int32()}
    kinds |= {name: columns[name] for name in OUTPUTS if name in chosen}
    told = {"texts": json.dumps(list(texts)), "background": json.dumps(list(background))}
    return _schema("images", kinds, told)


def errors_schema() -> pa.Schema:
    """The schema of the table of images that could not be explained: key, kind, message."""
    import pyarrow as pa

    return _schema("errors", {"key": pa.string(), "kind": pa.string(), "message": pa.string()}, {})


def to_batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as a record batch of the schema.

    Args:
        rows: one dictionary per image with a value for every column. Columns of numbers take lists, arrays
            or CPU tensors of any shape with the right number of values.
        schema: of the table.

    Raises:
        ValueError: for columns that are missing or unknown, or values that do not fit; names the column.
    """
    import pyarrow as pa

    names = set(schema.names)
    for row in rows:
        if row.keys() != names:
            raise ValueError(
                f"A row needs the columns {', '.join(schema.names)}, got {', '.join(map(str, row))}."
            )
    columns = []
    for field in schema:
        try:
            columns.append(_column([row[field.name] for row in rows], field.type))
        except (ValueError, TypeError, pa.ArrowException) as error:
            raise ValueError(f"The column {field.name} takes {field.type}: {error}") from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def utf8(text: str) -> str:
    """The text as every reader can have it: bytes that are no text become backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_string(kind):
        values = [utf8(value) for value in values]
    elif isinstance(kind, pa.ListType | pa.FixedSizeListType) and pa.types.is_floating(kind.value_type):
        # Flat arrays, which pyarrow takes without a Python object for each number.
        dtype = kind.value_type.to_pandas_dtype()
        values = [np.asarray(value, dtype=dtype).ravel() for value in values]
        wanted = getattr(kind, "list_size", None)
        for value in values:
            if wanted not in (None, len(value)):
                raise ValueError(f"{wanted} numbers are expected, got {len(value)}")
    if any(value is None for value in values):
        raise ValueError("a value is missing")
    return pa.array(values, type=kind)


def _schema(table: str, kinds: dict[str, pa.DataType], told: dict[str, str]) -> pa.Schema:
    import pyarrow as pa

    fields = [_whole(name, kind).with_metadata({"doc": _DOCS[name]}) for name, kind in kinds.items()]
    metadata = {"format": FORMAT, "schema_version": str(_SCHEMA_VERSION), "table": table}
    return pa.schema(fields, metadata=metadata | told)


def _whole(name: str, kind: pa.DataType) -> pa.Field:
    """A field that is never null."""
    import pyarrow as pa

    return pa.field(name, kind, nullable=False)


def _struct(**kinds: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return pa.struct([_whole(name, kind) for name, kind in kinds.items()])


def _list(kind: pa.DataType, length: int | None = None) -> pa.DataType:
    import pyarrow as pa

    return pa.list_(_whole("element", kind), -1 if length is None else length)
