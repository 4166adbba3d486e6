"""RLDS folders with metadata and shards that are damaged, or that lie."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from rlds_files import crc, example, framed, image, mapping, png, sequence, tensor

from lara_tokenizer.data.episode import Episode
from lara_tokenizer.data.listing import Listing, ListOptions
from lara_tokenizer.data.rlds.dataset import list_episodes
from lara_tokenizer.errors import EpisodeReadError

FRAMES = [png(np.full((8, 8, 3), 10 * t, np.uint8)) for t in range(3)]
INFO = {"name": "demo", "splits": [{"name": "train", "shardLengths": ["2"]}]}


def write(folder: Path, observation: dict | None = None, values: dict | None = None, info: object = INFO) -> Path:
    """A set of two episodes of three steps; `observation` and `values` add features."""
    step = {"observation": mapping({"rgb": image(), **(observation or {})}), "action": tensor((2,))}
    (folder / "features.json").write_text(json.dumps(mapping({"steps": sequence(mapping(step))})))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    stored = {"steps/observation/rgb": FRAMES, "steps/action": np.arange(6, dtype=np.float32), **(values or {})}
    (folder / "demo-train.tfrecord-00000-of-00001").write_bytes(2 * framed(example(stored)))
    return folder


def listed(folder: Path, **options) -> Listing:
    return list_episodes(str(folder), ListOptions(**options))


def check(episode: Episode) -> None:
    assert episode.frames(episode.cameras[0], range(3))[:, 0, 0, 0].tolist() == [0, 10, 20]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("{video_key:>2000000000}", "'{video_key:>2000000000}' has no name"),
        (None, "has no name"),
        ({"name": 7, "shardLengths": ["2"]}, "has no name"),
        ({"name": "train", "shardLengths": "2"}, "'train': shardLengths is no list"),
        ({"name": "train", "shardLengths": [2.5]}, "'train': shard length '2.5' is no number of episodes"),
        ({"name": "train", "shardLengths": [-1]}, "'train': shard length -1: takes 0 to"),
        ({"name": "train", "shardLengths": ["9" * 18]}, "takes 0 to 1,000,000,000 episodes"),
        ({"name": "train", "shardLengths": ["2"], "filepathTemplate": "{SPLIT:>2000000000}"}, "cannot be used"),
        ({"name": "train", "shardLengths": ["2"], "filepathTemplate": "{SPLIT.__class__}"}, "cannot be used"),
        ({"name": "train", "shardLengths": ["2"], "filepathTemplate": ["x"]}, "it is not a text"),
        ({"name": "train", "shardLengths": ["2"], "filepathTemplate": "../{SPLIT}"}, "outside the dataset's folder"),
        ({"name": "train", "shardLengths": ["2"], "filepathTemplate": "/etc/{SPLIT}"}, "outside the dataset's folder"),
    ],
)
def test_a_split_that_is_none_is_refused_and_costs_itself(tmp_path, split, message):
    write(tmp_path, info=INFO | {"splits": [split]})
    with pytest.raises(ValueError, match=rf"dataset_info.json: a split of it is invalid .*{message}"):
        listed(tmp_path)
    found = listed(write(tmp_path, info=INFO | {"splits": [split, *INFO["splits"]]}))
    assert len(found.episodes) == 2
    assert "a split of it is invalid" in found.notes[-1]


def test_metadata_with_a_byte_order_mark_and_odd_values_is_read(tmp_path):
    write(tmp_path, info=INFO | {"name": None, "numShards": 10**30, "version": []})
    for name in ("features.json", "dataset_info.json"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    (shard,) = tmp_path.glob("demo*")
    shard.rename(tmp_path / f"{tmp_path.name}-train.tfrecord-00000-of-00001")
    for episode in listed(tmp_path).episodes:
        check(episode)


def nested(depth: int) -> dict:
    node = tensor((2,))
    for _ in range(depth):
        node = mapping({"x": node})
    return node


@pytest.mark.parametrize(
    "feature",
    [nested(40), {"pythonClassName": "a", "tensor": "[" * 9000}, {"type": 3, "content": []}, [], "x", tensor((1e400,))],
)
def test_features_that_are_none_are_refused_in_one_line(tmp_path, feature):
    with pytest.raises(
        ValueError, match=r"features.json: not the features of an RLDS dataset|features.json: not JSON"
    ) as caught:
        listed(write(tmp_path, {"odd": feature}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(-3,), (0, 4)])
def test_a_feature_of_no_size_is_left_alone(tmp_path, shape):
    check(
        listed(write(tmp_path, {"odd": tensor(shape)}, {"steps/observation/odd": np.zeros(0, np.float32)})).episodes[0]
    )


def test_a_feature_of_an_impossible_size_costs_no_memory(tmp_path):
    write(tmp_path, {"odd": tensor((10**9, 10**9))}, {"steps/observation/odd": np.zeros(3, np.float32)})
    with pytest.raises(EpisodeReadError, match="observation/odd has 3 numbers, not a multiple of 1000000000000000000"):
        check(listed(tmp_path).episodes[0])


def test_a_compressed_step_is_not_unpacked_beyond_its_size(tmp_path):
    rows = [zlib.compress(np.zeros(4, np.float32).tobytes())] * 3
    bomb = [zlib.compress(bytes(10**7))] * 3
    feature = {"state": tensor((4,), encoding="zlib")}
    (episode, _) = listed(write(tmp_path, feature, {"steps/observation/state": rows})).episodes
    assert episode.signals().states.shape == (3, 4)
    (episode, _) = listed(write(tmp_path, feature, {"steps/observation/state": bomb})).episodes
    with pytest.raises(EpisodeReadError, match=r"observation/state cannot be read .a step has more than its 16 bytes"):
        episode.signals()


@pytest.mark.parametrize("claim", [2**60, 2**64 - 1])
def test_a_record_that_claims_more_than_the_file_holds_is_not_allocated(tmp_path, claim):
    write(tmp_path)
    (shard,) = tmp_path.glob("demo*")
    length = struct.pack("<Q", claim)
    first = shard.read_bytes()[: shard.stat().st_size // 2]
    shard.write_bytes(first + length + crc(length) + bytes(100))
    found = listed(tmp_path)
    check(found.episodes[0])
    assert f"the file ends within the record at byte {len(first)}" in found.notes[-1]
    with pytest.raises(EpisodeReadError, match="the file ends within this record"):
        found.episodes[1].num_frames("rgb")


def test_depth_and_masks_are_read_only_where_they_are_named(tmp_path):
    flat = [png(np.full((8, 8, 3), 200, np.uint8))] * 3
    extra = {"a_depth": image(), "a_segmentation": image(), "depth": image(1, "uint16"), "zdepth": image(1)}
    values = {f"steps/observation/{name}": flat for name in extra}
    write(tmp_path, extra, values)
    for options in ({}, {"cameras": ("all",)}):
        found = listed(tmp_path, **options)
        assert found.episodes[0].cameras == ("rgb",)
        check(found.episodes[0])
    assert listed(tmp_path, cameras=("a_depth",)).episodes[0].frames("a_depth", [0])[0, 0, 0, 0] == 200


def test_an_episode_names_its_shard_and_a_digest_of_its_record(tmp_path):
    one, two = listed(write(tmp_path)).episodes
    assert [path.name for path in one.files("rgb")] == ["demo-train.tfrecord-00000-of-00001"]
    assert one.reader.index("rgb").digest == two.reader.index("rgb").digest != ""
    write(tmp_path, values={"steps/action": np.ones(6, np.float32)})
    assert listed(tmp_path).episodes[0].reader.index("rgb").digest != one.reader.index("rgb").digest
