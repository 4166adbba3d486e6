"""LeRobot's side of `make test-lerobot`: writes datasets with lerobot itself, and saves what its own reader gives.

    python lerobot_sets.py write FOLDER     datasets, and beside each `<name>.npz` with what lerobot reads from it
    python lerobot_sets.py open FOLDER      what lerobot reads from a dataset that is there already, as FOLDER.npz

Runs where lerobot is installed, and knows nothing of lara_tokenizer. Works with lerobot 0.3 (v2.1) and later (v3.0).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FPS, SIZE = 20, (64, 80)
LENGTHS = (23, 17, 31, 12)
TASKS = ("push the square", "pull the square")


def make_frame(episode: int, t: int, camera: int) -> np.ndarray:
    """A texture that drifts, with the numbers of episode, frame and camera written as dark and bright columns."""
    rng = np.random.default_rng((episode, camera))
    texture = rng.integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8, 3)).repeat(8, 0).repeat(8, 1)
    frame = np.roll(texture, (t, 3 * t), (0, 1))
    for bit in range(10):
        value = episode * 64 + t
        frame[:8, bit * 8 : bit * 8 + 8] = 220 if value >> bit & 1 else 30
    return frame.astype(np.uint8)


def write(root: Path, kind: str, lengths: tuple[int, ...] = LENGTHS) -> None:
    """One dataset: `kind` "video" or "image", two cameras."""
    names = ["height", "width", "channels"]
    features = {
        f"observation.images.{camera}": {"dtype": kind, "shape": (*SIZE, 3), "names": names}
        for camera in ("top", "wrist")
    }
    features |= {
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": (4,), "names": ["dx", "dy", "dz", "grip"]},
    }
    dataset = LeRobotDataset.create("acme/set", fps=FPS, features=features, root=root, use_videos=kind == "video")
    rng = np.random.default_rng(1)
    for episode, length in enumerate(lengths):
        for t in range(length):
            frame = {
                f"observation.images.{camera}": make_frame(episode, t, index)
                for index, camera in enumerate(("top", "wrist"))
            }
            frame["observation.state"] = rng.normal(size=3).astype(np.float32)
            frame["action"] = rng.normal(size=4).astype(np.float32)
            task = TASKS[episode % 2]
            try:
                dataset.add_frame({**frame, "task": task})
            except TypeError:  # lerobot 0.3 takes the task beside the frame
                dataset.add_frame(frame, task=task)
        dataset.save_episode()
    if hasattr(dataset, "finalize"):
        dataset.finalize()


def dump(root: Path, out: Path) -> None:
    """Rows of lerobot's own reader: images as uint8, actions, states, tasks, episode indices."""
    # torchcodec, the default, needs FFmpeg's shared libraries on the machine.
    dataset = LeRobotDataset("acme/set", root=root, video_backend="pyav")
    cameras = [key for key, feature in dataset.meta.features.items() if feature["dtype"] in ("video", "image")]
    rows = [dataset[i] for i in range(len(dataset))]
    held = {f"camera/{key}": np.stack([to_uint8(row[key]) for row in rows]) for key in cameras}
    held |= {key: np.stack([np.asarray(row[key]) for row in rows]) for key in ("action", "observation.state")}
    held["episode_index"] = np.array([int(row["episode_index"]) for row in rows])
    held["task"] = np.array([row["task"] for row in rows])
    held["fps"] = np.array(dataset.fps)
    np.savez(out, **held)
    print(f"{root.name}: lerobot reads {len(rows)} frames of {dataset.num_episodes} episodes, {len(cameras)} cameras")


def to_uint8(image) -> np.ndarray:
    """float (3, H, W) in 0..1 -> uint8 (H, W, 3)."""
    return (image.numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0)


def main() -> None:
    verb, folder = sys.argv[1], Path(sys.argv[2])
    if verb == "open":
        dump(folder, folder.with_name(folder.name + ".npz"))
        return
    for kind in ("video", "image"):
        write(folder / kind, kind)
        dump(folder / kind, folder / f"{kind}.npz")


if __name__ == "__main__":
    main()
