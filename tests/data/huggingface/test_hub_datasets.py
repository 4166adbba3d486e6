"""Hugging Face datasets on the Hub, over real HTTP to a local Hub: complete and streamed."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hub_server import HubServer

from lara_tokenizer.data import VideoReader

datasets = pytest.importorskip("datasets")

ROWS = 12
ROW_GROUP = 3


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_video):
    """Videos of noise: 20 to 31 frames, about 40 kB each."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    return [
        write_video(folder / f"{n}.mp4", rng.integers(0, 256, (20 + n, 48, 64, 3)).astype(np.uint8))
        for n in range(ROWS)
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory, clips):
    """acme/clips is parquet, acme/folder single videos with their metadata."""
    root = tmp_path_factory.mktemp("hub")
    features = {"video": datasets.Video(), "task": datasets.Value("string"), "fps": datasets.Value("int32")}
    rows = {
        "video": [{"bytes": clip.read_bytes(), "path": clip.name} for clip in clips],
        "task": [f"task {n}" for n in range(ROWS)],
        "fps": [5] * ROWS,
    }
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    (root / "datasets/acme/clips/data").mkdir(parents=True)
    for name, first in (("train", 0), ("test", 9)):
        path = root / f"datasets/acme/clips/data/{name}-00000-of-00001.parquet"
        table.select(range(first, 9 if name == "train" else ROWS)).to_parquet(path, batch_size=ROW_GROUP)
    folder = root / "datasets/acme/folder"
    folder.mkdir(parents=True)
    for clip in clips[:4]:
        (folder / clip.name).write_bytes(clip.read_bytes())
    metadata = [{"file_name": clip.name, "text": f"do {clip.stem}"} for clip in clips[:4]]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(each) for each in metadata))
    return root


@pytest.fixture
def hub(root):
    with HubServer(root) as hub:
        yield hub


# Lists the dataset, says so, waits for a line, then writes the frames of the episodes named in it, in another process:
# readers must travel. All is read from and written to the current folder.
CLIENT = """
import json, multiprocessing, pickle, sys
import numpy as np
from lara_tokenizer.data.huggingface.dataset import list_episodes
from lara_tokenizer.data.listing import ListOptions

def save(data):
    episode = pickle.loads(data)
    frames = episode.frames("video", range(episode.num_frames("video")))
    np.save(episode.id.replace("/", "-") + ".npy", frames)

if __name__ == "__main__":
    found = list_episodes(sys.argv[1], ListOptions(**json.loads(sys.argv[2])))
    with open("found.pickle", "wb") as file:
        pickle.dump(found, file)
    print("listed", flush=True)
    selected = json.loads(sys.stdin.readline())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.map(save, [pickle.dumps(each) for each in found.episodes if each.id in selected], chunksize=100)
"""


def run(hub, folder, name, read=(), **options):
    """The listing of a client process, the bytes that listing fetched and those that reading `read` then fetched."""
    (folder / "client.py").write_text(CLIENT)
    client = subprocess.Popen(
        [sys.executable, "client.py", name, json.dumps(options)],
        cwd=folder,
        env=hub.environment(folder / "home"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    heard = client.stdout.readline()
    listing = hub.sent()
    _, errors = client.communicate(json.dumps(list(read)) + "\n")
    assert client.returncode == 0, errors
    assert heard == "listed\n"
    return pickle.loads((folder / "found.pickle").read_bytes()), listing, hub.sent() - listing


def check(folder, episode, clip):
    frames = np.load(folder / f"{episode.replace('/', '-')}.npy")
    np.testing.assert_array_equal(frames, VideoReader(clip).frames("", range(len(frames))))
    assert len(frames) == VideoReader(clip).index().num_frames


def test_parquet_is_fetched_whole_without_streaming(hub, root, clips, tmp_path):
    found, listing, reading = run(hub, tmp_path, "acme/clips", read=["train/000004", "test/000002"])
    assert found.revision == hub.commit("datasets", "acme/clips")
    assert (found.name, found.format) == ("acme/clips", "Hugging Face dataset, parquet")
    assert len(found.episodes) == ROWS
    assert [each.text for each in found.episodes if each.id.startswith("test")] == ["task 9", "task 10", "task 11"]
    assert all(each.fps == 5 for each in found.episodes)
    assert listing == sum(path.stat().st_size for path in root.glob("datasets/acme/clips/data/*"))
    assert reading == 0
    check(tmp_path, "train/000004", clips[4])
    check(tmp_path, "test/000002", clips[11])


def test_streaming_fetches_footers_texts_and_the_row_groups_that_are_read(hub, root, clips, tmp_path):
    size = (root / "datasets/acme/clips/data/train-00000-of-00001.parquet").stat().st_size
    footer = 64 * 1024
    selected = ["train/000003", "train/000004", "train/000005"]
    found, listing, reading = run(hub, tmp_path, "acme/clips", read=selected, split="train", streaming=True)
    assert found.format == "Hugging Face dataset, parquet, streamed"
    assert [each.text for each in found.episodes] == [f"task {n}" for n in range(9)]
    assert all(len(pickle.dumps(each)) < 1000 for each in found.episodes)
    assert footer <= listing < footer + 2000 < size / 4
    group = sum(clips[n].stat().st_size for n in (3, 4, 5))
    assert group <= reading < group + footer + 2000
    fetched = [each for each in hub.requests if each.path.endswith(".parquet") and each.sent]
    assert all(each.range is not None and each.status == 206 for each in fetched)
    assert not any("test-" in each.path for each in fetched)
    for n in (3, 4, 5):
        check(tmp_path, f"train/{n:06d}", clips[n])


def test_single_videos_are_streamed_one_by_one(hub, clips, tmp_path):
    found, listing, reading = run(hub, tmp_path, "acme/folder", read=["train/000002"], streaming=True)
    assert found.format == "Hugging Face dataset, videofolder, streamed"
    assert [each.text for each in found.episodes] == ["do 0", "do 1", "do 2", "do 3"]
    assert hub.sent(".mp4") == reading == clips[2].stat().st_size
    assert 0 < listing < 2000
    check(tmp_path, "train/000002", clips[2])


def test_single_videos_are_fetched_first_without_streaming(hub, clips, tmp_path):
    found, listing, reading = run(hub, tmp_path, "acme/folder", read=["train/000002"])
    assert len(found.episodes) == 4
    assert (listing > sum(clip.stat().st_size for clip in clips[:4]), reading) == (True, 0)
    check(tmp_path, "train/000002", clips[2])


ERRORS = """
import sys
from lara_tokenizer.data.huggingface.dataset import list_episodes
from lara_tokenizer.data.listing import ListOptions
for name, options in eval(sys.argv[1]):
    try:
        print(len(list_episodes(name, ListOptions(**options)).episodes))
    except ValueError as error:
        print(error)
"""


def test_what_is_not_on_the_hub_is_said(hub, tmp_path):
    commit = hub.commit("datasets", "acme/clips")
    asked = [
        ("acme/nothing", {}),
        ("acme/clips@v9", {}),
        ("acme/clips", {"subset": "pour"}),
        ("acme/clips", {"split": "val", "streaming": True}),
        ("acme/clips", {"cameras": ["top"], "streaming": True}),
        (f"acme/clips@{commit}", {"streaming": True}),
    ]
    environment = hub.environment(tmp_path / "home")
    done = subprocess.run(
        [sys.executable, "-c", ERRORS, repr(asked)], env=environment, capture_output=True, text=True, check=True
    )
    nothing, revision, subset, split, camera, pinned = done.stdout.splitlines()
    assert nothing.startswith("dataset 'acme/nothing': neither a local folder nor a Hub repository (")
    assert "'acme/clips@v9'" in revision
    assert subset == "subset 'pour': not in acme/clips. There are: default"
    assert split == "split 'val': not in acme/clips. There are: train, test"
    assert camera == "acme/clips: camera 'top' is no camera of it. There are: video; or take 'all'"
    assert pinned == f"{ROWS}"
