"""Our side of `make test-lerobot`: reads what lerobot wrote, or opened, and compares with what its own reader gives.

    python lerobot_read.py FOLDER...       each with FOLDER.npz beside it

Frames, actions, states, tasks and episode borders must be equal to the last bit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from lara_tokenizer.data import load_episodes


def compare(root: Path) -> None:
    """Raises AssertionError naming the first thing that differs."""
    expected = np.load(root.with_name(root.name + ".npz"))
    cameras = sorted(key.removeprefix("camera/") for key in expected.files if key.startswith("camera/"))
    episodes = load_episodes(root, cameras=cameras)
    episode_indices = expected["episode_index"]
    assert [episode.index for episode in episodes] == sorted(set(episode_indices.tolist())), "episodes"
    frames = 0
    for episode in episodes:
        rows = episode_indices == episode.index
        signals = episode.signals()
        assert np.array_equal(signals.actions, expected["action"][rows].reshape(rows.sum(), -1)), "actions"
        assert np.array_equal(signals.states, expected["observation.state"][rows].reshape(rows.sum(), -1)), "states"
        assert list(signals.texts or ()) == expected["task"][rows].tolist(), "tasks"
        for camera in cameras:
            index = episode.frame_index(camera)
            assert index.num_frames == rows.sum(), "number of frames"
            assert index.fps == float(expected["fps"]), "frame rate"
            ours = episode.frames(camera, range(index.num_frames))
            assert np.array_equal(ours, expected[f"camera/{camera}"][rows]), f"{episode.id}, {camera}: pixels"
            assert np.array_equal(episode.frames(camera, [index.num_frames - 1, 0]), ours[[-1, 0]]), "single frames"
            frames += index.num_frames
        episode.close()
    (info,) = episodes.sources
    print(f"{root.name}: {info.format}, {len(episodes)} episodes, {frames} frames of {len(cameras)} cameras: equal")


def main() -> None:
    for folder in sys.argv[1:]:
        compare(Path(folder))


if __name__ == "__main__":
    main()
