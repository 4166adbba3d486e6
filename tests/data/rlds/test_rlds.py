"""RLDS without TensorFlow: sets are written here by hand, so that what is stored is known to the byte."""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rlds_files import TFDS, example, framed, image, mapping, png, sequence, tensor, text

from lara_tokenizer import encode_dataset
from lara_tokenizer.data import Stride, load_episodes
from lara_tokenizer.data.listing import Listing, ListOptions
from lara_tokenizer.data.rlds import open_x
from lara_tokenizer.data.rlds.dataset import detect, find_version, list_episodes
from lara_tokenizer.data.rlds.features import choose_signals, read_features
from lara_tokenizer.data.rlds.tfrecord import example_class, parse_example
from lara_tokenizer.errors import EpisodeReadError

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class RldsSet:
    """What `write_set` wrote: frames and actions by id, and where each record starts."""

    folder: Path
    wrist: dict[str, np.ndarray] = field(default_factory=dict)
    raw: dict[str, np.ndarray] = field(default_factory=dict)
    actions: dict[str, np.ndarray] = field(default_factory=dict)
    records: dict[str, tuple[Path, int]] = field(default_factory=dict)


FEATURES = mapping(
    {
        "steps": sequence(
            mapping(
                {
                    "observation": mapping(
                        {
                            "arm": mapping({"wrist_cam": image(), "depth": image(1, "uint16")}),
                            "overview": tensor((6, 8, 3), "uint8"),
                            "proprio": tensor((2, 2), "float64"),
                        }
                    ),
                    "action": tensor((3,)),
                    "natural_language_instruction": text(),
                    "is_last": tensor((), "bool"),
                }
            )
        ),
        "episode_metadata": mapping({"file_path": text()}),
    }
)


def list_rlds(source, **options) -> Listing:
    return list_episodes(str(source), ListOptions(**options))


def is_detected(folder: Path) -> bool:
    return detect(folder, {entry.name for entry in folder.iterdir()})


def steps(rng: np.random.Generator, count: int, name: str) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
    wrist = rng.integers(0, 256, (count, 10, 12, 3), dtype=np.uint8)
    raw = rng.integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    actions = rng.normal(size=(count, 3)).astype(np.float32)
    values = {
        "steps/observation/arm/wrist_cam": [png(pixels) for pixels in wrist],
        "steps/observation/arm/depth": [b"depth is not read"] * count,
        "steps/observation/overview": raw,
        "steps/observation/proprio": np.arange(4 * count, dtype=np.float64),
        "steps/action": actions,
        "steps/natural_language_instruction": [f"{name}: step {step}".encode() for step in range(count)],
        "steps/is_last": np.arange(count) == count - 1,
        "episode_metadata/file_path": [b"somewhere"],
    }
    return values, wrist, raw, actions


@pytest.fixture
def write_set(tmp_path) -> Callable[..., RldsSet]:
    """write_set(splits={"train": [2, 3, 1], "test": [2]}, name="demos", template=None, edit=None) -> RldsSet."""

    def write(
        splits: dict[str, list[int]] | None = None,
        name: str = "demos",
        template: str | None = None,
        edit: Callable[[str, dict], None] = lambda episode, values: None,
    ) -> RldsSet:
        folder = tmp_path / name / "1.0.0"
        folder.mkdir(parents=True)
        made = RldsSet(folder)
        entries = []
        rng = np.random.default_rng(0)
        for split, lengths in (splits or {"train": [2, 3, 1], "test": [2]}).items():
            number = 0
            for shard, length in enumerate(lengths):
                path = folder / f"{name}-{split}.tfrecord-{shard:05d}-of-{len(lengths):05d}"
                data = b""
                for _ in range(length):
                    episode = f"{split}/{number:06d}"
                    values, made.wrist[episode], made.raw[episode], made.actions[episode] = steps(
                        rng, 3 + number, episode
                    )
                    edit(episode, values)
                    made.records[episode] = (path, len(data))
                    data += framed(example(values))
                    number += 1
                path.write_bytes(data)
            entry = {"name": split, "shardLengths": [str(length) for length in lengths], "numBytes": "1"}
            entries.append(entry | ({"filepathTemplate": template} if template else {}))
        (folder / "features.json").write_text(json.dumps(FEATURES))
        (folder / "dataset_info.json").write_text(json.dumps({"name": name, "version": "1.0.0", "splits": entries}))
        return made

    return write


def by_id(found):
    return {episode.id: episode for episode in found.episodes}


# --- what is read -------------------------------------------------------------------------------------------------


def test_frames_actions_states_and_text_are_those_that_were_written(write_set):
    made = write_set()
    found = list_rlds(made.folder, cameras=["all"])
    assert found.format == "RLDS"
    assert found.name == "demos"
    episodes = by_id(found)
    assert list(episodes) == [*(f"train/{n:06d}" for n in range(6)), "test/000000", "test/000001"]
    for name, episode in episodes.items():
        count = len(made.actions[name])
        assert episode.cameras == ("arm/wrist_cam", "overview")
        assert episode.index == int(name[-6:])
        assert episode.available_signals == ("actions", "states", "text")
        assert episode.num_frames("overview") == count
        np.testing.assert_array_equal(episode.frames("arm/wrist_cam", range(count)), made.wrist[name])
        np.testing.assert_array_equal(episode.frames("overview", [2, 0, 2]), made.raw[name][[2, 0, 2]])
        signals = episode.signals()
        assert signals.actions.dtype == signals.states.dtype == np.float32
        np.testing.assert_array_equal(signals.actions, made.actions[name])
        np.testing.assert_array_equal(signals.states, np.arange(4 * count).reshape(count, 4))
        assert signals.texts == tuple(f"{name}: step {step}" for step in range(count))
        signals.check_length(count, name)
        episode.close()


def test_one_camera_is_taken_and_said_where_none_is_asked_for(write_set):
    made = write_set()
    found = list_rlds(made.folder)
    assert found.episodes[0].cameras == ("arm/wrist_cam",)
    assert "took camera 'arm/wrist_cam' of arm/wrist_cam, overview" in found.notes
    assert list_rlds(made.folder, cameras=["wrist_cam"]).episodes[0].cameras == ("arm/wrist_cam",)


def test_no_frames_asked_for_gives_none_and_one_outside_is_an_index_error(write_set):
    episode = list_rlds(write_set().folder, cameras=["all"]).episodes[0]
    assert episode.frames("arm/wrist_cam", []).shape == (0, 10, 12, 3)
    assert episode.frames("overview", []).shape == (0, 6, 8, 3)
    with pytest.raises(IndexError, match="at byte 0: frames 3 to 3 requested, it has 0 to 2"):
        episode.frames("overview", [3])


def test_a_version_folder_is_found_and_the_highest_one_is_taken(write_set, tmp_path):
    made = write_set()
    assert is_detected(made.folder)
    assert find_version(made.folder) == made.folder
    assert find_version(tmp_path / "demos") == made.folder
    for version in ("0.9.0", "1.0.0", "9.9.9", "10.0.0"):
        (tmp_path / "demos" / version).mkdir(exist_ok=True)
    made.folder.rename(tmp_path / "moved")
    (tmp_path / "demos" / "10.0.0").rmdir()
    (tmp_path / "moved").rename(tmp_path / "demos" / "10.0.0")
    (tmp_path / "demos" / "9.9.9" / "features.json").write_text("{}")
    assert find_version(tmp_path / "demos") == tmp_path / "demos" / "10.0.0"
    assert find_version(tmp_path) is None
    assert find_version(tmp_path / "absent") is None
    with pytest.raises(ValueError, match=r"no RLDS dataset. Looked for features.json and dataset_info.json"):
        list_rlds(tmp_path)


def test_one_split_is_listed_and_an_unknown_one_is_named_with_those_there_are(write_set):
    made = write_set()
    assert [episode.id for episode in list_rlds(made.folder, split="test").episodes] == ["test/000000", "test/000001"]
    with pytest.raises(ValueError, match=r"no split 'val'. There are: train, test"):
        list_rlds(made.folder, split="val")
    with pytest.raises(ValueError, match=r"camera 'front' is no camera of it. There are: arm/wrist_cam, overview"):
        list_rlds(made.folder, cameras=["front"])


def test_shards_are_named_by_the_template(write_set):
    made = write_set({"train": [1]}, template="{SPLIT}/{DATASET}.{FILEFORMAT}-{SHARD_INDEX}")
    (made.folder / "train").mkdir()
    (made.folder / "demos-train.tfrecord-00000-of-00001").rename(made.folder / "train" / "demos.tfrecord-00000")
    assert by_id(list_rlds(made.folder)).keys() == {"train/000000"}


def test_a_reader_travels_closed(write_set):
    made = write_set()
    reader = list_rlds(made.folder).episodes[1].reader
    reader.frames("arm/wrist_cam", [0])
    packed = pickle.dumps(reader)
    assert len(packed) < 4000
    again = pickle.loads(packed)
    np.testing.assert_array_equal(again.frames("arm/wrist_cam", [3]), made.wrist["train/000001"][[3]])


# --- control rates --------------------------------------------------------------------------------------------------


def test_a_known_set_has_its_published_rate_and_camera(write_set):
    found = list_rlds(write_set(name="bridge_dataset").folder)
    np.testing.assert_allclose(found.episodes[0].timestamps("arm/wrist_cam"), np.arange(3) / 5)
    assert "5 Hz, the control rate of bridge_dataset as published" in found.notes
    assert open_x.find_set("viola").camera == "agentview_rgb"


def test_without_a_rate_the_error_says_fps_and_a_given_rate_works(write_set):
    made = write_set()
    with pytest.raises(ValueError, match=r"demos \(RLDS\) states no frame rate. Give its frames per second: fps=10"):
        load_episodes(made.folder)
    assert load_episodes(made.folder, fps=4)[0].timestamps("arm/wrist_cam").tolist() == [0, 0.25, 0.5]
    found = list_rlds(made.folder)
    assert found.needs_rate
    episode = found.episodes[0]
    assert episode.num_frames("arm/wrist_cam") == 3
    with pytest.raises(EpisodeReadError, match="--fps"):
        episode.timestamps("arm/wrist_cam")
    episode.fps = 4
    assert episode.timestamps("arm/wrist_cam").tolist() == [0, 0.25, 0.5]


# --- what is missing or damaged -------------------------------------------------------------------------------------


def test_a_missing_shard_is_said_and_numbers_stay_the_same(write_set):
    made = write_set()
    (made.folder / "demos-train.tfrecord-00001-of-00003").unlink()
    found = list_rlds(made.folder, split="train")
    assert list(by_id(found)) == ["train/000000", "train/000001", "train/000005"]
    assert "split train: its shard demos-train.tfrecord-00001-of-00003 is missing" in found.notes
    np.testing.assert_array_equal(by_id(found)["train/000005"].signals().actions, made.actions["train/000005"])


def test_a_missing_split_is_said_and_nothing_at_all_is_an_error(write_set):
    made = write_set({"train": [1], "val": [2, 2]})
    for shard in made.folder.glob("*-val.*"):
        shard.unlink()
    found = list_rlds(made.folder)
    assert list(by_id(found)) == ["train/000000"]
    note = "split val: 2 of its shards are missing (demos-val.tfrecord-00000-of-00002 and others)"
    assert note in found.notes
    with pytest.raises(ValueError, match=r"no episode can be read: .*split val: 2 of its shards are missing"):
        list_rlds(made.folder, split="val")


def test_other_counts_than_promised_are_said(write_set):
    made = write_set({"train": [2, 1]})
    first = made.folder / "demos-train.tfrecord-00000-of-00002"
    first.write_bytes(first.read_bytes() + first.read_bytes())
    found = list_rlds(made.folder)
    assert [episode.index for episode in found.episodes] == [0, 1, 2, 3, 4]
    assert f"split train: {first.name} holds 4 episodes, dataset_info.json promises 2" in found.notes


def test_a_damaged_record_is_named_by_shard_and_byte_and_the_others_are_unharmed(write_set):
    made = write_set({"train": [3]})
    path, offset = made.records["train/000001"]
    data = bytearray(path.read_bytes())
    data[offset + 500] ^= 1
    path.write_bytes(data)
    found = list_rlds(made.folder)
    episodes = by_id(found)
    assert not any(path.name in note for note in found.notes)
    for read in (
        lambda e: e.num_frames("arm/wrist_cam"),
        lambda e: e.frames("arm/wrist_cam", [0]),
        lambda e: e.signals(),
    ):
        with pytest.raises(EpisodeReadError, match=f"{path.name} at byte {offset}: the record's checksum is wrong"):
            read(episodes["train/000001"])
    for name in ("train/000000", "train/000002"):
        np.testing.assert_array_equal(episodes[name].signals().actions, made.actions[name])


def test_behind_a_damaged_header_nothing_is_found_and_is_reported(write_set):
    made = write_set({"train": [4, 1]})
    path, offset = made.records["train/000001"]
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    found = list_rlds(made.folder)
    episodes = by_id(found)
    assert list(episodes) == ["train/000000", "train/000001", "train/000004"]
    expected = f"split train: {path.name}: the header of the record at byte {offset} is damaged; 2 episodes after it"
    assert any(expected in note for note in found.notes)
    with pytest.raises(EpisodeReadError, match=f"{path.name} at byte {offset}: .* is damaged"):
        episodes["train/000001"].num_frames("arm/wrist_cam")
    for name in ("train/000000", "train/000004"):
        np.testing.assert_array_equal(episodes[name].frames("arm/wrist_cam", [0]), made.wrist[name][[0]])


def test_a_damaged_record_is_named_to_people_and_costs_its_episode_alone(write_set, tiny_checkpoint, tmp_path, caplog):
    made = write_set({"train": [3]})
    path, offset = made.records["train/000001"]
    spoiled = bytearray(path.read_bytes())
    spoiled[offset + 40] ^= 1
    path.write_bytes(spoiled)
    out = tmp_path / "t.parquet"
    summary = encode_dataset(made.folder, tiny_checkpoint, out=out, strides="1f", fps=5, workers=0)
    damaged = f"{path.name} at byte {offset}: the record's checksum is wrong: its data are damaged"
    assert summary.failed == {"train/000001": damaged}
    assert summary.encoded == 2
    assert json.loads((tmp_path / "t.parquet.failed.jsonl").read_text()) == {
        "episode": "train/000001",
        "reason": damaged,
    }
    # Looking for a task reads the records: the damaged one has none, and the others are found.
    assert len(load_episodes(made.folder, fps=5, tasks="step")) == 2
    assert "the text of train/000001 cannot be read" in caplog.text


@pytest.mark.parametrize("length", [7, 12, 500])
def test_of_a_truncated_shard_the_last_record_fails_and_is_reported(write_set, length):
    made = write_set({"train": [3]})
    path, offset = made.records["train/000001"]
    path.write_bytes(path.read_bytes()[: offset + length])
    found = list_rlds(made.folder)
    assert list(by_id(found)) == ["train/000000", "train/000001"]
    assert any(f"the file ends within the record at byte {offset}; 1 episodes after it" in n for n in found.notes)
    with pytest.raises(EpisodeReadError, match=f"{path.name} at byte {offset}: the file ends within"):
        found.episodes[1].signals()
    np.testing.assert_array_equal(found.episodes[0].signals().actions, made.actions["train/000000"])


def test_a_compressed_shard_is_refused(write_set):
    made = write_set({"train": [1]})
    path = made.folder / "demos-train.tfrecord-00000-of-00001"
    path.write_bytes(b"\x1f\x8b\x08\x00" + path.read_bytes())
    with pytest.raises(ValueError, match="a compressed TFRecord file"):
        list_rlds(made.folder)


def test_an_undecodable_picture_names_shard_byte_and_step(write_set):
    def spoil(episode, values):
        if episode == "train/000001":
            values["steps/observation/arm/wrist_cam"][2] = b"not an image"

    made = write_set({"train": [2]}, edit=spoil)
    path, offset = made.records["train/000001"]
    episode = by_id(list_rlds(made.folder))["train/000001"]
    np.testing.assert_array_equal(episode.frames("arm/wrist_cam", [1]), made.wrist["train/000001"][[1]])
    with pytest.raises(EpisodeReadError, match=f"{path.name} at byte {offset}: step 2 of observation/arm/wrist_cam"):
        episode.frames("arm/wrist_cam", [1, 2])


def test_a_picture_of_another_size_names_both(write_set):
    def spoil(episode, values):
        values["steps/observation/arm/wrist_cam"][1] = png(np.zeros((4, 5, 3), np.uint8))

    episode = list_rlds(write_set({"train": [1]}, edit=spoil).folder).episodes[0]
    with pytest.raises(EpisodeReadError, match="step 1 of observation/arm/wrist_cam is 5x4, the first image 12x10"):
        episode.frames("arm/wrist_cam", [1])


def test_steps_of_several_lengths_are_an_error_that_names_both(write_set):
    def spoil(episode, values):
        values["steps/action"] = values["steps/action"][:-1]

    episode = list_rlds(write_set({"train": [1]}, edit=spoil).folder).episodes[0]
    with pytest.raises(EpisodeReadError, match="2 steps of action and 3 steps of is_last"):
        episode.num_frames("arm/wrist_cam")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps/action", None, "it has no 'steps/action', which features.json promises"),
        ("steps/action", np.zeros(4, np.float32), "action has 4 numbers, not a multiple of 3"),
        ("steps/action", [b"a", b"b", b"c"], "action is stored as bytes, not as features.json says"),
    ],
)
def test_a_record_that_is_not_what_features_json_says_is_refused(write_set, key, value, message):
    def spoil(episode, values):
        del values[key]
        if value is not None:
            values[key] = value

    episode = list_rlds(write_set({"train": [1]}, edit=spoil).folder).episodes[0]
    with pytest.raises(EpisodeReadError, match=message):
        episode.signals()


def test_data_that_is_no_example_is_refused(write_set):
    made = write_set({"train": [1]})
    (made.folder / "demos-train.tfrecord-00000-of-00001").write_bytes(framed(b"\xff\xff\xff"))
    with pytest.raises(EpisodeReadError, match=r"no tf\.train\.Example"):
        list_rlds(made.folder).episodes[0].signals()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("features.json", "{", "features.json: not the features of an RLDS dataset"),
        ("features.json", json.dumps(mapping({"image": image()})), "no 'steps' among image"),
        ("features.json", json.dumps(mapping({"steps": sequence(mapping({"action": tensor((2,))}))})), "no camera"),
        ("dataset_info.json", "[]", "dataset_info.json: not an RLDS dataset's"),
        ("dataset_info.json", '{"splits": [{}]}', "a split of it is invalid"),
        ("dataset_info.json", '{"splits": [], "fileFormat": "array_record"}', "array_record files; tfrecord is read"),
    ],
)
def test_what_is_no_rlds_dataset_is_refused_with_the_file(write_set, name, content, message):
    made = write_set()
    (made.folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        list_rlds(made.folder)


# --- features.json --------------------------------------------------------------------------------------------------


def old(class_name: str, content: Any) -> dict:
    """A node as TFDS wrote it before 2022."""
    return {"type": TFDS + class_name, "content": content, "proto_cls": ""}


def read(tmp_path: Path, root: dict):
    path = tmp_path / "features.json"
    path.write_text(json.dumps(root))
    return read_features(path)


def test_older_files_say_the_same(tmp_path):
    number = old("feature.Tensor", {"shape": [3], "dtype": "float32", "encoding": "none"})
    image_node = old("image_feature.Image", {"shape": [None, None, 3], "dtype": "uint8", "encoding_format": "jpeg"})
    words = old("text_feature.Text", json.dumps({}))
    inner = old("features_dict.FeaturesDict", {"a": image_node, "action": number, "language_instruction": words})
    steps = old("sequence_feature.Sequence", {"feature": inner, "length": None})
    features = read(tmp_path, old("features_dict.FeaturesDict", {"steps": steps}))
    assert [(each.key, each.kind, each.shape) for each in features.steps] == [
        ("steps/a", "image", (-1, -1, 3)),
        ("steps/action", "numbers", (3,)),
        ("steps/language_instruction", "text", ()),
    ]


def test_depth_is_no_camera_and_what_has_no_fixed_size_is_skipped(tmp_path):
    observation = {
        "rgb": image(),
        "rgba": image(4),
        "depth": image(1),
        "depth16": image(3, "uint16"),
        "float": tensor((4, 4, 3)),
        "points": tensor((-1, 3)),
        "boxes": sequence(tensor((4,)), "sequence_feature.Sequence"),
        "clip/path": tensor((7,), encoding="zlib"),
        "task": {"pythonClassName": f"{TFDS}class_label_feature.ClassLabel", "classLabel": {"numClasses": "3"}},
        "film": {"pythonClassName": f"{TFDS}video_feature.Video", "video": {}},
    }
    features = read(tmp_path, mapping({"steps": sequence(mapping({"observation": mapping(observation)}))}))
    assert list(features.cameras()) == ["rgb", "rgba"]
    assert set(features.skipped) == {"observation/points", "observation/boxes", "observation/film"}
    kinds = {each.path: (each.kind, each.encoding) for each in features.steps}
    assert kinds["observation/clip/path"] == ("numbers", "zlib")
    assert kinds["observation/task"] == ("numbers", "none")


def chosen(tmp_path: Path, step: dict, name: str = "", **episode: dict):
    features = read(tmp_path, mapping({"steps": sequence(mapping(step)), **episode}))
    signals = choose_signals(features, open_x.find_set(name))
    paths = [
        [(part.feature.path, part.start, part.stop) for part in parts] for parts in (signals.actions, signals.states)
    ]
    return *paths, signals.text and signals.text.path, signals.notes


def test_the_table_and_the_features_name_the_numbers_of_an_action(tmp_path):
    inner = {"gripper_closedness_action": tensor((1,)), "world_vector": tensor((3,)), "rotation_delta": tensor((3,))}
    step = {"action": mapping(inner), "observation": mapping({"state": tensor((7,))})}
    features = read(tmp_path, mapping({"steps": sequence(mapping(step))}))
    published = choose_signals(features, open_x.find_set("fractal20220817_data")).names
    assert published.actions == ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    assert published.action_kinds == ("delta",) * 7  # RT-1 moves its gripper, too, by changes
    assert open_x.find_set("bridge_dataset").kinds_of_numbers == ("delta",) * 6 + ("",)
    assert set(open_x.find_set("cmu_stretch").kinds_of_numbers) == {""}
    unknown = choose_signals(features, None).names
    assert unknown.actions[0] == "gripper_closedness_action[0]"
    assert unknown.actions[1] == "rotation_delta[0]"
    assert (unknown.states, unknown.action_kinds) == ((), ())


def test_an_action_of_several_tensors_is_put_together_as_the_table_says(tmp_path):
    inner = {"terminate_episode": tensor((3,), "int32"), "gripper_closedness_action": tensor((1,))}
    action = mapping(inner | {"rotation_delta": tensor((3,)), "world_vector": tensor((3,))})
    observation = mapping({"natural_language_instruction": tensor((), "string"), "gripper_closed": tensor((1,))})
    step = {"action": action, "observation": observation}
    actions, states, words, notes = chosen(tmp_path, step, "fractal20220817_data")
    assert [path for path, _, _ in actions] == list(open_x.find_set("fractal20220817_data").action)
    assert words == "observation/natural_language_instruction"
    assert states == []
    assert notes == ("no 'observation/base_pose_tool_reached' in it, which its published version has",)


def test_an_unknown_action_of_several_tensors_is_sorted_and_named(tmp_path):
    action = mapping({"world_vector": tensor((3,)), "open_gripper": tensor((), "bool")})
    actions, _, words, notes = chosen(tmp_path, {"action": action, "state": tensor((4,))}, episode_metadata=mapping({}))
    assert actions == [("action/open_gripper", 0, 1), ("action/world_vector", 0, 3)]
    assert notes == ("an action is action/open_gripper, action/world_vector, side by side",)
    assert words is None


def test_the_table_may_take_some_of_an_actions_numbers(tmp_path):
    actions, *_ = chosen(tmp_path, {"action": tensor((15,))}, "nyu_franka_play_dataset_converted_externally_to_rlds")
    assert actions == [("action", 7, 14)]
    actions, _, _, notes = chosen(tmp_path, {"action": tensor((7,))}, "nyu-franka-play-dataset")
    assert actions == [("action", 0, 7)]
    assert notes == ("no 'action[7:14]' in it, which its published version has",)


def test_an_episodes_own_text_holds_for_all_steps(write_set):
    made = write_set({"train": [1]})
    features = json.loads((made.folder / "features.json").read_text())
    step = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    step["other"] = step.pop("natural_language_instruction")
    meta = features["featuresDict"]["features"]["episode_metadata"]["featuresDict"]["features"]
    meta["episode_language_instruction"] = text()
    (made.folder / "features.json").write_text(json.dumps(features))
    path = made.folder / "demos-train.tfrecord-00000-of-00001"
    message = example_class().FromString(path.read_bytes()[12:-4])
    message.features.feature["episode_metadata/episode_language_instruction"].bytes_list.value.append(b"pour tea")
    path.write_bytes(framed(message.SerializeToString()))
    assert list_rlds(made.folder).episodes[0].signals().texts == ("pour tea",) * 3


# --- values ---------------------------------------------------------------------------------------------------------


def test_every_way_of_storing_numbers_is_undone(write_set):
    rng = np.random.default_rng(1)
    numbers = {
        "bool": rng.integers(0, 2, (3, 2)).astype(bool),
        "uint8": rng.integers(0, 256, (3, 2), dtype=np.uint8),
        "int32": rng.integers(-9, 9, (3, 2), dtype=np.int32),
        "uint64": rng.integers(0, 9, (3, 2), dtype=np.uint64),
        "float64": rng.normal(size=(3, 2)).astype(np.float32).astype(np.float64),
    }
    action, values = {}, {}
    for dtype, array in numbers.items():
        action[f"{dtype}_none"] = tensor((2,), dtype)
        action[f"{dtype}_bytes"] = tensor((2,), dtype, "bytes")
        action[f"{dtype}_zlib"] = tensor((2,), dtype, "zlib")
        values[f"steps/action/{dtype}_none"] = array
        values[f"steps/action/{dtype}_bytes"] = [row.tobytes() for row in array]
        values[f"steps/action/{dtype}_zlib"] = [zlib.compress(row.tobytes()) for row in array]
    action["bfloat16_bytes"] = tensor((1,), "bfloat16", "bytes")
    values["steps/action/bfloat16_bytes"] = [struct.pack("<H", 0x3F80 + step) for step in range(3)]

    def replace(episode, stored):
        del stored["steps/action"]
        stored.update(values)

    made = write_set({"train": [1]}, edit=replace)
    features = json.loads((made.folder / "features.json").read_text())
    inside = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    inside["action"] = mapping(action)
    (made.folder / "features.json").write_text(json.dumps(features))
    actions = list_rlds(made.folder).episodes[0].signals().actions
    names = [name for name in sorted(action) for _ in range(1 if name.startswith("bfloat") else 2)]
    for dtype, array in numbers.items():
        for encoding in ("none", "bytes", "zlib"):
            columns = [column for column, name in enumerate(names) if name == f"{dtype}_{encoding}"]
            np.testing.assert_array_equal(actions[:, columns], array.astype(np.float32))
    np.testing.assert_allclose(actions[:, names.index("bfloat16_bytes")], [1, 1.0078125, 1.015625])


def test_an_instruction_kept_as_letters_numbers_is_text(write_set):
    padded = np.zeros((3, 16), np.int32)
    padded[:, :9] = np.frombuffer("öffne es".encode(), np.uint8)

    def replace(episode, stored):
        del stored["steps/natural_language_instruction"]
        stored["steps/observation/instruction"] = padded

    made = write_set({"train": [1]}, edit=replace)
    features = json.loads((made.folder / "features.json").read_text())
    step = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    del step["natural_language_instruction"]
    step["observation"]["featuresDict"]["features"]["instruction"] = tensor((16,), "int32")
    (made.folder / "features.json").write_text(json.dumps(features))
    assert list_rlds(made.folder).episodes[0].signals().texts == ("öffne es",) * 3


def test_an_empty_feature_is_an_empty_list():
    message = example_class()()
    message.features.feature["nothing"].SetInParent()
    assert parse_example(message.SerializeToString()) == {"nothing": []}


# --- the table ------------------------------------------------------------------------------------------------------


def test_the_table_makes_sense():
    names = [name for row in open_x.open_x_sets() for name in (row.name, *row.aliases)]
    assert len(names) == len(set(names))
    assert 25 <= sum(row.in_mixture for row in open_x.open_x_sets()) <= 32
    for row in open_x.open_x_sets():
        assert row.kind in open_x._content()["kinds"]
        assert set(row.sources) <= set(open_x._content()["sources"])
        assert row.rate is None or 1 <= row.rate <= 50
        assert open_x.find_set(row.name) is row
    assert open_x.find_set("my_own_robot") is None


def test_the_page_and_the_mixture_are_those_of_the_table():
    assert (ROOT / "docs/oxe.md").read_text() == open_x.table_markdown(), "regenerate it by open_x.table_markdown"
    mixture = (ROOT / "hub_configs/training/oxe_mixture.yaml").read_text()
    assert mixture == open_x.mixture_yaml(), "regenerate it by open_x.mixture_yaml"
    sources = yaml.safe_load(mixture)["sources"]
    assert [source.partition("/")[2] for source in sources] == [
        row.name for row in open_x.open_x_sets() if row.in_mixture
    ]
    (stride,) = yaml.safe_load(mixture)["model"]["strides"]
    assert all(Stride.parse(stride).frames_at(row.rate) for row in open_x.open_x_sets() if row.in_mixture and row.rate)


# --- a published set ------------------------------------------------------------------------------------------------


def test_the_published_bridge_set(shared_data):
    found = list_rlds(shared_data / "bridge_rlds", cameras=["all"])
    assert found.name == "bridge_dataset"
    assert "split val: its shard bridge_dataset-val.tfrecord-00000-of-00001 is missing" in found.notes
    assert [episode.id for episode in found.episodes] == [f"train/{number:06d}" for number in range(25)]
    for episode in found.episodes:
        assert episode.cameras == ("image_0", "image_1", "image_2", "image_3")
        np.testing.assert_allclose(episode.timestamps("image_0"), np.arange(10) / 5)
        assert episode.frames("image_3", range(10)).shape == (10, 64, 64, 3)
        signals = episode.signals()
        signals.check_length(10, episode.id)
        assert signals.actions.shape == (10, 7)
        assert signals.states.shape == (10, 7)
        episode.close()
    # A film, not noise: neighbouring frames are alike.
    frames = found.episodes[0].frames("image_0", range(10)).astype(int)
    assert frames.std() > 20
    assert np.abs(np.diff(frames, axis=0)).mean() < 10
    assert any("lever" in text for episode in found.episodes for text in episode.signals().texts)
