"""Undamaged datasets of every format that is read, small enough to damage by the hundred.

In all of them the first number of an action is the number that its frame shows (`video_files.number_in`), so that a
frame with another frame's action can be told.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fuzz.clips import FPS, plain_clip
from golden.inputs import png
from lerobot_files import write_lerobot
from rlds_files import example, framed, image, mapping, sequence, tensor, text
from video_files import numbered, write_clip

LENGTH, EPISODES = 12, 3
TASKS = ["push the box", "open the drawer", "push the box"]
CAMERA = "observation.images.top"


def episode(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (12, 48, 64, 3) and actions (12, 3) of episode `number`, counted through the dataset."""
    first = number * LENGTH
    actions = np.stack([np.arange(first, first + LENGTH), np.ones(LENGTH), np.zeros(LENGTH)], 1)
    return numbered(LENGTH, first), actions.astype(np.float32)


def _write_video(path: Path, frames: np.ndarray, fps: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_clip(path, "h264", frames, fps=int(fps))


def lerobot(folder: Path, version: str, kind: str = "video", *, file_each: bool = False) -> None:
    """A LeRobotDataset; with `file_each` of v3.0 with an mp4 for each episode."""
    clips = [episode(number)[0] for number in range(EPISODES)]
    if file_each:
        clips = [plain_clip(folder.parent / f"{n}.mp4", LENGTH, n * LENGTH) for n in range(EPISODES)]
    write_lerobot(
        folder,
        {CAMERA: clips, "observation.images.wrist": clips},
        _write_video,
        version=version,
        kind=kind,
        lengths=[LENGTH] * EPISODES,
        actions=[episode(number)[1] for number in range(EPISODES)],
        states=[episode(number)[1] for number in range(EPISODES)],
        tasks=TASKS,
    )


def rlds(folder: Path) -> None:
    """A set of three records, images as PNG."""
    step = {
        "observation": mapping({"image": image(), "depth": image(1, "uint16"), "state": tensor((2,))}),
        "action": tensor((3,)),
        "language_instruction": text(),
        "is_last": tensor((), "bool"),
    }
    features = mapping({"steps": sequence(mapping(step)), "episode_metadata": mapping({"file_path": text()})})
    records = b""
    for number in range(EPISODES):
        frames, actions = episode(number)
        values = {
            "steps/observation/image": [png(frame) for frame in frames],
            "steps/observation/depth": [b""] * LENGTH,
            "steps/observation/state": actions[:, :2],
            "steps/action": actions,
            "steps/language_instruction": [TASKS[number].encode()] * LENGTH,
            "steps/is_last": np.arange(LENGTH) == LENGTH - 1,
            "episode_metadata/file_path": [b"somewhere"],
        }
        records += framed(example(values))
    version = folder / "1.0.0"
    version.mkdir(parents=True)
    (version / "demos-train.tfrecord-00000-of-00001").write_bytes(records)
    (version / "features.json").write_text(json.dumps(features))
    split = {"name": "train", "shardLengths": [str(EPISODES)], "numBytes": str(len(records))}
    info = {"name": "demos", "version": "1.0.0", "splits": [split], "fileFormat": "tfrecord"}
    (version / "dataset_info.json").write_text(json.dumps(info))


def hugging_face(folder: Path, *, on_disk: bool) -> None:
    """A row for each episode: video, caption, actions; as parquet, or as `save_to_disk` leaves it."""
    import datasets

    datasets.disable_progress_bars()
    made = [(plain_clip(folder.parent / f"{n}.mp4", LENGTH, n * LENGTH), episode(n)[1]) for n in range(EPISODES)]
    rows = {
        "video": [{"bytes": clip.read_bytes(), "path": clip.name} for clip, _ in made],
        "caption": TASKS,
        "actions": [actions.tolist() for _, actions in made],
    }
    features = datasets.Features(
        {
            "video": datasets.Video(),
            "caption": datasets.Value("string"),
            "actions": datasets.List(datasets.List(datasets.Value("float32"))),
        }
    )
    table = datasets.Dataset.from_dict(rows, features)
    if on_disk:
        table.save_to_disk(folder)
    else:
        (folder / "data").mkdir(parents=True)
        table.to_parquet(folder / "data/train-00000-of-00001.parquet")


def webdataset(folder: Path, *, images: bool) -> None:
    """A tar of samples: a video, or numbered images, with text and actions."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "train-000000.tar", "w") as tar:
        for number in range(EPISODES):
            frames, actions = episode(number)
            array = io.BytesIO()
            np.save(array, actions)
            members = {"txt": TASKS[number].encode(), "actions.npy": array.getvalue(), "json": b'{"fps": 10}'}
            if images:
                members |= {f"{t:03}.png": png(frame) for t, frame in enumerate(frames)}
            else:
                members["mp4"] = plain_clip(folder.parent / f"{number}.mp4", LENGTH, number * LENGTH).read_bytes()
            for suffix, data in members.items():
                entry = tarfile.TarInfo(f"kitchen/{number:03}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def images(folder: Path, suffix: str) -> None:
    """A folder of numbered images for each of two episodes."""
    from PIL import Image

    for number in range(2):
        run = folder / f"run {number}"
        run.mkdir(parents=True)
        for t, frame in enumerate(episode(number)[0]):
            Image.fromarray(frame).save(run / f"img_{t:04}{suffix}")


def something_something(folder: Path) -> None:
    """Something-Something v2: webm files and their labels."""
    entries = []
    for number in range(EPISODES):
        clip = folder / f"20bn-something-something-v2/{number + 17}.webm"
        clip.parent.mkdir(parents=True, exist_ok=True)
        write_clip(clip, "vp9", episode(number)[0], fps=FPS)
        label = {"label": TASKS[number], "template": "push [something]", "placeholders": ["the box"]}
        entries.append({"id": str(number + 17), **label})
    (folder / "labels").mkdir()
    (folder / "labels/train.json").write_text(json.dumps(entries))


def clip_list(folder: Path, name: str, content: str) -> None:
    """A video, and a list of parts of it."""
    plain_clip(folder / "film.mp4", 3 * LENGTH)
    (folder / name).write_text(content)


COMMA = 'path,start,end,label\nfilm.mp4,0,1.2,push it\nfilm.mp4,1.2,2.4,"pull, ""it"""\nfilm.mp4,2.4,,walk\n'
EPIC = (
    "narration_id\tvideo_path\tstart_timestamp\tstop_timestamp\tnarration\n"
    "P01_1\tfilm.mp4\t00:00:00.5\t00:00:02\ttake cup\n"
)
LINES = "# clips\nfilm.mp4\n"

# Kind -> the undamaged trees of it, by name.
TREES: dict[str, dict[str, Callable[[Path], None]]] = {
    "lerobot": {
        "v2.1": lambda folder: lerobot(folder, "v2.1"),
        "v3.0": lambda folder: lerobot(folder, "v3.0"),
        "v3.0-files": lambda folder: lerobot(folder, "v3.0", file_each=True),
        "v3.0-images": lambda folder: lerobot(folder, "v3.0", "image"),
    },
    "rlds": {"demos": rlds},
    "hugging-face": {
        "parquet": lambda folder: hugging_face(folder, on_disk=False),
        "arrow": lambda folder: hugging_face(folder, on_disk=True),
    },
    "webdataset": {
        "videos": lambda folder: webdataset(folder, images=False),
        "images": lambda folder: webdataset(folder, images=True),
    },
    "images": {"png": lambda folder: images(folder, ".png"), "jpeg": lambda folder: images(folder, ".jpg")},
    "ssv2": {"something": something_something},
    "list": {
        "csv": lambda folder: clip_list(folder, "list.csv", COMMA),
        "tsv": lambda folder: clip_list(folder, "list.tsv", EPIC),
        "txt": lambda folder: clip_list(folder, "list.txt", LINES),
    },
}  # fmt: skip
