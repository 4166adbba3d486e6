"""RLDS sets that tensorflow-datasets writes and we read; see tfds.sh.

write SETS            write sets with every kind of feature, where TFDS is installed
dump SETS FOLDER      save what TFDS reads from each set: .npz files, two an episode (JPEG decoded in two ways)
check SETS FOLDER     read them with our reader, where TensorFlow cannot be imported, and compare
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger("tfds_sets")
EPISODES = {"train": 11, "val": 3}


def main(command: str, *folders: Path) -> None:
    """Run one command of the module's docstring; AssertionError where something differs."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    {"write": write, "dump": dump, "check": check}[command](*folders)


# --- TFDS writes ----------------------------------------------------------------------------------------------------


def kinds() -> Any:
    """Every kind of feature that sets of robots have been seen with."""
    import tensorflow_datasets as tfds

    f = tfds.features
    observation = f.FeaturesDict(
        {
            "png": f.Image(shape=(24, 32, 3), encoding_format="png"),
            "default": f.Image(shape=(24, 32, 3)),
            "rgba": f.Image(shape=(24, 32, 4), encoding_format="png"),
            "cameras": f.FeaturesDict({"jpeg": f.Image(shape=(48, 64, 3), encoding_format="jpeg")}),
            "any_size": f.Image(encoding_format="png"),
            "depth": f.Image(shape=(24, 32, 1), dtype=np.float32),
            "depth16": f.Image(shape=(24, 32, 1), dtype=np.uint16, encoding_format="png"),
            "raw": f.Tensor(shape=(8, 10, 3), dtype=np.uint8),
            "raw_zlib": f.Tensor(shape=(8, 10, 3), dtype=np.uint8, encoding="zlib"),
            "raw_bytes": f.Tensor(shape=(8, 10, 3), dtype=np.uint8, encoding="bytes"),
            "state": f.Tensor(shape=(3, 2), dtype=np.float64),
        }
    )
    action = f.FeaturesDict(
        {
            "clip/zlib": f.Tensor(shape=(5,), dtype=np.float32, encoding="zlib"),
            "bool": f.Tensor(shape=(2,), dtype=np.bool_),
            "bool_bytes": f.Tensor(shape=(2,), dtype=np.bool_, encoding="bytes"),
            "double": f.Tensor(shape=(2,), dtype=np.float64),
            "double_bytes": f.Tensor(shape=(2,), dtype=np.float64, encoding="bytes"),
            "int": f.Tensor(shape=(2, 2), dtype=np.int32),
            "label": f.ClassLabel(num_classes=4),
            "scalar": f.Scalar(dtype=np.float32),
            "scalar_uint8": f.Scalar(dtype=np.uint8),
            "uint64": f.Tensor(shape=(2,), dtype=np.uint64),
        }
    )
    step = {
        "observation": observation,
        "action": action,
        "language_instruction": f.Text(),
        "is_first": np.bool_,
        "reward": f.Scalar(dtype=np.float32),
    }
    return f.FeaturesDict(
        {
            "steps": f.Dataset(step),
            "episode_metadata": f.FeaturesDict({"file_path": f.Text(), "number": np.int64}),
            "success": np.bool_,
        }
    )


def plain() -> Any:
    """The most common set: one camera, one action tensor, text of the whole episode, steps in the older container."""
    import tensorflow_datasets as tfds

    f = tfds.features
    step = {
        "observation": {
            "image": f.Image(shape=(24, 32, 3), encoding_format="jpeg"),
            "proprio": f.Tensor(shape=(4,), dtype=np.float32),
        },
        "action": f.Tensor(shape=(7,), dtype=np.float32),
    }
    return f.FeaturesDict({"steps": f.Sequence(step), "episode_metadata": {"language_instruction": f.Text()}})


def random_image(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth colour with an edge: noise would say little about JPEG."""
    height, width, channels = shape
    y, x = np.mgrid[:height, :width]
    waves = rng.uniform(0.1, 0.5, (2, channels)) * rng.choice([-1, 1], (2, channels))
    pixels = 128 + 100 * np.sin(y[..., None] * waves[0] + x[..., None] * waves[1])
    pixels[height // 3 : height // 2, width // 4 : width // 2] = rng.integers(0, 256, channels)
    return pixels.astype(np.uint8)


def random_step(rng: np.random.Generator, step: int) -> dict[str, Any]:
    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(size=shape)

    return {
        "observation": {
            "png": random_image(rng, (24, 32, 3)),
            "default": random_image(rng, (24, 32, 3)),
            "rgba": random_image(rng, (24, 32, 4)),
            "cameras": {"jpeg": random_image(rng, (48, 64, 3))},
            "any_size": random_image(rng, (11, 13, 3)),
            "depth": numbers(24, 32, 1).astype(np.float32),
            "depth16": rng.integers(0, 65536, (24, 32, 1), dtype=np.uint16),
            "raw": random_image(rng, (8, 10, 3)),
            "raw_zlib": random_image(rng, (8, 10, 3)),
            "raw_bytes": random_image(rng, (8, 10, 3)),
            "state": numbers(3, 2),
        },
        "action": {
            "clip/zlib": numbers(5).astype(np.float32),
            "bool": numbers(2) > 0,
            "bool_bytes": numbers(2) > 0,
            "double": numbers(2),
            "double_bytes": numbers(2),
            "int": rng.integers(-(2**20), 2**20, (2, 2), dtype=np.int32),
            "label": int(rng.integers(4)),
            "scalar": np.float32(rng.normal()),
            "scalar_uint8": np.uint8(rng.integers(256)),
            "uint64": rng.integers(0, 2**20, 2, dtype=np.uint64),
        },
        "language_instruction": f"öffne die Schublade {step // 2}",
        "is_first": step == 0,
        "reward": np.float32(step),
    }


def random_episode(name: str, rng: np.random.Generator, number: int) -> dict[str, Any]:
    count = int(rng.integers(2, 7))
    if name == "kinds":
        metadata = {"file_path": f"/raw/{number}", "number": number}
        return {"steps": [random_step(rng, t) for t in range(count)], "episode_metadata": metadata, "success": True}
    return {
        "steps": [
            {
                "observation": {
                    "image": random_image(rng, (24, 32, 3)),
                    "proprio": rng.normal(size=4).astype(np.float32),
                },
                "action": rng.normal(size=7).astype(np.float32),
            }
            for _ in range(count)
        ],
        "episode_metadata": {"language_instruction": f"task {number}"},
    }


def write(folder: Path) -> None:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    for name, features in (("kinds", kinds()), ("plain", plain())):
        builder = builder_class(name, features)(data_dir=folder)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
        lengths = {split: info.shard_lengths for split, info in builder.info.splits.items()}
        log.info("tfds %s wrote %s: %s", tfds.__version__, name, lengths)


def builder_class(dataset: str, features: Any) -> Any:
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")
        name = dataset

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager: Any) -> Any:
            return {split: self._generate_examples(count) for split, count in EPISODES.items()}

        def _generate_examples(self, count: int) -> Any:
            rng = np.random.default_rng(count)
            for number in range(count):
                yield number, random_episode(dataset, rng, number)

    return Builder


# --- TFDS reads -----------------------------------------------------------------------------------------------------


def dump(sets: Path, folder: Path) -> None:
    import tensorflow_datasets as tfds

    for name, root in roots(sets):
        builder = tfds.builder_from_directory(root)
        for split, info in builder.info.splits.items():
            shards = info.filename_template.sharded_filepaths(info.num_shards)
            if not all(shard.exists() for shard in shards):
                log.info("%s: TFDS cannot read split %s: a shard is missing", name, split)
                continue
            out = folder / name / split
            out.mkdir(parents=True)
            for kind, decoders in (("default", None), ("accurate", accurate(builder.info.features))):
                episodes = builder.as_dataset(
                    split=split, read_config=tfds.ReadConfig(interleave_cycle_length=1), decoders=decoders
                )
                for number, episode in enumerate(episodes):
                    np.savez(out / f"{number:06d}-{kind}.npz", **flat(tfds.as_numpy(episode)))
            log.info("%s: TFDS read %d episodes of %s", name, info.num_examples, split)


def roots(sets: Path) -> list[tuple[str, Path]]:
    found = [path.parent for depth in ("*", "*/*") for path in sets.glob(f"{depth}/features.json")]
    return sorted((path.relative_to(sets).parts[0], path) for path in found)


def accurate(features: Any) -> Any:
    """Decoders by which JPEG comes out as the standard says. TensorFlow's default is its faster, rougher transform."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    @tfds.decode.make_decoder()
    def decode(example: Any, feature: Any) -> Any:
        return tf.io.decode_jpeg(example, channels=feature.shape[-1], dct_method="INTEGER_ACCURATE")

    def of(feature: Any) -> Any:
        if isinstance(feature, tfds.features.FeaturesDict):
            inner = {name: found for name, each in feature.items() if (found := of(each)) is not None}
            return inner or None
        is_jpeg = isinstance(feature, tfds.features.Image) and feature.encoding_format == "jpeg"
        return decode() if is_jpeg else None

    return {"steps": of(features["steps"].feature)}


def flat(episode: dict[str, Any]) -> dict[str, np.ndarray]:
    """Features by "/"-joined path, steps stacked. Names of .npz entries cannot hold "/", so ":" stands for it."""
    steps = episode.pop("steps")
    stacked: dict[str, list[Any]] = {}
    if isinstance(steps, dict):
        stacked = {path: list(value) for path, value in leaves(steps)}
    else:
        for step in steps:
            for path, value in leaves(step):
                stacked.setdefault(path, []).append(value)
    columns = {f"steps/{path}": np.array(values) for path, values in stacked.items()}
    columns |= {path: np.array(value) for path, value in leaves(episode)}
    return {path.replace("/", ":"): column for path, column in columns.items()}


def leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in tree.items():
        found += leaves(value, f"{prefix}{name}/") if isinstance(value, dict) else [(prefix + name, value)]
    return found


# --- we read --------------------------------------------------------------------------------------------------------


def check(sets: Path, folder: Path) -> None:
    from lara_tokenizer.data.listing import ListOptions
    from lara_tokenizer.data.rlds.dataset import list_episodes

    assert "tensorflow" not in sys.modules
    for name, root in roots(sets):
        episodes = {episode.id: episode for episode in list_episodes(str(root), ListOptions(cameras=("all",))).episodes}
        files = sorted((folder / name).rglob("*-accurate.npz"))
        assert len(files) == len(episodes) > 0, f"{name}: TFDS read {len(files)} episodes, we {len(episodes)}"
        rough: dict[str, int] = {}
        frames = values = 0
        for file in files:
            episode = episodes[f"{file.parent.name}/{file.name[:6]}"]
            columns = load(file)
            frames += compare_frames(episode, columns, load(file.with_name(f"{file.name[:6]}-default.npz")), rough)
            values += compare_signals(episode, columns)
            episode.close()
        log.info("%s: %d episodes, %d frames and %d numbers equal", name, len(files), frames, values)
        for camera, difference in sorted(rough.items()):
            log.info(
                "%s: %s differs from TensorFlow's default JPEG decoding by up to %d of 255", name, camera, difference
            )


def load(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=True) as saved:
        return {name.replace(":", "/"): saved[name] for name in saved.files}


def compare_frames(episode: Any, columns: dict[str, np.ndarray], default: Any, rough: dict[str, int]) -> int:
    compared = 0
    for camera in episode.cameras:
        key = f"steps/observation/{camera}"
        original = columns[key][..., :3]  # an alpha channel is dropped
        ours = episode.frames(camera, range(len(original)))
        np.testing.assert_array_equal(ours, original, err_msg=f"{episode.id} {camera}")
        difference = int(np.abs(ours.astype(int) - default[key][..., :3]).max())
        if episode.reader.layout.cameras[camera].encoding == "jpeg":
            rough[camera] = max(rough.get(camera, 0), difference)
        else:
            assert difference == 0, f"{episode.id} {camera}: {difference}"
        compared += len(ours)
    return compared


def compare_signals(episode: Any, columns: dict[str, np.ndarray]) -> int:
    ours, layout = episode.signals(), episode.reader.layout.signals
    compared = 0
    for values, parts in ((ours.actions, layout.actions), (ours.states, layout.states)):
        rows = [columns[part.feature.key] for part in parts]
        original = np.concatenate([row.reshape(len(row), -1).astype(np.float32) for row in rows], 1)
        np.testing.assert_array_equal(values, original, err_msg=episode.id)
        compared += original.size
    text = columns[layout.text.key]
    expected = [text] * len(ours.texts) if text.ndim == 0 else text
    assert ours.texts == tuple(_text(each) for each in expected), f"{episode.id}: {ours.texts[:2]}"
    return compared


def _text(value: Any) -> str:
    value = value.item() if isinstance(value, np.ndarray) else value
    return value.decode() if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    main(sys.argv[1], *(Path(argument) for argument in sys.argv[2:]))
