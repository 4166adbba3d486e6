"""Episodes from rows of Hugging Face datasets, written by the datasets library. Without the Hub."""

import json
import os
import pickle
import subprocess
import sys
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lara_tokenizer.data import VideoReader, load_episodes
from lara_tokenizer.data.huggingface.dataset import list_episodes
from lara_tokenizer.data.listing import Listing, ListOptions
from lara_tokenizer.data.video.backends import video_reader_class
from lara_tokenizer.data.video.media import RemoteFile
from lara_tokenizer.errors import EpisodeReadError, VideoDecodeError

datasets = pytest.importorskip("datasets")


def list_datasets(source, **options) -> Listing:
    return list_episodes(str(source), ListOptions(**options))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What `datasets` prepares goes to the test's own folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_video, numbered_frames):
    """Five short videos."""
    folder = tmp_path_factory.mktemp("clips")
    return [write_video(folder / f"{n}.mp4", numbered_frames(n)) for n in range(6, 11)]


ACTIONS = [np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32) for n in range(6, 11)]


@pytest.fixture
def table(clips):
    """A dataset with a row for each clip: its bytes, an instruction, actions."""
    features = {
        "video": datasets.Video(),
        "caption": datasets.Value("string"),
        "actions": datasets.List(datasets.List(datasets.Value("float32"))),
    }
    rows = {
        "video": [{"bytes": clip.read_bytes(), "path": clip.name} for clip in clips],
        "caption": [f"task {n}" for n in range(5)],
        "actions": [rows.tolist() for rows in ACTIONS],
    }
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def check(episodes, clips, camera="video"):
    """The frames are those of the files."""
    for episode, clip in zip(episodes, clips, strict=True):
        expected = VideoReader(clip)
        count = expected.index().num_frames
        assert episode.num_frames(camera) == count
        np.testing.assert_array_equal(episode.frames(camera, range(count)), expected.frames("", range(count)))
        np.testing.assert_array_equal(episode.frames(camera, [4, 1, 1]), expected.frames("", [4, 1, 1]))


def save(table, folder, how):
    """One of the ways in which a dataset lies in a folder."""
    if how == "save_to_disk":
        table.save_to_disk(folder, num_shards=2)
    elif how == "dict":
        datasets.DatasetDict({"train": table}).save_to_disk(folder)
    else:
        (folder / "data").mkdir(parents=True)
        table.select(range(3)).to_parquet(folder / "data/train-00000-of-00002.parquet", batch_size=2)
        table.select(range(3, 5)).to_parquet(folder / "data/train-00001-of-00002.parquet")


WAYS = ["save_to_disk", "dict", "parquet"]


@pytest.mark.parametrize("how", WAYS)
def test_rows_are_episodes(table, clips, tmp_path, how):
    save(table, tmp_path / "set", how)
    found = list_datasets(str(tmp_path / "set"))
    assert found.name == "set"
    assert found.format.startswith("Hugging Face dataset, ")
    assert (found.notes, found.revision) == ([], None)
    assert [each.id for each in found.episodes] == [f"train/00000{n}" for n in range(5)]
    assert [each.index for each in found.episodes] == list(range(5))
    assert [each.text for each in found.episodes] == [f"task {n}" for n in range(5)]
    check(found.episodes, clips)
    for episode, actions in zip(found.episodes, ACTIONS, strict=True):
        assert (episode.cameras, episode.available_signals) == (("video",), ("actions", "text"))
        np.testing.assert_array_equal(episode.signals().actions, actions)
        assert episode.signals().texts == (episode.text,) * len(actions)
        assert episode.signals().states is None


@pytest.mark.parametrize("how", WAYS)
def test_rows_are_read_in_any_order_and_again(table, clips, tmp_path, how):
    save(table, tmp_path / "set", how)
    episodes = list_datasets(str(tmp_path / "set")).episodes
    check(episodes[::-1], clips[::-1])
    for episode in episodes:
        episode.close()
    check([episodes[3], episodes[0]], [clips[3], clips[0]])


def test_a_worker_needs_the_reader_and_not_the_datasets_library(table, clips, tmp_path):
    episodes = []
    for how in WAYS:
        save(table, tmp_path / how, how)
        episodes.append(list_datasets(str(tmp_path / how)).episodes[4])
        assert len(pickle.dumps(episodes[-1])) < 1000
    (tmp_path / "episodes.pickle").write_bytes(pickle.dumps(episodes))
    code = f"""
import pickle, sys, lara_tokenizer.data, numpy as np
assert not {{"datasets", "torch", "fsspec"}} & set(sys.modules)
episodes = pickle.load(open({str(tmp_path / "episodes.pickle")!r}, "rb"))
np.save({str(tmp_path / "frames.npy")!r}, np.stack([episode.frames("video", [9, 0]) for episode in episodes]))
assert all(episode.signals().actions.shape == (10, 3) for episode in episodes)
assert not {{"datasets", "torch", "fsspec"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    for frames in np.load(tmp_path / "frames.npy"):
        np.testing.assert_array_equal(frames, VideoReader(clips[4]).frames("", [9, 0]))


def test_load_episodes_knows_a_saved_dataset(table, clips, tmp_path):
    save(table, tmp_path / "set", "save_to_disk")
    assert load_episodes(tmp_path / "set")[2].id == "train/000002"
    assert load_episodes(f"datasets:{tmp_path / 'set'}", tasks="task 3")[0].index == 3


def test_splits_are_all_taken_or_one(table, clips, tmp_path):
    splits = datasets.DatasetDict({"train": table.select(range(3)), "test": table.select(range(3, 5))})
    splits.save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet").mkdir()
    for name, each in splits.items():
        each.to_parquet(tmp_path / f"parquet/{name}-00000-of-00001.parquet")
    for folder in ("saved", "parquet"):
        found = list_datasets(str(tmp_path / folder))
        assert {each.id for each in found.episodes} == {f"train/00000{n}" for n in range(3)} | {
            "test/000000",
            "test/000001",
        }
        check(list_datasets(str(tmp_path / folder), split="test").episodes, clips[3:])
        with pytest.raises(ValueError, match=r"split 'val': not in .*\. There are: train, test"):
            list_datasets(str(tmp_path / folder), split="val")
    with pytest.raises(ValueError, match="has no subsets"):
        list_datasets(str(tmp_path / "saved"), subset="a")
    with pytest.raises(ValueError, match=r"subset 'a': not in .*\. There are: default"):
        list_datasets(str(tmp_path / "parquet"), subset="a")


def test_subsets_are_the_readme_s(table, clips, tmp_path):
    for name, rows in (("pick", range(2)), ("pour", range(2, 5))):
        (tmp_path / name).mkdir()
        table.select(rows).to_parquet(tmp_path / name / "train.parquet")
    configs = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in ("pick", "pour")]
    (tmp_path / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    check(list_datasets(str(tmp_path), subset="pour").episodes, clips[2:])
    with pytest.raises(ValueError, match=r"several subsets. Name one \(--subset\): pick, pour"):
        list_datasets(str(tmp_path))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_videos_with_a_metadata_file(clips, tmp_path, streaming):
    rows = []
    for n, clip in enumerate(clips):
        (tmp_path / f"set/train/clip{n}.mp4").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"set/train/clip{n}.mp4").write_bytes(clip.read_bytes())
        rows.append({"file_name": f"clip{n}.mp4", "text": f"do {n}", "fps": 5, "state": ACTIONS[n].tolist()})
    (tmp_path / "set/train/metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = list_datasets(str(tmp_path / "set"), streaming=streaming)
    assert found.format == "Hugging Face dataset, videofolder" + ", streamed" * streaming
    assert [each.text for each in found.episodes] == [f"do {n}" for n in range(5)]
    assert found.episodes[1].timestamps("video")[:2].tolist() == [0, 0.2]
    np.testing.assert_array_equal(found.episodes[4].signals().states, ACTIONS[4])
    check([pickle.loads(pickle.dumps(each)) for each in found.episodes], clips)


def test_folders_of_videos_are_named_after_their_label(clips, tmp_path):
    for label, clip in (("close", clips[0]), ("open", clips[1])):
        (tmp_path / label).mkdir()
        (tmp_path / label / "clip.mp4").write_bytes(clip.read_bytes())
    assert {each.text for each in list_datasets(str(tmp_path)).episodes} == {"close", "open"}


def encoded(pixels, kind="png"):
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return {"bytes": file.getvalue(), "path": None}


@pytest.mark.parametrize("how", WAYS)
def test_a_list_of_images_is_a_camera(numbered_frames, clips, tmp_path, how):
    pixels = numbered_frames(12)
    features = datasets.Features(
        {
            "wrist": datasets.List(datasets.Image()),
            "cover": datasets.Image(),
            "film": datasets.Video(),
            "fps": datasets.Value("float32"),
            "observation.state": datasets.Array2D((5, 2), "float32"),
        }
    )
    state = np.arange(10, dtype=np.float32).reshape(5, 2)
    rows = {
        "wrist": [[encoded(each) for each in pixels[start:]] for start in range(5)],
        "cover": [encoded(pixels[0])] * 5,
        "film": [{"bytes": clip.read_bytes(), "path": None} for clip in clips],
        "fps": [4.0] * 5,
        "observation.state": [state + n for n in range(5)],
    }
    save(datasets.Dataset.from_dict(rows, features=features), tmp_path / "set", how)
    found = list_datasets(str(tmp_path / "set"))
    assert (found.episodes[0].cameras, found.notes) == (("wrist",), ["took camera 'wrist' of wrist, film"])
    for start, episode in enumerate(found.episodes):
        np.testing.assert_array_equal(episode.frames("wrist", range(12 - start)), pixels[start:])
        assert episode.timestamps("wrist")[1] == 0.25
        np.testing.assert_array_equal(episode.signals().states, state + start)
    check(list_datasets(str(tmp_path / "set"), cameras=["film"]).episodes, clips, "film")
    assert list_datasets(str(tmp_path / "set"), cameras=["all"]).episodes[0].cameras == ("wrist", "film")
    with pytest.raises(ValueError, match=r"camera 'top' is no camera of it\. There are: wrist, film"):
        list_datasets(str(tmp_path / "set"), cameras=["top"])


def test_a_list_of_images_may_lie_in_files(numbered_frames, tmp_path):
    pixels = numbered_frames(11)
    for t, each in enumerate(pixels):
        Image.fromarray(each).save(tmp_path / f"{t}.png")
    names = [f"{t}.png" for t in range(11)]
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_names": names, "text": "x"}))
    for streaming in (False, True):
        episode = list_datasets(str(tmp_path), streaming=streaming).episodes[0]
        np.testing.assert_array_equal(episode.frames("images", range(11)), pixels)
        with pytest.raises(EpisodeReadError, match="give it with fps"):
            episode.timestamps("images")


def test_damaged_and_empty_rows_fail_alone(table, clips, tmp_path):
    columns = table.cast_column("video", datasets.Video(decode=False)).to_dict()
    columns["video"][1]["bytes"] = b"no video"
    columns["video"][2] = {"bytes": None, "path": "gone.mp4"}
    columns["video"][3] = None
    columns["actions"][3] = [[1.0, 2.0], [3.0]]
    schema = table.features.arrow_schema
    pq.write_table(pa.table(columns, schema=schema), tmp_path / "train.parquet")
    first, damaged, gone, empty, last = list_datasets(str(tmp_path)).episodes
    with pytest.raises(VideoDecodeError, match="train/000001, video: not a video, or damaged"):
        damaged.num_frames("video")
    with pytest.raises(VideoDecodeError, match=f"{tmp_path}/gone.mp4: no such file"):
        gone.num_frames("video")
    with pytest.raises(EpisodeReadError, match="train/000003: column 'video' is empty in this row"):
        empty.num_frames("video")
    with pytest.raises(EpisodeReadError, match="train/000003: column 'actions' has rows of 1 and of 2 numbers"):
        empty.signals()
    check([first, last], [clips[0], clips[4]])


def test_a_damaged_image_is_named(numbered_frames, tmp_path):
    features = datasets.Features({"view": datasets.List(datasets.Image())})
    good = [encoded(each) for each in numbered_frames(3)]
    rows = [good, [good[0], {"bytes": b"no image", "path": None}], [good[0], encoded(numbered_frames(1, 8, 8)[0])], []]
    datasets.Dataset.from_dict({"view": rows}, features=features).save_to_disk(tmp_path / "set")
    episodes = list_datasets(str(tmp_path / "set")).episodes
    assert episodes[0].frames("view", [2]).shape == (1, 48, 64, 3)
    with pytest.raises(
        EpisodeReadError, match=r"train/000001: view, frame 1 cannot be read \(not an image, or damaged\)"
    ):
        episodes[1].frames("view", [0, 1])
    with pytest.raises(EpisodeReadError, match="view, frame 1 is 8x8, the first image 64x48"):
        episodes[2].frames("view", [0, 1])
    with pytest.raises(EpisodeReadError, match="train/000003: no images"):
        episodes[3].num_frames("view")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            {"caption": "string", "frame_index": "int64", "episode_index": "int64"},
            r"no column holds a video or a sequence of images\. Its columns: caption \(string\), frame_index "
            r"\(int64\), .*Looked for the types Video and List\(Image\)\. .* write 'lerobot:' in place",
        ),
        ({"image": "Image"}, r"image \(Image\)\..* A row with one image is not an episode"),
    ],
)
def test_a_dataset_without_a_camera_lists_its_columns(tmp_path, features, message):
    values = {"string": "x", "int64": 1, "Image": encoded(np.zeros((4, 4, 3), np.uint8))}
    types = {k: datasets.Image() if kind == "Image" else datasets.Value(kind) for k, kind in features.items()}
    rows = {name: [values[kind]] for name, kind in features.items()}
    datasets.Dataset.from_dict(rows, features=datasets.Features(types)).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match=message):
        list_datasets(str(tmp_path / "set"))


def test_tars_are_loaded_and_not_streamed(clips, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "train.tar")) as writer:
        for clip in clips:
            writer.write({"__key__": clip.stem, "mp4": clip.read_bytes()})
    check(list_datasets(str(tmp_path)).episodes, clips, "mp4")
    with pytest.raises(ValueError, match=r"its media are inside other files.* Leave out --streaming"):
        list_datasets(str(tmp_path), streaming=True)


def test_a_folder_whose_metadata_is_damaged_says_so(clips, tmp_path):
    (tmp_path / "set").mkdir()
    for clip in clips:
        (tmp_path / "set" / clip.name).write_bytes(clip.read_bytes())
    (tmp_path / "set/metadata.jsonl").write_text("{no json")
    for streaming in (False, True):
        with pytest.raises(ValueError, match="`datasets` cannot load it"):
            list_datasets(str(tmp_path / "set"), streaming=streaming)


def test_a_folder_with_nothing_to_load_says_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"`datasets` finds nothing to load in it .* 'lerobot:'"):
        list_datasets(str(tmp_path))
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"train.parquet cannot be read as parquet"):
        list_datasets(str(tmp_path))


def test_a_selection_of_rows_keeps_its_own_numbers(table, clips, tmp_path):
    table.select([4, 1]).save_to_disk(tmp_path / "set")
    check(list_datasets(str(tmp_path / "set")).episodes, [clips[4], clips[1]])


def test_a_file_that_was_written_anew_is_read_anew(table, clips, tmp_path):
    path = tmp_path / "set/train.parquet"
    path.parent.mkdir()
    table.to_parquet(path)
    check(list_datasets(str(path.parent)).episodes, clips)
    table.select(range(4, -1, -1)).to_parquet(path)
    os.utime(path, ns=(1, 1))
    check(list_datasets(str(path.parent)).episodes, clips[::-1])


def test_a_video_behind_a_url_is_read_whole_or_in_blocks(clips, tmp_path, monkeypatch):
    for whole in (2**20, 0):
        monkeypatch.setattr("lara_tokenizer.data.video.media._WHOLE_FILE_BYTES", whole)
        reader = pickle.loads(pickle.dumps(VideoReader(RemoteFile(f"file://{clips[2]}"))))
        np.testing.assert_array_equal(reader.frames("", range(8)), VideoReader(clips[2]).frames("", range(8)))
    with pytest.raises(VideoDecodeError, match=r"gone\.mp4: no such file"):
        VideoReader(RemoteFile(f"file://{tmp_path}/gone.mp4")).index()


def test_decord_reads_a_cell(table, clips, tmp_path):
    pytest.importorskip("decord")
    table.save_to_disk(tmp_path / "set")
    episode = list_datasets(str(tmp_path / "set"), decoder="decord").episodes[0]
    expected = video_reader_class("decord")(clips[0]).frames("", range(6))
    np.testing.assert_array_equal(episode.frames("video", range(6)), expected)
