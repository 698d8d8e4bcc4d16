"""Rows, as plain dictionaries, become Arrow columns; what does not fit the schema is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


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
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        if pa.types.is_floating(kind.value_type):
            return _numbers(values, kind)
    if any(value is None for value in values):
        raise ValueError("a value is missing")
    return pa.array(values, type=kind)


def _numbers(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Lists of numbers, without a Python object for each of them."""
    import pyarrow as pa

    dtype = kind.value_type.to_pandas_dtype()
    flat = [np.asarray(value, dtype=dtype).ravel() for value in values]
    lengths = [len(one) for one in flat]
    joined = pa.array(np.concatenate(flat) if flat else np.empty(0, dtype), type=kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        if other := set(lengths) - {kind.list_size}:
            raise ValueError(f"{kind.list_size} numbers are expected, got {min(other)}")
        return pa.FixedSizeListArray.from_arrays(joined, type=kind)
    offsets = pa.array(np.cumsum([0, *lengths]), type=pa.int32())
    return pa.ListArray.from_arrays(offsets, joined, type=kind)
