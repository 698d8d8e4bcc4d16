"""Tables of a run: their schema, shards, digests of keys, and files that other programs open as they are."""

import json
import pickle
from hashlib import sha256

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
from pyarrow import parquet

from clip_surgery_hub import read_errors, read_run, run_dataset
from clip_surgery_hub.prediction.runs import (
    OUTPUTS,
    Counts,
    KeySet,
    RunError,
    RunFolder,
    ShardSink,
    errors_schema,
    images_schema,
    read_settings,
    shards,
    verify_run,
)
from tests.support.run_rows import (
    BACKGROUND,
    PLAIN,
    SCHEMA,
    SETTINGS,
    TEXTS,
    error_row,
    files_of,
    plain_row,
    row,
    write_run,
)


def plain(values):
    """A row with plain lists in place of arrays and tuples, however the program that read it nests them."""
    if isinstance(values, dict):
        return {name: plain(value) for name, value in values.items()}
    if isinstance(values, np.ndarray):
        values = values.tolist()
    return [plain(value) for value in values] if isinstance(values, list | tuple) else values


def keys_of(table):
    return table["key"].to_pylist()


@pytest.fixture
def sink(tmp_path):
    """A sink of five rows per shard in a run of its own; seconds pass when ``sink.time`` is set."""

    class Clocked(ShardSink):
        time = 0.0

    with RunFolder.open(tmp_path / "RUN", SETTINGS) as run:
        made = Clocked(run, 0, PLAIN, shard_rows=5, clock=lambda: made.time)
        made.run = run.path
        yield made


# The schema


def test_every_column_says_what_it_holds():
    for schema in (SCHEMA, errors_schema()):
        assert all(field.metadata[b"doc"] for field in schema)
        assert not any(field.nullable for field in schema)
        assert schema.metadata[b"schema_version"] == b"1"
    assert SCHEMA.names == ["key", "height", "width", "grid_height", "grid_width", *OUTPUTS]
    assert json.loads(SCHEMA.metadata[b"texts"]) == list(TEXTS)
    assert json.loads(SCHEMA.metadata[b"background"]) == list(BACKGROUND)


def test_lists_per_text_have_the_length_of_the_texts():
    sizes = {name: getattr(SCHEMA.field(name).type, "list_size", None) for name in OUTPUTS}
    assert sizes == dict.fromkeys(OUTPUTS) | {
        "scores": 2,
        "presence": 2,
        "points": 2,
        "boxes": 2,
        "embeddings": 3,
    }
    assert images_schema(["embeddings"], texts=TEXTS).field("embeddings").type == pa.list_(
        pa.field("element", pa.float32(), nullable=False)
    )


def test_outputs_keep_the_order_of_the_table():
    assert images_schema(["maps", "scores"], texts=TEXTS).names[5:] == ["scores", "maps"]


def test_unknown_outputs_and_no_texts_are_refused():
    with pytest.raises(ValueError, match=r"no output 'heat'\. Choose from scores, presence"):
        images_schema(["scores", "heat"], texts=TEXTS)
    with pytest.raises(ValueError, match="needs texts, got none"):
        images_schema(["scores"], texts=[])


# What is written can be read, here and elsewhere


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run of 25 images in three shards, and the rows that were given."""
    keys = [f"bild {number} ä.jpg" for number in range(25)]
    run = write_run(tmp_path_factory.mktemp("runs") / "RUN", keys, errors=["cut off.jpg"])
    rows = [plain(row(key, number)) for number, key in enumerate(keys)]
    for one in rows:
        one["maps"] = np.ravel(one["maps"]).tolist()
    return run, rows


def test_a_run_gives_back_what_was_written(written):
    run, rows = written
    assert read_run(run).to_pylist() == rows
    assert read_run(run).schema.equals(SCHEMA, check_metadata=True)
    assert read_errors(run).to_pylist() == [error_row("cut off.jpg")]
    assert read_settings(run) == SETTINGS | {"versions": {}}
    assert verify_run(run) == 4


def test_columns_are_chosen_and_rows_are_filtered_lazily(written):
    run, rows = written
    chosen = read_run(run, columns=["scores", "width"])
    assert chosen.column_names == ["scores", "width"] and chosen.num_rows == 25
    assert read_run(run, columns=[]).num_columns == 0
    with pytest.raises(ValueError, match=r"no column 'score'\. Choose from key, height"):
        read_run(run, columns=["score"])
    found = run_dataset(run).to_table(filter=pa.compute.field("key") == "bild 7 ä.jpg")
    assert found.to_pylist() == [rows[7]]


def test_folders_of_tables_hold_nothing_but_parquet(written):
    run, _ = written
    for table, shards_there in (("images", 3), ("errors", 1)):
        files = list((run / table).iterdir())
        assert len(files) == shards_there and all(file.suffix == ".parquet" for file in files)


def test_pyarrow_opens_the_images_directly(written):
    run, rows = written
    assert parquet.read_table(run / "images").to_pylist() == rows


def test_duckdb_opens_the_images_directly(written):
    run, rows = written
    table = duckdb.sql(f"SELECT * FROM '{run}/images/*.parquet'")
    assert [plain(dict(zip(table.columns, one, strict=True))) for one in table.fetchall()] == rows
    assert duckdb.sql(f"SELECT count(*) FROM '{run}/errors/*.parquet'").fetchall() == [(1,)]
    best = duckdb.sql(f"SELECT key FROM '{run}/images/*.parquet' ORDER BY scores[2] DESC LIMIT 1")
    assert best.fetchall() == [("bild 24 ä.jpg",)]


def test_polars_opens_the_images_directly(written):
    run, rows = written
    table = polars.read_parquet(f"{run}/images/*.parquet")
    assert [plain(one) for one in table.to_dicts()] == rows
    lazily = polars.scan_parquet(f"{run}/images/*.parquet").select(polars.col("height").sum()).collect()
    assert lazily.item() == 25 * 40
    assert polars.read_parquet(f"{run}/errors/*.parquet").to_dicts() == [error_row("cut off.jpg")]


def test_pandas_opens_the_images_directly(written):
    run, rows = written
    frame = pandas.read_parquet(run / "images")
    assert [plain(one) for one in frame.to_dict("records")] == rows
    assert pandas.read_parquet(run / "errors")["kind"].tolist() == ["damaged"]


def test_a_run_without_images_has_the_columns_that_its_settings_name(tmp_path):
    run = write_run(tmp_path / "RUN", [])
    assert read_run(run).num_rows == 0 and read_errors(run).num_rows == 0
    assert read_run(run).schema.equals(SCHEMA, check_metadata=True)
    assert read_errors(run).schema.equals(errors_schema())


def test_a_key_that_is_there_twice_is_told(tmp_path):
    run = write_run(tmp_path / "RUN", ["a", "b", "a"])
    with pytest.raises(RunError, match="1 keys are in .* more than once, 'a' first"):
        read_run(run, columns=["scores"])


@pytest.mark.parametrize("read", [read_run, run_dataset, read_errors, read_settings, verify_run])
def test_a_folder_that_is_no_run_is_refused_in_one_line(read, tmp_path):
    for folder, what in ((tmp_path, "is no run"), (tmp_path / "none", "is not there")):
        with pytest.raises(RunError, match=what) as refused:
            read(folder)
        assert "\n" not in str(refused.value) and str(folder) in str(refused.value)


def test_only_recorded_shards_are_read(written, tmp_path):
    run, rows = written
    stray = run / "images" / "20200101T000000-00000000-00000-000000.parquet"
    parquet.write_table(pa.Table.from_batches([], schema=SCHEMA), stray)
    try:
        assert read_run(run).to_pylist() == rows
    finally:
        stray.unlink()


def test_damage_is_found_by_the_digests(tmp_path):
    run = write_run(tmp_path / "RUN", "abcdefghijklmnopqrst")
    assert verify_run(run) == 2
    shard = sorted((run / "images").iterdir())[1]
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(RunError, match=rf"1 of 2 shards of .*: images/{shard.name}"):
        verify_run(run)
    shard.unlink()
    with pytest.raises(RunError, match=rf"1 of 2 shards of .*: images/{shard.name}"):
        verify_run(run)
    with pytest.warns(UserWarning, match=rf"1 recorded shards of .*, images/{shard.name} first"):
        assert keys_of(read_run(run)) == list("abcdefghij")


# Rows that do not fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [1.0]}, r"column scores takes .*: 2 numbers are expected, got 1"),
        ({"scores": [1.0, 2.0, 3.0]}, r"column scores .* got 3"),
        ({"points": [[]]}, "column points"),
        ({"height": None}, "column height .* a value is missing"),
        ({"height": "tall"}, "column height"),
        ({"labels": None}, "column labels"),
        ({"maps": ["warm"]}, "column maps"),
        ({"extra": 1}, r"needs the columns key, height, .* got key, .*extra"),
    ],
)
def test_rows_that_do_not_fit_are_refused_before_any_is_taken(change, message, tmp_path):
    with RunFolder.open(tmp_path / "RUN", SETTINGS) as run:
        sink = ShardSink(run, 0, SCHEMA, shard_rows=1)
        with pytest.raises(ValueError, match=message):
            sink.add("images", [row("a"), row("b") | change])
        assert sink.added == Counts() and not list((run.path / "images").iterdir())
        with pytest.raises(ValueError, match="no table 'image'"):
            sink.add("image", [])


def test_names_that_are_no_text_are_kept_readable(tmp_path):
    run = write_run(tmp_path / "RUN", ["caf\udce9.jpg"], errors=["\udcff"])
    assert keys_of(read_run(run)) == ["caf\\udce9.jpg"]
    assert keys_of(read_errors(run)) == ["\\udcff"]
    with RunFolder.open(run, SETTINGS) as again:
        assert "caf\udce9.jpg" in again.recorded_keys()


# Shards


def rows(*keys):
    return [plain_row(key) for key in keys]


def test_shards_are_split_at_their_rows(sink):
    sink.add("images", rows(*"abc"))
    assert (sink.rows_open, sink.recorded) == (3, Counts(0, 0))
    sink.add("images", rows(*"defghijklm"))
    assert (sink.rows_open, sink.recorded, sink.added) == (3, Counts(10, 0), Counts(13, 0))
    sizes = [parquet.read_metadata(path).num_rows for path in sorted((sink.run / "images").iterdir())]
    assert sizes == [5, 5]
    assert keys_of(read_run(sink.run, ["key"])) == list("abcdefghij")
    sink.flush()
    sink.flush()  # nothing is left to write
    assert sink.rows_open == 0 and keys_of(read_run(sink.run, ["key"])) == list("abcdefghijklm")


def test_a_shard_is_closed_when_it_is_large(sink, monkeypatch):
    monkeypatch.setattr(shards, "MOST_BYTES", 1)
    sink.add("images", rows("a"))
    sink.add("images", rows("b", "c"))
    assert sink.recorded == Counts(3, 0) and len(list((sink.run / "images").iterdir())) == 2


def test_rows_wait_for_no_longer_than_a_minute(sink):
    sink.time = 100
    sink.add("errors", [error_row("x")])
    sink.time = 130
    sink.add("images", rows("a"))
    sink.time = 159
    sink.tick()
    assert sink.rows_open == 2
    sink.time = 160
    sink.tick()
    assert (sink.rows_open, sink.recorded) == (1, Counts(0, 1))
    sink.time = 191
    sink.add("images", rows("b"))
    assert sink.recorded == Counts(2, 1)
    sink.time = 200  # the minute of a new shard begins with its own first row
    sink.add("images", rows("c"))
    sink.time = 259
    sink.tick()
    assert sink.rows_open == 1


def test_a_manifest_names_every_shard_with_rows_and_digest(sink):
    sink.time = 10
    sink.add("images", rows(*"ab"))
    sink.time = 12.5
    sink.add("images", rows(*"cde"))
    sink.add("errors", [error_row("x")])
    sink.flush()
    (manifest,) = (sink.run / "manifest").iterdir()
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [(line["table"], line["rows"]) for line in lines] == [("images", 5), ("errors", 1)]
    assert lines[0]["seconds"] == 2.5
    for line in lines:
        content = (sink.run / line["table"] / line["file"]).read_bytes()
        assert line["bytes"] == len(content) and line["sha256"] == sha256(content).hexdigest()


def test_wrong_sizes_of_shards_are_refused(tmp_path):
    with RunFolder.open(tmp_path / "RUN", SETTINGS) as run:
        with pytest.raises(ValueError, match="shard_rows must be at least 1, got 0"):
            ShardSink(run, 0, PLAIN, shard_rows=0)
        with pytest.raises(ValueError, match="seconds must not be negative, got -1"):
            ShardSink(run, 0, PLAIN, seconds=-1)


def test_other_ranks_write_beside_rank_0(tmp_path):
    with RunFolder.open(tmp_path / "RUN", SETTINGS) as first:
        with RunFolder.join(tmp_path / "RUN", first.session) as second:
            for rank, run in enumerate((first, second)):
                sink = ShardSink(run, rank, PLAIN)
                sink.add("images", rows(f"of rank {rank}"))
                sink.flush()
    assert keys_of(read_run(tmp_path / "RUN", ["key"])) == ["of rank 0", "of rank 1"]
    assert len(files_of(tmp_path / "RUN" / "manifest")) == 2


# Keys


def test_a_key_set_knows_its_keys_and_no_others():
    known = [f"images/{number}.jpg" for number in range(3000)]
    for keys in (KeySet(known), KeySet(iter([*known[:2990], *known[2980:]]))):
        assert len(keys) == 3000 and all(key in keys for key in known)
        assert not any(f"{key}x" in keys for key in known) and "" not in keys
        copy = pickle.loads(pickle.dumps(keys))
        assert len(copy) == 3000 and known[17] in copy and "x" not in copy
    assert len(KeySet()) == 0 and "a" not in KeySet()


def test_digests_that_end_in_zeros_are_found():
    from clip_surgery_hub.prediction.runs.key_set import _digest

    keys = [str(number) for number in range(2000)]
    ending = [key for key in keys if _digest(key)[-1] == 0]
    assert ending and all(key in KeySet(keys) for key in ending)
    assert not any(key in KeySet(set(keys) - {key}) for key in ending)


def test_a_key_takes_sixteen_bytes():
    keys = KeySet(str(number) for number in range(100_000))
    assert len(pickle.dumps(keys)) < 100_000 * 16 * 1.05
