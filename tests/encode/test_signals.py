"""Actions and text beside the codes, and idle pairs left out."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lara_tokenizer import encode_dataset, encode_episode
from lara_tokenizer.data import Episode, FrameIndex, Signals, SourceInfo, load_episodes
from lara_tokenizer.encode import verify_tokens
from lara_tokenizer.encode.pool import worker
from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.table import read_metadata
from lara_tokenizer.table.schema import token_schema
from lara_tokenizer.table.source import check_revisions

TOP = "observation.images.top"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, moving_square, write_lerobot):
    """Two episodes of 21 and 18 frames, ten per second, with three actions per frame and two tasks."""
    clips = [moving_square(21, seed=1, step=3), moving_square(18, seed=2, step=5)]
    return write_lerobot(tmp_path_factory.mktemp("set") / "set", {TOP: clips}, tasks=["push it", "pull it"])


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_hold_what_was_done_between_the_two_frames(dataset, tiny_checkpoint, tmp_path, workers):
    out = tmp_path / "t.parquet"
    strides = ["0.5s", "1f"]
    encode_dataset(dataset, tiny_checkpoint, out=out, strides=strides, columns=["actions", "text"], workers=workers)
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == (21 - 5) + (21 - 1) + (18 - 5) + (18 - 1)
    actions = {e.id: e.signals().actions for e in load_episodes(dataset)}
    for row in rows:
        done = actions[row["episode"]][row["frame_index"] : row["future_frame_index"]]
        assert np.array_equal(np.float32(row["action_chunk"]), done)
        assert np.allclose(row["action_sum"], done.sum(0), atol=1e-6)
        assert row["text"] == {0: "push it", 1: "pull it"}[row["episode_index"]]


def test_the_columns_are_those_of_the_schema_in_each_way_to_make_a_table(dataset, tiny_model, tiny_processor, tmp_path):
    (first, _) = load_episodes(dataset)
    columns = ["text", "actions", "latents"]
    table = encode_episode(first, tiny_model, tiny_processor, strides="0.5s", columns=columns)
    assert table.schema.equals(token_schema(4, 8, 16, ("actions", "latents", "text")))
    assert table.column_names[-5:] == ["valid", "action_chunk", "action_sum", "state_change", "text"]


def test_a_kept_tail_has_text_and_no_actions(dataset, tiny_model, tiny_processor):
    (first, _) = load_episodes(dataset)
    table = encode_episode(
        first, tiny_model, tiny_processor, strides="0.5s", columns=["actions", "text"], keep_tail=True
    )
    tail = table.filter(pc.invert(table["valid"])).to_pylist()
    assert len(tail) == 5
    columns = ("text", "action_chunk", "action_sum", "state_change")
    assert {tuple(row[name] for name in columns) for row in tail} == {("push it", None, None, None)}


def test_the_change_of_the_state_goes_through_the_seam_of_an_angle(moving_square, tiny_model, tiny_processor):
    turning = np.linspace(2.0, 8.0, 12)
    states = np.stack([(turning + np.pi) % (2 * np.pi) - np.pi, np.arange(12.0) ** 2], 1).astype(np.float32)
    reader = Labelled(moving_square(12), np.zeros((12, 3), np.float32), states)
    options = {"strides": "0.5s", "columns": ["actions"], "keep_tail": True}
    rows = encode_episode(Episode("turns", reader), tiny_model, tiny_processor, **options).to_pylist()
    for row in rows[:-5]:
        now, future = row["frame_index"], row["future_frame_index"]
        assert np.allclose(row["state_change"], [turning[future] - turning[now], future**2 - now**2], atol=1e-5)
    assert [row["state_change"] for row in rows[-5:]] == [None] * 5


def test_columns_that_no_episode_has_are_refused_at_once(dataset, clip_folder, tiny_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="column 'actions': no episode of the source has actions; it has frames only"):
        encode_dataset(clip_folder, tiny_checkpoint, out=tmp_path / "t.parquet", columns=["actions"])
    # In a mixture those that have none have nulls.
    out = tmp_path / "mixed.parquet"
    encode_dataset([dataset, clip_folder], tiny_checkpoint, out=out, strides="0.5s", columns=["actions"], workers=0)
    has = {row["episode"].endswith(".mp4"): row["action_sum"] for row in pq.read_table(out).to_pylist()}
    assert has[True] is None
    assert len(has[False]) == 3


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory, moving_square, write_video):
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "one.mp4", moving_square(20, seed=3))
    return folder


class Labelled:
    """A custom reader, with signals that may not match its frames."""

    def __init__(self, frames, actions, states=None):
        self.array, self.actions, self.states = frames, actions, states

    def index(self, camera):
        return FrameIndex(np.arange(len(self.array)) / 10, 10.0)

    def frames(self, camera, indices):
        return self.array[np.asarray(indices)]

    def signals(self):
        return Signals(actions=self.actions, states=self.states)

    def close(self):
        pass


def test_signals_of_another_length_are_that_episode_s_failure(moving_square, tiny_checkpoint, tmp_path):
    good, bad = (
        Episode(name, Labelled(moving_square(12), np.zeros((n, 2), np.float32)))
        for name, n in (("good", 12), ("bad", 11))
    )
    summary = encode_dataset(
        [good, bad], tiny_checkpoint, out=tmp_path / "t.parquet", strides="0.5s", columns=["actions"], workers=0
    )
    assert summary.failed == {"bad": "11 actions for 12 frames: rows must match frames"}
    assert summary.pairs == {"0.5s": 7}


@pytest.fixture(scope="module")
def stop_and_go(tmp_path_factory, moving_square, write_video):
    """A square that moves for 20 frames, rests for 30, and moves again for 20."""
    moving = moving_square(40, seed=4, step=3)
    frames = np.concatenate([moving[:20], np.repeat(moving[19:20], 30, 0), moving[20:]])
    return write_video(
        tmp_path_factory.mktemp("idle") / "stop_and_go.mp4", frames, options={"crf": "0"}, pix_fmt="yuv444p"
    )


def test_idle_pairs_are_left_out_and_the_others_stay_what_they_were(stop_and_go, tiny_checkpoint, tmp_path):
    tables = {}
    for threshold in (0.0, 0.01):
        out = tmp_path / f"{threshold}.parquet"
        # A small batch, so that batches of moving pairs hold others than batches of all.
        summary = encode_dataset(
            stop_and_go, tiny_checkpoint, out=out, strides=["0.5s", "2f"], min_motion=threshold, workers=0, batch_size=4
        )
        tables[threshold] = pq.read_table(out)
        assert summary.rows == tables[threshold].num_rows
        assert read_metadata(out)["min_motion"] == threshold
    every, moving = tables.values()
    expected = every.filter(pc.greater_equal(every["motion"], 0.01))
    assert 0 < moving.num_rows < every.num_rows
    assert summary.idle_left_out == every.num_rows - moving.num_rows
    assert moving.to_pylist() == expected.to_pylist()
    resting = every.filter(pc.less(every["motion"], 0.01))
    assert set(resting["frame_index"].to_pylist()) <= set(range(18, 50))


def test_a_table_without_idle_pairs_verifies(stop_and_go, tiny_checkpoint, tmp_path):
    out = tmp_path / "t.parquet"
    encode_dataset(stop_and_go, tiny_checkpoint, out=out, strides="0.5s", min_motion=0.01, workers=0)
    report = verify_tokens(out, stop_and_go, sample=1.0, model=tiny_checkpoint, workers=0)
    assert report.is_equal
    assert report.rows_checked == pq.read_metadata(out).num_rows


def test_units_that_lost_idle_pairs_verify_as_they_were_cut(stop_and_go, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("lara_tokenizer.encode.plan.MAX_ANCHORS", 20)
    planned, encoded = [], []
    plan, encode = worker.plan_episode, worker.encode_unit

    def recording_plan(episode, options):
        planned.append(plan(episode, options).units)
        return plan(episode, options)

    def watch_unit(unit, *others):
        encoded.append(unit)
        return encode(unit, *others)

    monkeypatch.setattr(worker, "plan_episode", recording_plan)
    monkeypatch.setattr(worker, "encode_unit", watch_unit)
    out = tmp_path / "t.parquet"
    encode_dataset(stop_and_go, tiny_checkpoint, out=out, strides="0.5s", min_motion=0.01, workers=0)
    cut = set(planned[0])
    assert len(cut) == 4
    encoded.clear()
    report = verify_tokens(out, stop_and_go, sample=1.0, model=tiny_checkpoint, workers=0)
    assert report.is_equal
    assert set(encoded) <= cut
    assert report.rows_checked == pq.read_metadata(out).num_rows


def test_a_table_made_before_tells_no_idle_pairs_it_cannot_know(stop_and_go, tiny_checkpoint, tmp_path):
    out = tmp_path / "t.parquet"
    first, again = (
        encode_dataset(stop_and_go, tiny_checkpoint, out=out, strides="0.5s", min_motion=0.01, workers=0)
        for _ in range(2)
    )
    assert first.idle_left_out > 0
    assert again.already_complete
    assert again.idle_left_out is None


def test_a_table_from_a_list_wants_its_list_to_verify(clip_folder, tiny_checkpoint, tmp_path):
    (tmp_path / "clips.csv").write_text("path,start,end\none.mp4,0.2,1.9\n")
    out = tmp_path / "t.parquet"
    encode_dataset(clip_folder, tiny_checkpoint, out=out, strides="0.5s", from_list=tmp_path / "clips.csv", workers=0)
    with pytest.raises(ValueError, match=r"made from the list 'clips.csv': pass it too \(--from\)"):
        verify_tokens(out, clip_folder, model=tiny_checkpoint, workers=0)
    report = verify_tokens(
        out, clip_folder, sample=1.0, model=tiny_checkpoint, workers=0, from_list=tmp_path / "clips.csv"
    )
    assert report.is_equal
    assert report.rows_checked == 17 - 5


def test_another_commit_of_the_hub_is_not_compared():
    made = {"source": [{"name": "acme/set", "format": "LeRobotDataset v2.1", "revision": "a1"}]}
    check_revisions(made, [SourceInfo("acme/set", "LeRobotDataset v2.1", 3, "a1")])
    with pytest.raises(JobMismatchError, match="Name the source with its commit: acme/set@a1"):
        check_revisions(made, [SourceInfo("acme/set", "LeRobotDataset v2.1", 3, "b2")])


def test_kept_tails_are_not_idle(stop_and_go, tiny_checkpoint, tmp_path):
    out = tmp_path / "t.parquet"
    encode_dataset(stop_and_go, tiny_checkpoint, out=out, strides="0.5s", min_motion=0.01, keep_tail=True, workers=0)
    valid = pq.read_table(out)["valid"].to_pylist()
    assert valid.count(False) == 5
