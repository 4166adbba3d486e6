"""LeRobotDataset on the Hub, over real HTTP to a local Hub: files are downloaded when they are needed."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
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


def test_a_dataset_that_is_not_there_is_said(root, tmp_path):
    with HubServer(root) as hub:
        client = start(hub, "lerobot:acme/nothing", tmp_path)
        _, errors = client.communicate("\n", timeout=60)
    assert client.returncode == 1
    assert "dataset 'acme/nothing': neither a local folder nor a Hub repository" in errors
