"""One episode in every format gives one set of codes, and a stride in seconds is the same at every rate."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from rlds_files import example, framed, image, mapping, png, sequence, tensor

from lara_tokenizer import encode_dataset
from lara_tokenizer.data import load_episodes
from lara_tokenizer.errors import JobMismatchError

TOP = "observation.images.top"
FPS = 10


@pytest.fixture(scope="module")
def clip(tmp_path_factory, moving_square, write_video):
    """An h264 clip of 24 frames at 10 frames per second, in a folder of its own."""
    return write_video(tmp_path_factory.mktemp("plain") / "clip.mp4", moving_square(24, seed=5, step=3), fps=FPS)


@pytest.fixture(scope="module")
def frames(clip, decode_all):
    return decode_all(clip)


def as_lerobot_v3(root, clip, frames, write_lerobot):
    return write_lerobot(root / "set", {TOP: [clip]}, version="v3.0", fps=FPS, lengths=[len(frames)])


def as_lerobot_v2(root, clip, frames, write_lerobot):
    return write_lerobot(root / "set", {TOP: [clip]}, version="v2.1", fps=FPS, lengths=[len(frames)])


def as_lerobot_pictures(root, clip, frames, write_lerobot):
    return write_lerobot(root / "set", {TOP: [frames]}, kind="image", fps=FPS)


def as_webdataset(root, clip, frames, write_lerobot):
    with webdataset.TarWriter(str(root / "shard-000000.tar")) as writer:
        writer.write({"__key__": "clip", "mp4": clip.read_bytes(), "txt": "push"})
    return root


def as_rlds(root, clip, frames, write_lerobot):
    steps = mapping({"observation": mapping({"image": image()}), "action": tensor((2,))})
    values = {
        "steps/observation/image": [png(frame) for frame in frames],
        "steps/action": np.zeros((len(frames), 2), np.float32),
    }
    (root / "features.json").write_text(json.dumps(mapping({"steps": sequence(steps)})))
    split = {"name": "train", "shardLengths": ["1"]}
    (root / "dataset_info.json").write_text(json.dumps({"name": "squares", "version": "1.0.0", "splits": [split]}))
    (root / "squares-train.tfrecord-00000-of-00001").write_bytes(framed(example(values)))
    return root


def as_images(root, clip, frames, write_lerobot):
    (root / "clip").mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(root / f"clip/img_{index}.png")
    return root


def as_datasets(root, clip, frames, write_lerobot):
    import datasets

    features = datasets.Features({"clip": datasets.Video(decode=False), "text": datasets.Value("string")})
    row = {"clip": [{"bytes": clip.read_bytes(), "path": None}], "text": ["push"]}
    datasets.Dataset.from_dict(row, features=features).to_parquet(root / "train.parquet")
    return root


FORMATS = [as_lerobot_v3, as_lerobot_v2, as_lerobot_pictures, as_webdataset, as_rlds, as_images, as_datasets]
NEED_RATE = (as_rlds, as_images)
VALUES = ["stride", "frame_index", "future_frame_index", "timestamp", "codes", "latents", "code_margin", "motion"]


@pytest.fixture(scope="module")
def expected(clip, tiny_checkpoint, tmp_path_factory):
    return rows_of(clip.parent, tiny_checkpoint, tmp_path_factory.mktemp("expected"), None)


def rows_of(source, checkpoint, folder, fps):
    out = folder / "tokens.parquet"
    encode_dataset(source, checkpoint, out=out, strides=["0.3s", "0.6s"], columns=["latents"], workers=0, fps=fps)
    return pq.read_table(out, columns=VALUES)


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_the_same_frames_give_the_same_rows(write, clip, frames, expected, tiny_checkpoint, tmp_path, write_lerobot):
    (tmp_path / "data").mkdir()
    source = write(tmp_path / "data", clip, frames, write_lerobot)
    rows = rows_of(source, tiny_checkpoint, tmp_path, FPS if write in NEED_RATE else None)
    assert rows.num_rows == (24 - 3) + (24 - 6)
    assert rows.to_pylist() == expected.to_pylist()


@pytest.mark.parametrize(("fps", "gap", "seconds"), [(3, 2, 2 / 3), (5, 3, 0.6), (20, 12, 0.6), (30, 18, 0.6)])
def test_a_stride_takes_the_frame_nearest_in_time(
    fps, gap, seconds, numbered_clip, tiny_checkpoint, tmp_path, write_lerobot
):
    root = write_lerobot(tmp_path / "set", {TOP: [numbered_clip(fps)]}, fps=fps)
    out = tmp_path / "tokens.parquet"
    encode_dataset(root, tiny_checkpoint, out=out, strides="0.6s", workers=0)
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 40 - gap
    for row in rows:
        assert row["future_frame_index"] - row["frame_index"] == gap
        assert row["future_timestamp"] - row["timestamp"] == pytest.approx(seconds)
        assert row["timestamp"] == pytest.approx(row["frame_index"] / fps)


def test_a_stride_that_a_rate_cannot_meet_says_what_could_be_had(
    numbered_clip, tiny_checkpoint, tmp_path, write_lerobot
):
    root = write_lerobot(tmp_path / "set", {TOP: [numbered_clip(1)]}, fps=1)
    summary = encode_dataset(root, tiny_checkpoint, out=tmp_path / "t.parquet", strides="0.6s", workers=0)
    assert summary.failed == {
        "episode_000000": "stride '0.6s' cannot be met at 1 frames per second: the nearest gap is 1 s (1 frame). "
        "Ask for '1s' or '1f', or correct the rate with fps (--fps) if the file states it wrongly"
    }


@pytest.fixture
def numbered_clip(moving_square):
    return lambda fps: moving_square(40, seed=fps)


def test_ids_tell_the_sources_of_a_mixture_apart(clip, frames, tmp_path, write_lerobot):
    for name, write in (("v3", as_lerobot_v3), ("v2", as_lerobot_v2), ("tars", as_webdataset)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, clip, frames, write_lerobot)
    together = load_episodes(tmp_path)
    assert [episode.id for episode in together] == [
        "tars/shard-000000/clip",
        "v2/set/episode_000000",
        "v3/set/episode_000000",
    ]
    assert len({episode.dataset for episode in together}) == 3
    listed = load_episodes([tmp_path / "v2/set", tmp_path / "v3/set", tmp_path / "v3/set"])
    assert [episode.id for episode in listed] == ["v2/set/episode_000000", "v3/set/episode_000000"]
    assert [episode.id for episode in load_episodes(tmp_path / "v2/set")] == ["episode_000000"]


def three_in_tars(root, clips):
    for index, clip in enumerate(clips):
        with webdataset.TarWriter(str(root / f"shard-{index:06d}.tar")) as writer:
            writer.write({"__key__": "clip", "mp4": clip.read_bytes(), "txt": f"task {index}"})


def three_in_parquet(root, clips):
    import datasets

    features = datasets.Features({"clip": datasets.Video(decode=False), "text": datasets.Value("string")})
    cells = [{"bytes": clip.read_bytes(), "path": None} for clip in clips]
    rows = {"clip": cells, "text": ["task 0", "task 1", "task 2"]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(root / "train.parquet", batch_size=1)


@pytest.mark.parametrize("write", [three_in_tars, three_in_parquet], ids=lambda write: write.__name__)
def test_a_stopped_run_goes_on_where_it_was(write, tmp_path, moving_square, write_video, tiny_checkpoint):
    (tmp_path / "data").mkdir()
    clips = [write_video(tmp_path / f"{n}.mp4", moving_square(20 + n, seed=n, step=2 + n)) for n in range(3)]
    write(tmp_path / "data", clips)
    options = {"strides": "0.5s", "columns": ["text"], "workers": 0}
    encode_dataset(tmp_path / "data", tiny_checkpoint, out=tmp_path / "whole.parquet", **options)

    def stop(state):
        if state.episodes_done:
            raise KeyboardInterrupt

    out = tmp_path / "stopped.parquet"
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(tmp_path / "data", tiny_checkpoint, out=out, progress=stop, **options)
    summary = encode_dataset(tmp_path / "data", tiny_checkpoint, out=out, **options)
    assert (summary.resumed, summary.encoded) == (1, 3)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert pq.read_table(out)["text"].unique().to_pylist() == ["task 0", "task 1", "task 2"]


def test_a_table_written_into_the_dataset_s_folder_is_not_its_part(
    tmp_path, moving_square, write_video, tiny_checkpoint
):
    root = tmp_path / "data"
    root.mkdir()
    clips = [write_video(tmp_path / f"{n}.mp4", moving_square(20, seed=n)) for n in range(3)]
    three_in_parquet(root, clips)
    for name in ("a_tokens.parquet", "tokens.parquet"):
        for _ in range(2):
            summary = encode_dataset(root, tiny_checkpoint, out=root / name, strides="0.5s", workers=0)
            assert (summary.episodes, summary.failed) == (3, {})
    assert summary.already_complete


def test_a_list_that_changed_is_another_job(tmp_path, moving_square, write_video, tiny_checkpoint):
    write_video(tmp_path / "a.mp4", moving_square(20))
    listed, out = tmp_path / "clips.csv", tmp_path / "t.parquet"
    listed.write_text("path,label\na.mp4,push\n")
    options = {"from_list": listed, "columns": "text", "strides": "0.5s", "workers": 0, "out": out}
    encode_dataset(tmp_path, tiny_checkpoint, **options)
    listed.write_text("path,label\na.mp4,pull\n")
    with pytest.raises(JobMismatchError, match=r"was made by another job: source was .*, revision .* and is "):
        encode_dataset(tmp_path, tiny_checkpoint, **options)
