"""Does GR00T's loader read `lara-tok export groot`? DreamZero's own classes, unmodified; z comes out as it went in.

    python benchmarks/peer_readers/groot.py --checkout path/to/dreamzero [--tokens tokens.parquet --source gr1_sim/]

Needs a checkout of github.com/dreamzero0/dreamzero at COMMIT, and what it imports: torch, torchvision, transformers,
pandas, pydantic, albumentations, opencv-python-headless, h5py, ftfy, regex, dm-tree, hydra-core, omegaconf, matplotlib,
imageio, einops. What runs of theirs: LeRobotSingleDataset on every step, LeRobotMixtureDataset.sample_step in training,
and DreamTransform, which takes the tag away and puts `lapa_action` in the place of the action. Nothing stands in, but
for the tokenizer's file: a WordLevel tokenizer of a few words where theirs is google/umt5-xxl.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _lerobot_sample import write_checkpoint, write_table
from _sample import check_file

from lara_tokenizer.data.lerobot_writer import encode_video
from lara_tokenizer.export import export_groot
from lara_tokenizer.table import read_tokens

COMMIT = "ab790c1"
FILES = {
    "groot/vla/data/dataset/lerobot.py": "f8efc6ed0f424f32cd4273be064680c33059106c",
    "groot/vla/model/dreamzero/transform/dreamzero_cotrain.py": "d5c23e0335e2a85f1d3a735c98cf9c9e16fb63e1",
}
INDICES = "groot/vla/configs/model/dreamzero/transform/base.yaml"
CAMERA, FPS, SIDE, LENGTHS, UNLABELLED = "observation.images.ego_view", 20, 64, (40, 25, 30), 1
TASK = "annotation.human.action.task_description"
TAG = "gr1_unified"
HORIZON, WIDTH = 16, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, help="A real table, with latents. Default: a generated dataset.")
    parser.add_argument("--source", type=Path, help="The LeRobotDataset v2.x of that table, with modality.json.")
    options = parser.parse_args()
    sys.path.insert(0, str(options.checkout.resolve()))
    print(f"DreamZero {COMMIT}, {', '.join(check_file(options.checkout, *file) for file in FILES.items())}")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        tokens, source = options.tokens, options.source
        if tokens is None:
            source = write_dataset(scratch / "demos")
            write_checkpoint(scratch / "random")
            lengths = {number: length for number, length in enumerate(LENGTHS) if number != UNLABELLED}
            tokens = write_table(scratch / "tokens.parquet", lengths, CAMERA, FPS, scratch / "random")
        summary = export_groot(tokens, source, scratch / "out", min_motion=0.1 if options.tokens is None else 0.004)
        compare(options.checkout, tokens, scratch, summary.settings, summary.pairs)


def compare(checkout: Path, tokens: Path, scratch: Path, settings: dict[str, Any], pairs: int) -> None:
    """Every step that their dataset offers, and what their transform makes of some. Raises AssertionError."""
    dataset = open_theirs(scratch / "out", settings)
    table = read_tokens(tokens)
    keys = zip(table["episode_index"].to_pylist(), table["frame_index"].to_pylist(), strict=True)
    latents = dict(zip(keys, table["latents"].to_pylist(), strict=True))
    assert len(dataset) == pairs, (len(dataset), pairs)
    seen = set()
    for place, (episode, step) in enumerate(dataset.all_steps):
        indices = {key: deltas + step for key, deltas in dataset.delta_indices.items() if not key.startswith("video")}
        data = dataset.get_step_data(episode, indices)
        z = np.array(latents[int(episode), int(step)], np.float32)
        action = data["lapa_action"]
        assert action.shape == (1, HORIZON * WIDTH), action.shape
        assert action.min() >= -1
        assert action.max() <= 1
        np.testing.assert_allclose(action[0, : len(z)] * settings["scale"], z, rtol=1e-5, atol=1e-6)
        assert not action[0, len(z) :].any()
        assert all(text.startswith("<LAPA>") for text in data[TASK]), data[TASK]
        seen.add((int(episode), int(step)))
        if place % 97 == 0:
            check_transform(checkout, dataset, place, scratch)
    check_sampling(dataset, seen)
    print(
        f"{len(seen)} steps of {len({episode for episode, _ in seen})} episodes of {len(dataset.trajectory_ids)}, "
        f"{int(dataset.trajectory_lengths.sum())} frames: lapa_action * {settings['scale']:g} equals the table's "
        "latents, <LAPA> is in every text, the transform gives action and embodiment as it should, and only these are "
        "sampled"
    )


def open_theirs(root: Path, settings: dict[str, Any]) -> Any:
    """Their dataset with the modality that the manifest names."""
    from groot.vla.data.dataset.lerobot import LeRobotSingleDataset, ModalityConfig

    modality = json.loads((root / "meta/modality.json").read_text())
    keys = {name: [f"{name}.{key}" for key in modality[name]] for name in ("video", "state", "action")}
    configs = {name: ModalityConfig(delta_indices=[0], modality_keys=keys[name]) for name in ("video", "state")}
    configs["action"] = ModalityConfig(delta_indices=list(range(HORIZON)), modality_keys=keys["action"])
    configs["language"] = ModalityConfig(delta_indices=[0], modality_keys=[TASK])
    configs |= {name: ModalityConfig(**config) for name, config in settings["modality_configs"].items()}
    return LeRobotSingleDataset(root, configs, embodiment_tag=TAG, use_global_metadata=False, video_backend="opencv")


def check_transform(checkout: Path, dataset: Any, place: int, scratch: Path) -> None:
    """One step with its frame through DreamTransform."""
    import yaml
    from groot.vla.model.dreamzero.transform.dreamzero_cotrain import DreamTransform

    numbers = yaml.safe_load((checkout / INDICES).read_text())["embodiment_tag_to_projector_index"]
    transform = DreamTransform(
        default_instruction="",
        max_state_dim=64,
        max_action_dim=WIDTH,
        state_horizon=1,
        action_horizon=HORIZON,
        embodiment_tag_mapping=numbers,
        tokenizer_path=str(tokenizer(scratch / "tokenizer")),
    )
    transform.set_metadata(dataset.metadata)
    raw = dataset[place]
    data = {key: value for key, value in raw.items() if not key.startswith(("video.", "state.", "action."))}
    for name in ("state", "action"):
        parts = [value for key, value in raw.items() if key.startswith(f"{name}.")]
        data[name] = np.concatenate(parts, axis=-1)[:, :WIDTH]
    frames = [value for key, value in raw.items() if key.startswith("video.")]
    data["video"] = np.stack(frames, axis=1)
    out = transform(data)
    assert out["embodiment_id"] == numbers["lapa"] == 27
    assert out["action"].shape == (HORIZON, WIDTH)
    assert np.array_equal(out["action"].reshape(-1), raw["lapa_action"][0])
    assert out["action_mask"].all()
    assert bool(out["has_real_action"])
    assert not out["state"].any()
    assert out["text"] == raw[TASK][0].removeprefix("<LAPA>"), out["text"]
    assert "<" not in out["text"]


def check_sampling(dataset: Any, seen: set[tuple[int, int]]) -> None:
    """Their training mixture draws only steps that have a pair."""
    from groot.vla.data.dataset.lerobot import LeRobotMixtureDataset

    mixture = LeRobotMixtureDataset([(dataset, 1.0)], training=True, allow_padding_at_end=True)
    drawn = {mixture.sample_step(number)[1:] for number in range(500)}
    assert {(int(episode), int(step)) for episode, step in drawn} <= seen


def tokenizer(folder: Path) -> Path:
    """A tokenizer on the disk, made once."""
    if not folder.exists():
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "pick": 2}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def write_dataset(root: Path) -> Path:
    """A LeRobotDataset v2.1 in GR00T's manner: three episodes, two tasks, modality.json."""
    rng = np.random.default_rng(0)
    info = {
        "codebase_version": "v2.1",
        "fps": FPS,
        "chunks_size": 1000,
        "total_episodes": len(LENGTHS),
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            CAMERA: {
                "dtype": "video",
                "shape": [SIDE, SIDE, 3],
                "names": ["height", "width", "channel"],
                "video_info": {"video.fps": FPS},
            },
            "observation.state": {"dtype": "float32", "shape": [7]},
            "action": {"dtype": "float32", "shape": [7]},
        },
    }
    parts = {"arm": {"start": 0, "end": 6}, "hand": {"start": 6, "end": 7}}
    modality = {"state": parts, "action": parts, "video": {"ego_view": {"original_key": CAMERA}}}
    modality["annotation"] = {"human.action.task_description": {}}
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/modality.json").write_text(json.dumps(modality))
    tasks = ("pick the pear", "open the drawer")
    lines = [json.dumps({"task_index": number, "task": task}) for number, task in enumerate(tasks)]
    (root / "meta/tasks.jsonl").write_text("\n".join(lines) + "\n")
    entries = []
    for number, length in enumerate(LENGTHS):
        entries.append({"episode_index": number, "tasks": [tasks[number % 2]], "length": length})
        files = {
            name: root / info[f"{name}_path"].format(episode_chunk=0, episode_index=number, video_key=CAMERA)
            for name in ("data", "video")
        }
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        encode_video(files["video"], rng.integers(0, 256, (length, SIDE, SIDE, 3)).astype(np.uint8), FPS)
        numbers = {
            key: list(rng.standard_normal((length, 7)).astype(np.float32)) for key in ("observation.state", "action")
        }
        numbers |= {"timestamp": np.arange(length) / FPS, TASK: np.full(length, number % 2)}
        numbers |= {"task_index": np.full(length, number % 2), "episode_index": np.full(length, number)}
        pq.write_table(pa.table(numbers), files["data"])
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return root


if __name__ == "__main__":
    main()
