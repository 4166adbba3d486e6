"""GR00T's loader, DreamZero's own classes, on `lara-tok export groot`: every z is read as it was written.

    python benchmarks/peer_readers/groot.py --checkout path/to/dreamzero [--tokens tokens.parquet --source gr1_sim/]

Needs a checkout of github.com/dreamzero0/dreamzero at COMMIT, and what it imports: torch, torchvision, transformers,
pandas, pydantic, albumentations, opencv-python-headless, h5py, ftfy, regex, dm-tree, hydra-core, omegaconf, matplotlib,
imageio, einops. DreamZero's own, unmodified: LeRobotSingleDataset on every step, LeRobotMixtureDataset.sample_step in
training, and DreamTransform, which removes the tag and puts `lapa_action` in place of the action. The only stand-in is
the tokenizer's file: a WordLevel tokenizer of a few words in place of google/umt5-xxl.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_checkout import describe_file
from peer_readers._sample import write_checkpoint, write_table
from random_data import write_lerobot

from lara_tokenizer.data.lerobot.writer import encode_video
from lara_tokenizer.export import export_groot
from lara_tokenizer.table import read_tokens

COMMIT = "ab790c1"
FILES = {
    "groot/vla/data/dataset/lerobot.py": "f8efc6ed0f424f32cd4273be064680c33059106c",
    "groot/vla/model/dreamzero/transform/dreamzero_cotrain.py": "d5c23e0335e2a85f1d3a735c98cf9c9e16fb63e1",
}
INDICES = "groot/vla/configs/model/dreamzero/transform/base.yaml"
CAMERA, FPS, SIDE, LENGTHS = "observation.images.ego_view", 20, 64, (40, 25, 30)
UNLABELLED = 1  # this episode is not in the table
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
    print(f"DreamZero {COMMIT}, {', '.join(describe_file(options.checkout, *file) for file in FILES.items())}")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        tokens, source = options.tokens, options.source
        if tokens is None:
            source = write_dataset(scratch / "demos")
            write_checkpoint(scratch / "random")
            lengths = {index: length for index, length in enumerate(LENGTHS) if index != UNLABELLED}
            tokens = write_table(scratch / "tokens.parquet", lengths, CAMERA, FPS, scratch / "random")
        # Of random motion in 0..1 a tenth is left out; of a real table, still frames.
        summary = export_groot(tokens, source, scratch / "out", min_motion=0.1 if options.tokens is None else 0.004)
        compare(options.checkout, tokens, scratch, summary.settings, summary.pairs)


def compare(checkout: Path, tokens: Path, scratch: Path, settings: dict[str, Any], pairs: int) -> None:
    """Check every step of GR00T's dataset, and the transform of some. Raises AssertionError where one differs."""
    dataset = open_dataset(scratch / "out", settings)
    table = read_tokens(tokens)
    keys = zip(table["episode_index"].to_pylist(), table["frame_index"].to_pylist(), strict=True)
    latents = dict(zip(keys, table["latents"].to_pylist(), strict=True))
    assert len(dataset) == pairs, (len(dataset), pairs)
    seen = set()
    for index, (episode, step) in enumerate(dataset.all_steps):
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
        if index % 97 == 0:  # the transform decodes video, which takes long
            check_transform(checkout, dataset, index, scratch)
    check_sampling(dataset, seen)
    print(
        f"{len(seen)} steps of {len({episode for episode, _ in seen})} episodes of {len(dataset.trajectory_ids)}, "
        f"{int(dataset.trajectory_lengths.sum())} frames: lapa_action * {settings['scale']:g} equals the table's "
        "latents, <LAPA> is in every text, the transform gives the expected action and embodiment, and only these are "
        "sampled"
    )


def open_dataset(root: Path, settings: dict[str, Any]) -> Any:
    """GR00T's dataset with the modality that the manifest names."""
    from groot.vla.data.dataset.lerobot import LeRobotSingleDataset, ModalityConfig

    modality = json.loads((root / "meta/modality.json").read_text())
    keys = {name: [f"{name}.{key}" for key in modality[name]] for name in ("video", "state", "action")}
    configs = {name: ModalityConfig(delta_indices=[0], modality_keys=keys[name]) for name in ("video", "state")}
    configs["action"] = ModalityConfig(delta_indices=list(range(HORIZON)), modality_keys=keys["action"])
    configs["language"] = ModalityConfig(delta_indices=[0], modality_keys=[TASK])
    configs |= {name: ModalityConfig(**config) for name, config in settings["modality_configs"].items()}
    return LeRobotSingleDataset(root, configs, embodiment_tag=TAG, use_global_metadata=False, video_backend="opencv")


def check_transform(checkout: Path, dataset: Any, index: int, scratch: Path) -> None:
    """Check one step with its frame through DreamTransform."""
    import yaml
    from groot.vla.model.dreamzero.transform.dreamzero_cotrain import DreamTransform

    projectors = yaml.safe_load((checkout / INDICES).read_text())["embodiment_tag_to_projector_index"]
    transform = DreamTransform(
        default_instruction="",
        max_state_dim=64,
        max_action_dim=WIDTH,
        state_horizon=1,
        action_horizon=HORIZON,
        embodiment_tag_mapping=projectors,
        tokenizer_path=str(tokenizer(scratch / "tokenizer")),
    )
    transform.set_metadata(dataset.metadata)
    raw = dataset[index]
    data = {key: value for key, value in raw.items() if not key.startswith(("video.", "state.", "action."))}
    for name in ("state", "action"):
        parts = [value for key, value in raw.items() if key.startswith(f"{name}.")]
        data[name] = np.concatenate(parts, axis=-1)[:, :WIDTH]
    frames = [value for key, value in raw.items() if key.startswith("video.")]
    data["video"] = np.stack(frames, axis=1)
    out = transform(data)
    assert out["embodiment_id"] == projectors["lapa"] == 27
    assert out["action"].shape == (HORIZON, WIDTH)
    assert np.array_equal(out["action"].reshape(-1), raw["lapa_action"][0])
    assert out["action_mask"].all()
    assert bool(out["has_real_action"])
    assert not out["state"].any()
    assert out["text"] == raw[TASK][0].removeprefix("<LAPA>"), out["text"]
    assert "<" not in out["text"]  # the tag is not for the language model


def check_sampling(dataset: Any, seen: set[tuple[int, int]]) -> None:
    """Check that GR00T's training mixture draws only steps that have a pair."""
    from groot.vla.data.dataset.lerobot import LeRobotMixtureDataset

    mixture = LeRobotMixtureDataset([(dataset, 1.0)], training=True, allow_padding_at_end=True)
    drawn = {mixture.sample_step(index)[1:] for index in range(500)}
    assert {(int(episode), int(step)) for episode, step in drawn} <= seen


def tokenizer(folder: Path) -> Path:
    """A tokenizer on disk, written once."""
    if not folder.exists():
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "pick": 2}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def write_dataset(root: Path) -> Path:
    """A LeRobotDataset v2.1 as GR00T expects it: three episodes, two tasks, modality.json."""
    rng = np.random.default_rng(0)
    vector = {"dtype": "float32", "shape": [7]}
    video = {"dtype": "video", "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channel"]}
    features = {CAMERA: {**video, "video_info": {"video.fps": FPS}}, "observation.state": vector, "action": vector}

    def columns(episode: int, length: int) -> dict[str, Any]:
        file = root / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        encode_video(file, rng.integers(0, 256, (length, SIDE, SIDE, 3)).astype(np.uint8), FPS)
        state, action = (list(rng.standard_normal((length, 7)).astype(np.float32)) for _ in range(2))
        return {"observation.state": state, "action": action, TASK: np.full(length, episode % 2)}

    write_lerobot(root, FPS, LENGTHS, features, ("pick the pear", "open the drawer"), columns)
    parts = {"arm": {"start": 0, "end": 6}, "hand": {"start": 6, "end": 7}}
    modality = {"state": parts, "action": parts, "video": {"ego_view": {"original_key": CAMERA}}}
    modality["annotation"] = {"human.action.task_description": {}}
    (root / "meta/modality.json").write_text(json.dumps(modality))
    return root


if __name__ == "__main__":
    main()
