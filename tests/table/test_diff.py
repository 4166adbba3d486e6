"""Differences between two tables: every count equals one made row by row in Python."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from token_tables import edited, write_table

from lara_tokenizer.table import diff_tokens, read_tokens
from lara_tokenizer.table.diff import CodeMoves
from lara_tokenizer.table.metadata import differences

SEQUENCES = {("a.mp4", "", "2f"): 12, ("a.mp4", "", "5f"): 12, ("b.mp4", "", "2f"): 30, ("b.mp4", "", "5f"): 30}


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "a.parquet", SEQUENCES)


def test_a_table_is_equal_to_itself_however_it_is_cut(tmp_path, table):
    diff = diff_tokens(table, edited(table, tmp_path / "b.parquet", {}))
    assert diff.is_equal
    assert diff.same_model
    assert diff.rows == {"both": 84, "only_a": 0, "only_b": 0}
    assert diff.codes["pairs"] == 10 + 7 + 28 + 25
    assert diff.codes["codes_changed"] == 0
    assert diff.latents["cosine"] == pytest.approx(1)
    assert diff.latents["relative_l2"] == 0
    assert diff.moves == []
    assert json.loads(json.dumps(diff.to_dict()))["is_equal"]


def test_moved_codes_are_counted_by_position_stride_episode_and_move(tmp_path, table):
    before = read_tokens(table).to_pylist()
    rng = np.random.default_rng(1)
    after = [
        [int(rng.integers(16)) if row["valid"] and rng.random() < 0.2 else code for code in row["codes"]]
        for row in before
    ]
    diff = diff_tokens(table, edited(table, tmp_path / "b.parquet", {"codes": after}))
    moves: Counter[tuple[int, int, int]] = Counter()
    by_stride: Counter[str] = Counter()
    by_episode: Counter[str] = Counter()
    pairs = 0
    for row, codes in zip(before, after, strict=True):
        there = [(n, *move) for n, move in enumerate(zip(row["codes"], codes, strict=True)) if move[0] != move[1]]
        moves.update(there)
        by_stride[row["stride"]] += len(there)
        by_episode[row["episode"]] += len(there)
        pairs += bool(there)
    assert not diff.is_equal
    assert diff.codes["pairs_changed"] == pairs
    assert diff.codes["codes_changed"] == moves.total()
    assert diff.codes["codes_changed_share"] == moves.total() / (70 * 4)
    positions = Counter(position for position, *_ in moves.elements())
    assert diff.codes["position_shares"] == [positions[position] / 70 for position in range(4)]
    assert {stride: part["codes_changed"] for stride, part in diff.by_stride.items()} == by_stride
    assert {episode: part["codes_changed"] for episode, part in diff.by_episode.items()} == by_episode
    shares = [part["codes_changed_share"] for part in diff.by_episode.values()]
    assert shares == sorted(shares, reverse=True)
    expected = sorted(moves.items(), key=lambda entry: (-entry[1], entry[0]))[:10]
    names = ("position", "before", "after")
    assert diff.moves == [{**dict(zip(names, move, strict=True)), "count": count} for move, count in expected]


def test_rows_of_one_table_only_and_changed_validity_are_counted(tmp_path):
    a = write_table(tmp_path / "a.parquet", {("a", "", "2f"): 10, ("b", "", "2f"): 10})
    b = write_table(tmp_path / "b.parquet", {("b", "", "2f"): 13, ("c", "", "2f"): 4})
    diff = diff_tokens(a, b)
    assert diff.rows == {"both": 10, "only_a": 10, "only_b": 3 + 4}
    assert diff.validity_changed == 2  # frames 8 and 9 have a future only where there are 13 frames
    assert diff.codes["pairs"] == 8
    assert {name: (part["only_a"], part["only_b"]) for name, part in diff.by_episode.items()} == {
        "a": (10, 0),
        "b": (0, 3),
        "c": (0, 4),
    }
    same = edited(a, tmp_path / "same.parquet", {})
    short = write_table(tmp_path / "short.parquet", {("a", "", "2f"): 10})
    assert diff_tokens(a, same).is_equal
    assert not diff_tokens(a, short).is_equal
    assert not diff_tokens(short, a).is_equal


def test_a_pair_with_another_later_frame_is_not_compared(tmp_path, table):
    rows = read_tokens(table).to_pylist()
    futures = [row["future_frame_index"] + (row["valid"] and row["episode"] == "a.mp4") for row in rows]
    diff = diff_tokens(table, edited(table, tmp_path / "b.parquet", {"future_frame_index": futures}))
    assert diff.other_future == 10 + 7
    assert diff.codes["pairs"] == 28 + 25
    assert not diff.is_equal


def test_the_movement_of_latents(tmp_path, table):
    rows = read_tokens(table)["latents"].to_pylist()
    turned = [[2 * value for value in row] for row in rows]
    diff = diff_tokens(table, edited(table, tmp_path / "b.parquet", {"latents": turned}))
    assert diff.codes["codes_changed"] == 0
    assert diff.latents["pairs_changed"] == diff.latents["pairs"] == 70
    assert diff.latents["cosine"] == pytest.approx(1)
    assert diff.latents["relative_l2"] == pytest.approx(1)
    assert not diff.is_equal
    opposite = [[-value for value in row] for row in rows]
    diff = diff_tokens(table, edited(table, tmp_path / "c.parquet", {"latents": opposite}))
    assert diff.latents["cosine"] == pytest.approx(-1)
    assert diff.latents["relative_l2"] == pytest.approx(2)


def test_latents_of_one_table_only_are_not_compared(tmp_path, table):
    assert diff_tokens(table, write_table(tmp_path / "b.parquet", SEQUENCES, columns=())).latents is None


def test_continuous_tables_are_compared_by_latents(tmp_path):
    paths = [
        write_table(tmp_path / f"{seed}.parquet", SEQUENCES, sizes=(2, 5, None), columns=(), seed=seed)
        for seed in (0, 1)
    ]
    diff = diff_tokens(*paths)
    assert diff.codes is None
    assert diff.latents["pairs_changed"] == 70
    assert diff.by_episode["b.mp4"]["pairs_changed"] == 53
    assert diff_tokens(paths[0], paths[0]).is_equal


def test_other_weights_are_said_and_other_sizes_refused(tmp_path, table):
    model = {"id": "refined", "revision": None, "config_sha256": "1" * 64, "processor_sha256": "2" * 64}
    model |= {"weights_sha256": {"model.safetensors": "9" * 64}}
    model |= {"num_latents": 4, "codebook_size": 16, "codebook_dim": 3}
    diff = diff_tokens(table, edited(table, tmp_path / "b.parquet", {}, model=model))
    assert not diff.same_model
    assert (diff.a["model"], diff.b["model"]) == ("tiny", "refined")
    assert diff.is_equal
    for sizes in ((2, 3, 16), (4, 3, 8), (4, 3, None)):
        other = write_table(tmp_path / "other.parquet", SEQUENCES, sizes=sizes)
        with pytest.raises(ValueError, match=r"codes of 16, 4 per pair, of dimension 3; .* cannot be compared"):
            diff_tokens(table, other)


def test_settings_are_printed_plainly_unless_only_their_types_differ():
    source = {"name": "demos", "format": "LeRobotDataset v3.0", "revision": "abc"}
    assert differences({"source": []}, {"source": [source]}) == [
        "source was empty and is demos (LeRobotDataset v3.0, revision abc)"
    ]
    assert differences({"columns": ["text"]}, {"columns": ["actions", "text"]}) == [
        "columns was text and is actions, text"
    ]
    assert differences({"tasks": "3"}, {"tasks": ["3"]}) == ["tasks was '3' and is ['3']"]


def test_other_settings_are_said_and_other_versions_are_not(tmp_path, table):
    assert diff_tokens(table, table).made_differently == []
    load = {"decoder": "pyav", "fps": 3.0}
    other = edited(table, tmp_path / "b.parquet", {}, dtype="bfloat16", load=load, versions={"torch": "2.14.0"})
    diff = diff_tokens(table, other)
    assert diff.made_differently == ["dtype was float32 and is bfloat16", "load.fps was not set and is 3.0"]
    assert diff.same_model
    assert diff.is_equal


def test_a_table_out_of_order_is_refused(tmp_path, table):
    frames = [row["frame_index"] for row in read_tokens(table).to_pylist()]
    twice = edited(table, tmp_path / "b.parquet", {"frame_index": [frames[1], *frames[1:]]})
    with pytest.raises(ValueError, match="are unsorted or duplicated; the file was modified"):
        diff_tokens(table, twice)
    names = [row["episode"] for row in read_tokens(table).to_pylist()]
    unsorted = edited(table, tmp_path / "c.parquet", {"episode": names[::-1]})
    with pytest.raises(ValueError, match="not sorted by episode, camera, stride"):
        diff_tokens(unsorted, table)


def test_moves_are_counted_the_same_in_any_pieces(monkeypatch):
    monkeypatch.setattr("lara_tokenizer.table.diff._PENDING_MOVES", 50)
    before, after = np.random.default_rng(0).integers(0, 5, (2, 200, 3)).astype(np.int16)
    whole, chunks = CodeMoves(5), CodeMoves(5)
    whole.add(before, after)
    for start in range(0, 200, 7):
        chunks.add(before[start : start + 7], after[start : start + 7])
    assert whole.most_common(100) == chunks.most_common(100)
    assert sum(move["count"] for move in whole.most_common(100)) == (before != after).sum()
