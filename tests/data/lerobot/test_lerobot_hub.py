"""LeRobotDataset on the Hub, over real HTTP to a local Hub: files are downloaded when they are needed."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from hub_server import HubServer

from lara_tokenizer.data import load_episodes

TOP, WRIST = "observation.images.top", "observation.images.wrist"

# Lists the dataset and reads one episode, as a user's program would.
CLIENT = """
import json, sys
import numpy as np
from lara_tokenizer.data import load_episodes

episodes = load_episodes(sys.argv[1], cameras="wrist")
info = episodes.sources[0]
print(json.dumps([info.name, info.format, info.revision, [episode.id for episode in episodes]]), flush=True)
sys.stdin.readline()
episode = episodes[1]
np.savez("read.npz", frames=episode.frames(episode.cameras[0], range(9)), actions=episode.signals().actions)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory, numbered_frames, write_lerobot):
    """acme/set in v2.1: three episodes of 12, 9 and 10 frames, two cameras."""
    root = tmp_path_factory.mktemp("hub")
    clips = np.split(numbered_frames(62), np.cumsum([12, 9, 10, 12, 9]))
    write_lerobot(root / "datasets/acme/set", {TOP: clips[:3], WRIST: clips[3:]}, version="v2.1")
    return root


def start(hub, source, folder):
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, source],
        env=hub.environment(folder / "home"),
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_listing_fetches_metadata_and_reading_fetches_that_episode(root, tmp_path):
    with HubServer(root) as hub:
        client = start(hub, "lerobot:acme/set", tmp_path)
        name, form, revision, ids = json.loads(client.stdout.readline())
        fetched = {request.path for request in hub.requests if request.method == "GET" and request.sent}
        assert not any(path.endswith((".mp4", ".parquet")) for path in fetched)
        _, errors = client.communicate("\n", timeout=60)
        assert client.returncode == 0, errors
        fetched = {request.path for request in hub.requests if request.method == "GET" and request.sent}
    assert (name, form) == ("acme/set", "LeRobotDataset v2.1")
    assert len(revision) == 40
    assert ids == ["episode_000000", "episode_000001", "episode_000002"]
    videos = [path.rpartition("resolve/")[2].partition("/")[2] for path in fetched if path.endswith(".mp4")]
    assert videos == [f"videos/chunk-000/{WRIST}/episode_000001.mp4"]
    read = np.load(tmp_path / "read.npz")
    local = load_episodes(root / "datasets/acme/set", cameras="wrist")[1]
    assert np.array_equal(read["frames"], local.frames(WRIST, range(9)))
    assert np.array_equal(read["actions"], local.signals().actions)


def test_rows_in_another_file_than_the_metadata_names_are_fetched(tmp_path, numbered_frames, write_lerobot):
    clips = np.split(numbered_frames(42), [12, 21, 33])
    root = write_lerobot(tmp_path / "datasets/acme/set", {TOP: clips[:2], WRIST: clips[2:]})
    file = root / "data/chunk-000/file-000.parquet"
    rows = pq.read_table(file)
    pq.write_table(rows.slice(0, 12), file)  # meta/episodes still has both episodes in this one
    pq.write_table(rows.slice(12), file.with_name("file-001.parquet"))
    with HubServer(tmp_path) as hub:
        _, errors = start(hub, "lerobot:acme/set", tmp_path).communicate("\n", timeout=60)
    expected = "the rows of episode 1 are in data/chunk-000/file-001.parquet, not in data/chunk-000/file-000.parquet"
    assert errors.strip() == expected
    read = np.load(tmp_path / "read.npz")
    assert np.array_equal(read["actions"], np.stack(rows["action"].slice(12).to_pylist()).astype("f4"))


def test_a_dataset_that_is_not_there_is_said(root, tmp_path):
    with HubServer(root) as hub:
        client = start(hub, "lerobot:acme/nothing", tmp_path)
        _, errors = client.communicate("\n", timeout=60)
    assert client.returncode == 1
    assert "dataset 'acme/nothing': neither a local folder nor a Hub repository" in errors
