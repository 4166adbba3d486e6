"""Rows of a token table as exports read them: selection by stride, camera and thresholds."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lara_tokenizer.table import read_tokens
from lara_tokenizer.table.reader import TokenTable


def _edited(tokens, column, change):
    """The same table with a column changed, as somebody's script might."""
    table = pq.read_table(tokens)
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, table.schema.field(column), change(table[column])), tokens)


def test_sequences_give_every_row_once_whatever_the_row_groups_are(tokens):
    sequences = list(TokenTable.open(tokens).sequences("codes", "latents", "text"))
    assert [(sequence.episode, len(sequence.frames)) for sequence in sequences] == [("a.mp4", 24), ("b/left.mp4", 30)]
    table = read_tokens(tokens)
    for name, values in (("codes", [t.codes for t in sequences]), ("latents", [t.latents for t in sequences])):
        expected = np.array(table[name].to_pylist())
        np.testing.assert_array_equal(np.concatenate(values), expected.astype(values[0].dtype))
    assert np.concatenate([t.selected for t in sequences]).tolist() == table["valid"].to_pylist()
    assert sequences[0].texts == ["push the box"] * 24


def test_thresholds_leave_out_rows_below_and_count_them(tokens):
    opened = TokenTable.open(tokens, min_margin=0.5, min_motion=0.25)
    selected = np.concatenate([sequence.selected for sequence in opened.sequences()])
    table = read_tokens(tokens)
    margin, motion = (np.array(table[name].to_pylist(), float) for name in ("code_margin", "motion"))
    valid = np.array(table["valid"].to_pylist())
    np.testing.assert_array_equal(selected, valid & (margin >= 0.5) & (motion >= 0.25))
    assert sum(opened.left_out.values()) + selected.sum() == table.num_rows


def test_one_stride_and_named_cameras_are_exported(tmp_path, write_tokens):
    path = write_tokens(tmp_path / "t.parquet", {"a": 9, "b": 8}, strides=("2f", "3f"), cameras=("top", "wrist"))
    with pytest.raises(ValueError, match="holds strides 2f, 3f: one export has one"):
        TokenTable.open(path, cameras="all")
    with pytest.raises(ValueError, match=r"stride '4f': .* holds 2f, 3f"):
        TokenTable.open(path, stride="4f", cameras="all")
    with pytest.raises(ValueError, match="holds cameras top, wrist"):
        TokenTable.open(path, stride="2f")
    with pytest.raises(ValueError, match="camera 'front'"):
        TokenTable.open(path, stride="2f", cameras="front")
    sequences = list(TokenTable.open(path, stride="3f", cameras="wrist").sequences())
    assert [(t.episode, t.camera, t.futures.tolist()[0]) for t in sequences] == [("a", "wrist", 3), ("b", "wrist", 3)]
    assert len(list(TokenTable.open(path, stride="3f", cameras="all").sequences())) == 4


def test_a_camera_goes_by_the_last_part_of_its_name_where_that_is_one_camera(tmp_path, write_tokens):
    names = ("left.wrist", "right.wrist", "images.top")
    path = write_tokens(tmp_path / "t.parquet", {"a": 9}, strides=("2f",), cameras=names)
    assert TokenTable.open(path, cameras="top").cameras == ("images.top",)
    assert TokenTable.open(path, cameras="left.wrist").cameras == ("left.wrist",)
    with pytest.raises(ValueError, match=r"camera 'wrist': .* holds 'images.top', 'left.wrist', 'right.wrist'"):
        TokenTable.open(path, cameras="wrist")


def test_codes_out_of_range_are_named(tokens):
    _edited(tokens, "codes", lambda column: pa.chunked_array([pc_add(chunk, 9) for chunk in column.chunks]))
    with pytest.raises(ValueError, match=r"codes from .* to 2[0-9], the model's codebook has 0 to 15"):
        list(TokenTable.open(tokens).sequences("codes"))


def test_pairs_that_run_backward_are_refused(tokens):
    def one_earlier(column):
        futures = column.to_pylist()
        futures[3] = futures[0] - 1
        return pa.chunked_array([pa.array(futures, column.type)])

    _edited(tokens, "future_frame_index", one_earlier)
    with pytest.raises(ValueError, match=r"pairs of episode .* run backward"):
        list(TokenTable.open(tokens).sequences())


def pc_add(chunk, number):
    values = pa.array(chunk.flatten().to_numpy() + np.int16(number))
    return pa.FixedSizeListArray.from_arrays(values, type=chunk.type)
