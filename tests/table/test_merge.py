"""Tables joined into one: the rows of all in order, metadata as of one job, and refusals before anything is written."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from token_tables import edited, write_table

from lara_tokenizer.table import describe, merge_tokens, read_metadata, read_tokens
from lara_tokenizer.table.schema import KEY

LEFT = {("a", "", "2f"): 9, ("c", "", "2f"): 30}
RIGHT = {("b", "", "2f"): 12, ("d", "", "2f"): 5}


@pytest.fixture
def left(tmp_path):
    return write_table(tmp_path / "left.parquet", LEFT, columns=("latents", "text"))


@pytest.fixture
def right(tmp_path):
    return write_table(tmp_path / "right.parquet", RIGHT, columns=("latents", "text"), seed=1)


def keys(path):
    return [tuple(row[name] for name in KEY) for row in read_tokens(path, list(KEY)).to_pylist()]


def test_rows_of_all_tables_are_there_in_order(tmp_path, left, right):
    summary = merge_tokens([right, left], tmp_path / "out.parquet")
    merged = read_tokens(tmp_path / "out.parquet")
    parts = pa.concat_tables([read_tokens(left), read_tokens(right)]).to_pylist()
    assert str(merged.to_pylist()) == str(sorted(parts, key=lambda row: tuple(row[name] for name in KEY)))
    assert summary.rows == 56
    assert summary.rows_of == {str(right): 17, str(left): 39}
    assert summary.episodes == 4
    assert describe(tmp_path / "out.parquet")["rows"] == 56


def test_merging_is_associative_and_leaves_the_model_to_the_first(tmp_path, left, right):
    third = write_table(tmp_path / "third.parquet", {("e", "", "2f"): 4}, columns=("latents", "text"), seed=2)
    one = tmp_path / "one.parquet"
    merge_tokens([left, right, third], one)
    merge_tokens([left, right], tmp_path / "two.parquet")
    merge_tokens([tmp_path / "two.parquet", third], tmp_path / "three.parquet")
    merge_tokens([right, third], tmp_path / "four.parquet")
    merge_tokens([left, tmp_path / "four.parquet"], tmp_path / "five.parquet")
    assert one.read_bytes() == (tmp_path / "three.parquet").read_bytes() == (tmp_path / "five.parquet").read_bytes()


def test_a_folder_of_shards_is_taken_and_written(tmp_path, left, right):
    merge_tokens([left, right], tmp_path / "shards")
    third = write_table(tmp_path / "third.parquet", {("e", "", "2f"): 4}, columns=("latents", "text"))
    merge_tokens([tmp_path / "shards", third], tmp_path / "all.parquet")
    assert keys(tmp_path / "all.parquet") == sorted(keys(left) + keys(right) + keys(third))
    assert json.loads((tmp_path / "shards/provenance.json").read_text())["rows"] == 56
    assert not list(tmp_path.glob("*.merge*"))


def test_a_folder_beside_the_target_is_left_alone(tmp_path, left, right):
    mine = tmp_path / "out.parquet.merge"
    mine.mkdir()
    (mine / "x").write_text("mine")
    merge_tokens([left, right], tmp_path / "out.parquet")
    assert (mine / "x").read_text() == "mine"
    assert list(tmp_path.glob("out.parquet.*")) == [mine]


def test_metadata_adds_up(tmp_path):
    a = write_table(
        tmp_path / "a.parquet",
        {("a", "top", "2f"): 9},
        source=[{"name": "left", "format": "video files", "revision": None}],
        load={"decoder": "pyav", "cameras": ["top"]},
        episodes={"count": 3, "ids_sha256": "x", "failed": 2},
    )
    b = write_table(
        tmp_path / "b.parquet",
        {("b", "wrist", "5f"): 9},
        source=[{"name": "right", "format": "video files", "revision": None}],
        load={"decoder": "pyav", "cameras": ["wrist"]},
        versions={"numpy": "2.4.6", "torch": "2.14.0"},
    )
    summary = merge_tokens([a, b], tmp_path / "out.parquet")
    metadata = read_metadata(tmp_path / "out.parquet")
    assert metadata["strides"] == ["2f", "5f"]
    assert [source["name"] for source in metadata["source"]] == ["left", "right"]
    assert metadata["load"]["cameras"] == ["top", "wrist"]
    assert metadata["versions"] == {"numpy": "2.4.6", "torch": "2.13.0, 2.14.0"}
    assert (metadata["episodes"]["count"], metadata["episodes"]["failed"]) == (2, 2)
    assert set(metadata["moving_pairs"]) == {"top", "wrist"}
    assert "not all episodes have all strides" in summary.notes[0]


def test_counts_of_moving_pairs_are_left_out_where_one_table_has_none(tmp_path, left):
    other = write_table(tmp_path / "b.parquet", RIGHT, columns=("latents", "text"), moving_pairs=None)
    merge_tokens([left, other], tmp_path / "out.parquet")
    assert "moving_pairs" not in read_metadata(tmp_path / "out.parquet")


def test_rows_of_one_track_in_two_tables_are_interleaved(tmp_path, left):
    table = pq.read_table(left)
    for index in (0, 1):
        pq.write_table(table.take(list(range(index, table.num_rows, 2))), tmp_path / f"{index}.parquet")
    merge_tokens([tmp_path / "1.parquet", tmp_path / "0.parquet"], tmp_path / "out.parquet")
    assert str(read_tokens(tmp_path / "out.parquet").to_pylist()) == str(read_tokens(left).to_pylist())


def test_a_row_in_two_tables_is_named_with_both(tmp_path, left, right):
    again = write_table(tmp_path / "again.parquet", {("c", "", "2f"): 2}, columns=("latents", "text"))
    with pytest.raises(ValueError, match=r"c 2f frame 0 is in .*left.parquet and in .*again.parquet"):
        merge_tokens([right, left, again], tmp_path / "out.parquet")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"every": "2f"}, "every was 1f and is 2f"),
        ({"load": {"decoder": "pyav", "fps": 3.0}}, "load.fps was not set and is 3.0"),
        ({"min_motion": 0.01}, "min_motion was 0.0 and is 0.01"),
        ({"dtype": "bfloat16"}, "dtype was float32 and is bfloat16"),
        ({"load": {"decoder": "pyav", "cameras": ["top"]}}, "load.cameras was not set and is by name"),
        ({"source": [{"name": "videos", "format": "video files", "revision": "abc"}]}, "at no revision and at abc"),
    ],
)
def test_tables_that_were_made_differently_are_refused(tmp_path, left, right, change, message):
    other = edited(right, tmp_path / "other.parquet", {}, **change)
    with pytest.raises(ValueError, match=message):
        merge_tokens([left, other], tmp_path / "out.parquet")
    assert not list(tmp_path.glob("out*"))


def test_another_model_is_refused_and_another_name_for_the_same_is_not(tmp_path, left, right):
    model = read_metadata(right)["model"]
    renamed = edited(right, tmp_path / "renamed.parquet", {}, model=model | {"id": "copy-of-tiny"})
    merge_tokens([left, renamed], tmp_path / "out.parquet")
    assert read_metadata(tmp_path / "out.parquet")["model"]["id"] == "tiny"
    other = edited(right, tmp_path / "other.parquet", {}, model=model | {"config_sha256": "7" * 64})
    with pytest.raises(ValueError, match=r"model.config_sha256 was 1.* and is 7"):
        merge_tokens([left, other], tmp_path / "new.parquet")


def test_one_table_other_columns_and_an_existing_target_are_refused(tmp_path, left, right):
    with pytest.raises(ValueError, match="1 tables to join: name two at least"):
        merge_tokens([left], tmp_path / "out.parquet")
    with pytest.raises(ValueError, match="exists already"):
        merge_tokens([left, right], left)
    with pytest.raises(ValueError, match="name a file ending in"):
        merge_tokens([left, right], tmp_path / "out.csv")
    narrow = pq.read_table(right).drop_columns(["latents"])
    pq.write_table(narrow, tmp_path / "narrow.parquet")
    with pytest.raises(ValueError, match="have other columns"):
        merge_tokens([left, tmp_path / "narrow.parquet"], tmp_path / "out.parquet")
    assert not list(tmp_path.glob("out*"))
