"""Counts of moving pairs and the health of labels, from pixels to the summary and the table."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from lara_tokenizer.data import Episode, FrameIndex
from lara_tokenizer.encode.store import Store
from lara_tokenizer.table import describe, read_metadata, read_tokens
from lara_tokenizer.thresholds import IDLE_MOTION


class TwoCameras:
    """A square before a fixed camera, and a camera that pans over a texture; both still for the first five frames."""

    def __init__(self, moving_square):
        texture = np.kron(np.random.default_rng(0).integers(0, 200, (40, 80, 3)), np.ones((5, 5, 1))).astype(np.uint8)
        pan = [texture[40:104, 3 * t : 3 * t + 64] for t in range(45)]
        self.clips = {"fixed": moving_square(45, step=3), "pans": np.stack(pan)}

    def index(self, camera):
        return FrameIndex(np.arange(50) / 10, fps=10.0)

    def frames(self, camera, indices):
        return self.clips[camera][np.maximum(np.asarray(indices) - 5, 0)]

    def close(self):
        pass


@pytest.fixture
def two_cameras(moving_square):
    return [Episode("clip", TwoCameras(moving_square), ("fixed", "pans"))]


def health(summary):
    return summary.figures, summary.health, summary.verdict


def test_the_moving_camera_of_two_is_found(encode, two_cameras, tmp_path):
    summary = encode(tmp_path / "t.parquet", source=two_cameras, strides="2f")
    table = read_tokens(tmp_path / "t.parquet").to_pylist()
    counts = read_metadata(tmp_path / "t.parquet")["moving_pairs"]
    for camera, whole in (("fixed", 0), ("pans", 44)):
        moving = sum(row["camera"] == camera and row["motion"] >= IDLE_MOTION for row in table)
        assert (counts[camera]["pairs"], counts[camera]["whole_picture"], counts[camera]["frames"]) == (
            moving,
            whole,
            48,
        )
    assert summary.figures.whole_picture_share_by_camera == {"fixed": 0, "pans": 1}
    assert [(each.name, each.camera) for each in summary.health if each.name == "camera-driven"] == [
        ("camera-driven", "pans")
    ]
    assert "camera motion in 100.0% of the moving pairs of camera pans" in summary.health[-1].sentence


def test_pairs_that_are_left_out_or_invalid_are_not_counted(encode, two_cameras, tmp_path):
    options = {"source": two_cameras, "strides": "2f", "min_motion": 0.02, "keep_tail": True}
    encode(tmp_path / "t.parquet", **options)
    rows = [row for row in read_tokens(tmp_path / "t.parquet").to_pylist() if row["valid"]]
    counts = read_metadata(tmp_path / "t.parquet")["moving_pairs"]
    assert sum(camera["pairs"] for camera in counts.values()) == len(rows) < 2 * 44


def test_health_is_the_same_after_a_stop_and_for_a_complete_table(encode, clips, tmp_path):
    whole = encode(tmp_path / "whole.parquet")
    assert whole.figures.whole_picture_share is not None

    def stop(state):
        if state.episodes_done:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        encode(tmp_path / "t.parquet", progress=stop)
    assert health(encode(tmp_path / "t.parquet")) == health(whole)
    again = encode(tmp_path / "t.parquet")
    assert again.already_complete
    assert health(again) == health(whole)
    described = describe(tmp_path / "t.parquet")
    assert {name: described[name] for name in ("figures", "health", "verdict")} == {
        name: whole.to_dict()[name] for name in ("figures", "health", "verdict")
    }


def test_a_table_without_the_counts_is_read_and_complete(encode, tmp_path):
    out = tmp_path / "t.parquet"
    encode(out)
    table = pq.read_table(out)
    metadata = json.loads(table.schema.metadata[b"lara_tokenizer"])
    del metadata["moving_pairs"]
    pq.write_table(table.replace_schema_metadata({b"lara_tokenizer": json.dumps(metadata)}), out)
    again = encode(out)
    assert again.already_complete
    assert again.figures.whole_picture_share is None


def test_units_without_the_counts_give_a_table_without(encode, tmp_path, monkeypatch):
    rows = Store.rows
    monkeypatch.setattr(Store, "rows", lambda store, unit: rows(store, unit).replace_schema_metadata(None))
    summary = encode(tmp_path / "t.parquet")
    assert summary.figures.whole_picture_share is None
    assert "moving_pairs" not in read_metadata(tmp_path / "t.parquet")
