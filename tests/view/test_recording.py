"""The recording of a table, read by Rerun's own reader."""

from __future__ import annotations

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lara_tokenizer.data import load_episodes
from lara_tokenizer.view import view, view_tokens


def test_without_rerun_the_extra_is_named(tmp_path, table, clips, monkeypatch):
    monkeypatch.setattr(view, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs the 'rerun' extra: pip install 'lara-tokenizer\[rerun\]'"):
        view_tokens(table, clips, tmp_path / "tokens.rrd")


def test_rerun_reads_the_streams_of_the_table(tmp_path, table, clips):
    chunks = pytest.importorskip("rerun.chunk", reason="rerun-sdk with its chunk reader is not installed")
    summary = view_tokens(table, clips, out := tmp_path / "tokens.rrd")
    assert list(tmp_path.iterdir()) == [out]
    assert summary.bytes == out.stat().st_size
    columns = {}
    for chunk in chunks.RrdReader(out).stream().to_chunks():
        columns.setdefault(str(chunk.entity_path), []).append(chunk.to_record_batch())
    rows = [row for row in pq.read_table(table).to_pylist() if row["valid"] and row["episode"] == "long/b.mp4"]
    for position in range(4):
        (batch,) = columns[f"/long/b.mp4/codes/{position}"]
        assert batch["frame"].to_pylist() == [row["frame_index"] for row in rows]
        scalars = np.concatenate(batch["Scalars:scalars"].to_pylist())
        assert scalars.tolist() == [row["codes"][position] for row in rows]
    pictures = [blob for batch in columns["/long/b.mp4/frame"] for blob in batch["EncodedImage:blob"].to_pylist()]
    (episode,) = load_episodes(clips / "long" / "b.mp4")
    assert len(pictures) == episode.num_frames()
    last = Image.open(io.BytesIO(bytes(pictures[-1][0])))
    assert np.abs(np.asarray(last).astype(int) - episode.frames("", [19])[0]).mean() < 10
