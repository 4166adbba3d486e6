"""Make the inputs of a golden recording: videos, datasets in every format that is read, tables and checkpoints.

Usage: `python inputs.py FOLDER`, with the packages of the tree under test on PYTHONPATH. Video encoders do not give
equal bytes on every machine, so the folder is made once and shared by the recordings that are compared.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

# Helpers are this checkout's: the tree under test may be of an older revision.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lerobot_files

HERE = Path(__file__).resolve().parent
FPS = 10
LENGTHS = (24, 30, 18, 27, 21, 33)
HEIGHT, WIDTH = 48, 64
FRONT, SIDE = "observation.images.front", "observation.images.side"
TASKS = ("push the box", "open the drawer")


def square_episode(seed: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (T, 48, 64, 3) of a square on a textured background, and float32 (T, 7) actions that move it."""
    rng = np.random.default_rng(seed)
    background = rng.integers(0, 128, (HEIGHT // 8, WIDTH // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frames, position = np.repeat(background[None], length, 0), np.array([20, 20])
    steps = rng.integers(-3, 4, (length, 2))
    for t in range(length):
        y, x = position
        frames[t, y : y + 12, x : x + 12] = (220, 60 + 20 * (seed % 5), 60)
        steps[t] = (position + steps[t]).clip(0, (HEIGHT - 12, WIDTH - 12)) - position
        position = position + steps[t]
    return frames, np.concatenate([steps / 3, rng.normal(size=(length, 5))], 1).astype(np.float32)


def write_video(path: Path, frames: np.ndarray, codec: str = "libx264", **options: str) -> Path:
    """`frames` as a video of 10 frames per second."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(FPS), options=options)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *frames.shape[1:3], "yuv420p", 12
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def png(frame: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return file.getvalue()


def write_clips(root: Path) -> None:
    """Videos of several codecs, a folder of numbered images, a list of clips, and a folder with a damaged file."""
    shutil.copytree(HERE.parents[1] / "samples", root / "samples", ignore=shutil.ignore_patterns("*.md"))
    episodes = [square_episode(seed, length)[0] for seed, length in enumerate(LENGTHS)]
    write_video(root / "clips/a.mp4", episodes[0])
    write_video(root / "clips/b/left.mp4", episodes[1], bf="2")
    write_video(root / "clips/b/right.avi", episodes[2], "mpeg4")
    write_video(root / "clips/c d.webm", episodes[3], "libvpx-vp9")
    for index, frame in enumerate(episodes[4]):
        path = root / f"images/walk/img_{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(frame))
    (root / "list.csv").write_text(
        "path,start,end,label\nclips/a.mp4,0,1.2,push\nclips/a.mp4,1,,pull it\nclips/b/left.mp4,,,\n"
    )
    shutil.copytree(root / "clips", root / "damaged")
    data = (root / "clips/b/left.mp4").read_bytes()
    (root / "damaged/b/left.mp4").write_bytes(data[: len(data) // 3])


def write_something_something(folder: Path) -> None:
    entries = []
    for index in range(2):
        frames, _ = square_episode(40 + index, LENGTHS[index])
        write_video(folder / f"20bn-something-something-v2/{17 + index}.webm", frames, "libvpx-vp9")
        label = {"label": f"moving box {index} up", "template": "Moving [something] up", "placeholders": ["box"]}
        entries.append({"id": str(17 + index), **label})
    (folder / "labels").mkdir()
    (folder / "labels/train.json").write_text(json.dumps(entries))


def write_webdataset(path: Path, root: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for index, clip in enumerate(("clips/a.mp4", "clips/b/left.mp4")):
            actions = io.BytesIO()
            np.save(actions, square_episode(index, LENGTHS[index])[1])
            members = {
                "mp4": (root / clip).read_bytes(),
                "txt": TASKS[index].encode(),
                "actions.npy": actions.getvalue(),
            }
            for suffix, data in members.items():
                entry = tarfile.TarInfo(f"kitchen/{index:03d}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def write_hugging_face(folder: Path, root: Path) -> None:
    import datasets

    features = {
        "video": datasets.Video(),
        "caption": datasets.Value("string"),
        "actions": datasets.List(datasets.List(datasets.Value("float32"))),
    }
    clips = ("clips/a.mp4", "clips/b/left.mp4")
    rows = {
        "video": [{"bytes": (root / clip).read_bytes(), "path": f"{i}.mp4"} for i, clip in enumerate(clips)],
        "caption": list(TASKS),
        "actions": [square_episode(i, LENGTHS[i])[1].tolist() for i in range(2)],
    }
    (folder / "data").mkdir(parents=True)
    datasets.Dataset.from_dict(rows, datasets.Features(features)).to_parquet(
        folder / "data/train-00000-of-00001.parquet"
    )


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _example(values: dict[str, Any]) -> bytes:
    """A serialized tf.train.Example of bytes lists, float and integer arrays."""
    entries = b""
    for key, value in values.items():
        if isinstance(value, list):
            feature = _field(1, b"".join(_field(1, item) for item in value))
        elif np.issubdtype(value.dtype, np.floating):
            feature = _field(2, _field(1, value.astype("<f4").tobytes()))
        else:
            feature = _field(3, _field(1, b"".join(_varint(int(item)) for item in value.ravel())))
        entries += _field(1, _field(1, key.encode()) + _field(2, feature))
    return _field(1, entries)


def _record(data: bytes) -> bytes:
    """A framed TFRecord."""
    import google_crc32c

    def checksum(part: bytes) -> bytes:
        value = google_crc32c.value(part)
        return struct.pack("<I", (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(data))
    return length + checksum(length) + data + checksum(data)


def write_rlds(folder: Path) -> None:
    def feature(name: str, **content: Any) -> dict[str, Any]:
        return {"pythonClassName": f"tensorflow_datasets.core.features.{name}", **content}

    def mapping(**features: Any) -> dict[str, Any]:
        return feature("features_dict.FeaturesDict", featuresDict={"features": features})

    def tensor(shape: list[str], dtype: str) -> dict[str, Any]:
        dimensions = {"dimensions": shape} if shape else {}
        return feature("tensor_feature.Tensor", tensor={"shape": dimensions, "dtype": dtype, "encoding": "none"})

    image = feature(
        "image_feature.Image",
        image={"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8", "encodingFormat": "png"},
    )
    step = mapping(
        observation=mapping(image=image),
        action=tensor(["7"], "float32"),
        natural_language_instruction=feature("text_feature.Text", text={}),
        is_last=tensor([], "bool"),
    )
    steps = feature("dataset_feature.Dataset", sequence={"feature": step, "length": "-1"})
    data = b""
    for index in range(2):
        frames, actions = square_episode(30 + index, LENGTHS[index])
        data += _record(
            _example(
                {
                    "steps/observation/image": [png(frame) for frame in frames],
                    "steps/action": actions,
                    "steps/natural_language_instruction": [TASKS[index].encode()] * len(frames),
                    "steps/is_last": np.arange(len(frames)) == len(frames) - 1,
                }
            )
        )
    folder.mkdir(parents=True)
    (folder / "demos-train.tfrecord-00000-of-00001").write_bytes(data)
    (folder / "features.json").write_text(json.dumps(mapping(steps=steps)))
    split = {"name": "train", "shardLengths": ["2"], "numBytes": "1"}
    (folder / "dataset_info.json").write_text(json.dumps({"name": "demos", "version": "1.0.0", "splits": [split]}))


def write_lerobot(root: Path, version: str) -> None:
    """A LeRobotDataset of two cameras; v3.0 keeps all episodes of a camera in one file."""
    episodes = [square_episode(10 + index, length) for index, length in enumerate(LENGTHS)]
    lerobot_files.write_lerobot(
        root,
        {FRONT: [frames for frames, _ in episodes], SIDE: [frames[:, :, ::-1] for frames, _ in episodes]},
        lambda path, frames, fps: write_video(path, frames),
        version=version,
        actions=[actions for _, actions in episodes],
        states=[np.cumsum(actions[:, :2], 0).astype(np.float32) for _, actions in episodes],
        tasks=[TASKS[index % len(TASKS)] for index in range(len(LENGTHS))],
    )
    if version == "v2.1":
        (root / "meta/modality.json").write_text("{}")


def write_checkpoint(folder: Path, recipe: Path) -> None:
    """The tokenizer of a recipe with random weights, spread so that codes vary."""
    import torch
    import yaml

    from lara_tokenizer import LatentActionConfig, LatentActionModel, LatentActionProcessor

    torch.manual_seed(0)
    model = LatentActionModel(LatentActionConfig(**yaml.safe_load(recipe.read_text())["model"])).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "codebook" in name:
                torch.nn.init.normal_(parameter)
            elif name.startswith("inverse_dynamics") and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    LatentActionProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def run_commands(root: Path) -> None:
    """Demonstrations of a simulator, the tables that the exports start from, and a policy for roll-outs."""
    commands = [
        "simulate metaworld --out sim --task drawer-open-v3 --task push-v3 --episodes 4 --size 64 --seed 3 --workers 1",
        "encode samples --with latents --out tables/samples.parquet --workers 0",
        "encode clips --with latents --stride 5f --out tables/clips.parquet --workers 0",
        f"encode robot21 --camera {FRONT} --with latents,text,actions --out tables/robot21.parquet --workers 0",
        f"encode robot30 --camera {FRONT} --with latents,text,actions --out tables/robot30.parquet --workers 0",
        "refine recipes/joint.yaml sim --camera observation.images.corner --tokenizer tiny --steps 5 --no-stop "
        "--out refined",
    ]
    for command in commands:
        subprocess.run([sys.executable, "-m", "lara_tok", *command.split()], cwd=root, check=True)
    shutil.copytree(root / "refined/policy", root / "policy")
    shutil.rmtree(root / "refined")


def main() -> None:
    root = Path(sys.argv[1])
    shutil.rmtree(root, ignore_errors=True)
    building = root.with_name(root.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    write_clips(building)
    write_something_something(building / "something")
    write_webdataset(building / "train.tar", building)
    write_hugging_face(building / "hub", building)
    write_rlds(building / "demos/1.0.0")
    write_lerobot(building / "robot21", "v2.1")
    write_lerobot(building / "robot30", "v3.0")
    shutil.copytree(HERE / "recipes", building / "recipes")
    write_checkpoint(building / "tiny", building / "recipes/train.yaml")
    run_commands(building)
    os.replace(building, root)


if __name__ == "__main__":
    main()
