"""Moto's own dataset classes on our exports: equal frames, actions, masks and codes.

    python benchmarks/peer_readers/moto.py --checkout path/to/Moto --peer-python path/to/env/bin/python

The exports are made here: videos of a moving image, with actions and instructions, encoded by lara-lam. Moto runs in
its environment (transformers 4.38 to 4.46, torch, lmdb, opencv-python-headless, accelerate, tensorboard, omegaconf,
hydra-core, pyrootutils, einops, timm): LMDBDataset_for_MotoGPT_{OXE,RT1,CALVIN} and JsonDataset_for_MotoGPT_Video
through its `load_dataset`, and `calculate_loss` of its trainer with a small Moto-GPT.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_readers._moto import run

STYLES = ("oxe", "rt1", "calvin")
LENGTHS = {"one": 70, "two": 83, "three": 3, "four": 91, "five": 60}  # "three" is shorter than a pair
HEIGHT, WIDTH, FPS = 64, 80, 10
STRIDE, SEQUENCE, CHUNK = 3, 2, 3
FRAME_ERROR = 4.0  # of 255, on average over a frame; the frame before or after differs far more, if it moved
TIME_LIMIT = 300  # seconds; Moto's datasets retry for ever where nothing can be read


class MemoryReader:
    """The reader of an episode in memory: frames, actions and an instruction."""

    def __init__(self, frames: np.ndarray, actions: np.ndarray, text: str) -> None:
        self.pixels, self.actions, self.text = frames, actions, text

    def index(self, camera: str) -> Any:
        from lara_tokenizer.data.episode import FrameIndex

        return FrameIndex(np.arange(len(self.pixels)) / FPS, FPS)

    def frames(self, camera: str, indices: Any) -> np.ndarray:
        return self.pixels[np.asarray(indices, int)]

    def signals(self) -> Any:
        from lara_tokenizer.data.episode import Signals

        return Signals(actions=self.actions, texts=(self.text,) * len(self.pixels))

    def close(self) -> None:
        pass


def make(scratch: Path, arguments: argparse.Namespace) -> None:
    """An export of each style, and the frames, actions and codes that must be read from them."""
    from lara_tokenizer.data import Episode
    from lara_tokenizer.encode import encode_dataset
    from lara_tokenizer.export import export_moto
    from lara_tokenizer.table import read_tokens

    rng = np.random.default_rng(0)
    readers = {name: _moving_image(length, name, rng) for name, length in sorted(LENGTHS.items())}
    episodes = [
        Episode(name, reader, text=reader.text, fps=FPS, available_signals=("actions", "text"))
        for name, reader in readers.items()
    ]
    options = {"strides": [f"{STRIDE}f"], "keep_tail": True, "columns": ["text"], "workers": 0}
    encode_dataset(episodes, "lara-lam", out=scratch / "tokens.parquet", **options)
    for style in STYLES:
        summary = export_moto(
            scratch / "tokens.parquet", episodes, scratch / style, style=style, min_motion=0.02, workers=0
        )
        print(f"{style}: {summary.pairs} pairs of {summary.episodes} episodes, left out {summary.left_out}")
    table = read_tokens(scratch / "tokens.parquet")
    motion = np.array(table["motion"].to_pylist(), float)
    np.savez(
        scratch / "expected.npz",
        episode=np.array(table["episode"].to_pylist()),
        frame=table["frame_index"].to_numpy(),
        codes=np.array(table["codes"].to_pylist()),
        valid=table["valid"].to_numpy() & (motion >= 0.02),
        **{f"frames_{name}": reader.pixels for name, reader in readers.items()},
        **{f"actions_{name}": reader.actions for name, reader in readers.items()},
    )


def _moving_image(length: int, name: str, rng: np.random.Generator) -> MemoryReader:
    """A grey image that moves, but for a third of the time, so that some pairs have little motion."""
    image = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 1), np.uint8).repeat(8, 0).repeat(8, 1).repeat(3, 2)
    # Steps of 3 pixels or more: neighbouring frames differ by far more than a codec's error.
    offsets = np.cumsum(rng.integers(3, 9, length) * (np.arange(length) // 8 % 3 > 0))
    frames = np.stack([np.roll(image, int(offset), 1) for offset in offsets])
    actions = rng.uniform(-1, 1, (length, 7)).astype(np.float32)
    return MemoryReader(frames, actions, f"Push the box {name}.")


@dataclass
class Expected:
    """The data that the exports were made from, by step of the LMDB."""

    frames: np.ndarray
    actions: np.ndarray
    episode: np.ndarray
    names: list[str]
    codes: np.ndarray
    valid: np.ndarray

    @classmethod
    def load(cls, scratch: Path) -> Expected:
        saved = np.load(scratch / "expected.npz")
        names = sorted(LENGTHS)
        lengths = [LENGTHS[name] for name in names]
        first = dict(zip(names, np.cumsum([0, *lengths]).tolist(), strict=False))
        codes = np.full((sum(lengths), saved["codes"].shape[1]), -1)
        valid = np.zeros(sum(lengths), bool)
        steps = np.array([first[name] for name in saved["episode"]]) + saved["frame"]
        codes[steps], valid[steps] = saved["codes"], saved["valid"]
        return cls(
            frames=np.concatenate([saved[f"frames_{name}"] for name in names]),
            actions=np.concatenate([saved[f"actions_{name}"] for name in names]),
            episode=np.repeat(np.arange(len(names)), lengths),
            names=names,
            codes=codes,
            valid=valid,
        )

    def futures(self, step: int) -> list[int | None]:
        """The steps d, 2d, ... later, None past the end of the episode."""
        steps: list[int | None] = [None] * SEQUENCE
        for i in range(SEQUENCE):
            future = step + (i + 1) * STRIDE
            if future >= len(self.episode) or self.episode[future] != self.episode[step]:
                break
            steps[i] = future
        return steps

    def error(self, frame: Any, step: int) -> float:
        """Mean error of a frame (3, H, W) against that of a step. It must not be that of the step before or after."""
        pixels = frame.permute(1, 2, 0).numpy().astype(int)
        error = float(np.abs(pixels - self.frames[step]).mean())
        for other in (step - 1, step + 1):
            if 0 <= other < len(self.frames) and not np.array_equal(self.frames[other], self.frames[step]):
                assert np.abs(pixels - self.frames[other]).mean() > 3 * error
        return error


def read(scratch: Path) -> None:
    """Read the exports in Moto's environment."""
    signal.alarm(TIME_LIMIT)
    import cv2
    import torch
    import transformers
    from common.data import datasets
    from common.data.data_utils import load_dataset

    from lara_tokenizer.export.moto_wrapper import with_stored_codes

    print(f"  transformers {transformers.__version__}, torch {torch.__version__}, OpenCV {cv2.__version__}")
    expected = Expected.load(scratch)
    for style in STYLES:
        os.chdir(scratch / style)  # paths in data_config.yaml are relative
        with_actions = style != "oxe"
        config = {
            "sequence_length": SEQUENCE,
            "chunk_size": CHUNK,
            "act_dim": 7,
            "do_extract_future_frames": True,
            "do_extract_action": with_actions,
        }
        train, val = load_dataset("data_config.yaml", config)
        if style == "oxe":
            print(f"oxe: load_dataset gives a mixture of {len(train)} and {len(val)} samples, resized: its ids")
            check("train", with_stored_codes(train), train.datasets[0].dataset, expected, frames=False)
            train = datasets.LMDBDataset_for_MotoGPT_OXE(
                lmdb_dir="lmdb/lara",
                video_dir="video/lara/image",
                split="train",
                skip_frame=STRIDE,
                rgb_shape=(HEIGHT, WIDTH),
                **config,
            )
        check("train", with_stored_codes(train), train, expected, frames=True)
        check("val", with_stored_codes(val), val if style != "oxe" else val.datasets[0].dataset, expected, frames=False)
    os.chdir(scratch / "rt1")
    check_videos(datasets, expected)
    check_trainer(with_stored_codes(load_dataset("data_config.yaml", config)[0]), scratch)


def check(split: str, wrapped: Any, dataset: Any, expected: Expected, frames: bool) -> None:
    """Compare every sample of a dataset, read through our wrapper."""
    kind = type(dataset).__name__
    errors: list[float] = []
    own = actions = labels = masked = 0
    for index in range(len(wrapped)):
        sample = wrapped[index]
        own += sample["idx"] == index  # Moto draws another sample where one has no future frame
        step = dataset.start_step + sample["idx"]
        futures = expected.futures(step)
        name = expected.names[expected.episode[step]]
        texts = (f"Push the box {name}.", f"push the box {name}")  # Moto lowers the case, but for CALVIN
        assert sample["lang"] in texts, sample["lang"]
        _check_codes(sample, [step, *futures], expected)
        labels += int(sample["latent_mask"].sum())
        masked += sum(future is not None for future in futures) - int(sample["latent_mask"].sum())
        if dataset.do_extract_action:
            actions += _check_actions(sample, step, expected, "CALVIN" in kind)
        if frames:
            images = [(sample["rgb_initial"][0], step), *zip(sample["rgb_future"], futures, strict=True)]
            errors += [expected.error(image, at) for image, at in images if at is not None]
    message = f"{kind}, {split}: {len(wrapped)} samples ({own} as asked), {labels} codes equal, {masked} masked"
    if dataset.do_extract_action:
        message += f", {actions} actions equal"
    if errors:
        assert max(errors) < FRAME_ERROR, max(errors)
        message += f", {len(errors)} frames within {max(errors):.2f} of 255 (mean {np.mean(errors):.2f})"
    print(message)


def _check_codes(sample: dict[str, Any], steps: list[int | None], expected: Expected) -> None:
    codes, mask = sample["latent_motion_ids"].numpy(), sample["latent_mask"].numpy()
    for i in range(SEQUENCE):
        valid = steps[i + 1] is not None and expected.valid[steps[i]]
        assert mask[i] == valid, (steps, mask)
        np.testing.assert_array_equal(codes[i], expected.codes[steps[i]] if valid else 0)


def _check_actions(sample: dict[str, Any], step: int, expected: Expected, is_calvin: bool) -> int:
    """Compare a sample's action chunks; returns how many actions there are."""
    there = 0
    for i in range(SEQUENCE):
        for j in range(CHUNK):
            at = step + i * STRIDE + j
            same = at < len(expected.episode) and expected.episode[at] == expected.episode[step]
            assert sample["mask"][i, j] == same
            if same:
                action = expected.actions[at].copy()
                if is_calvin:
                    action[-1] = (action[-1] + 1) / 2  # as its class rescales the gripper
                np.testing.assert_array_equal(sample["actions"][i, j].numpy(), action)
            there += int(same)
    return there


def check_videos(datasets: Any, expected: Expected) -> None:
    """Compare the class that reads only mp4 files, at every frame of each."""
    from lara_tokenizer.export.moto_wrapper import with_stored_codes

    video_dir = "video/lara/image"
    metadata = json.loads(Path(video_dir, "video_metadata.json").read_text())["train"]
    dataset = datasets.JsonDataset_for_MotoGPT_Video(
        split="train", skip_frame=STRIDE, sequence_length=SEQUENCE, video_dir=video_dir, rgb_shape=(HEIGHT, WIDTH)
    )
    wrapped = with_stored_codes(dataset, "lmdb/lara")
    errors = []
    for video, (_, length, first) in enumerate(dataset.videos):
        for start in range(length - STRIDE):
            sample = dataset.obtain_item(video, start_local_step=start)
            at = [first + start, *expected.futures(first + start)]
            images = [sample["rgb_initial"][0], *sample["rgb_future"]]
            assert sample["latent_mask"].tolist() == [float(step is not None) for step in at[1:]]
            errors += [expected.error(image, step) for image, step in zip(images, at, strict=True) if step is not None]
    assert max(errors) < FRAME_ERROR, max(errors)
    labels = 0
    for index in range(200):
        sample = wrapped[index]
        step = dataset.videos[sample["idx"]][2] + sample["start_local_step"]
        _check_codes(sample, [step, *expected.futures(step)], expected)
        labels += int(sample["latent_mask"].sum())
    print(
        f"JsonDataset_for_MotoGPT_Video: {len(dataset.videos)} of {len(metadata['videos'])} videos in train, "
        f"{len(errors)} frames within {max(errors):.2f} of 255, 200 samples with {labels} codes equal"
    )


def check_trainer(wrapped: Any, scratch: Path) -> None:
    """Run `calculate_loss` of Moto's trainer with a small Moto-GPT: it gets our codes, and learns from them."""
    import torch
    from moto_gpt.src.trainers.moto_gpt_trainer import MotoGPT_Trainer

    from lara_tokenizer.export.moto_wrapper import stored_codes

    torch.manual_seed(0)
    batch = torch.utils.data.default_collate([wrapped[index] for index in range(0, 64, 4)])
    batch["lang_input_ids"] = torch.randint(0, 30, (len(batch["idx"]), 6))
    batch["lang_attention_mask"] = torch.ones_like(batch["lang_input_ids"])
    trainer = MotoGPT_Trainer.__new__(MotoGPT_Trainer)  # its constructor needs a GPU
    trainer.moto_gpt = _small_moto_gpt(scratch / "vision", batch["latent_motion_ids"].shape[-1])
    trainer.moto_gpt_config = type("Config", (dict,), {"latent_motion_pred": True})()
    trainer.latent_motion_tokenizer = None
    trainer.pred_binary_gripper_action = False
    trainer.rgb_preprocessor = _preprocessor()
    seen: list[torch.Tensor] = []
    trainer.moto_gpt.embed_latent_motion.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    optimizer = torch.optim.AdamW([p for p in trainer.moto_gpt.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    with stored_codes(trainer):
        for _ in range(30):
            loss = trainer.calculate_loss(batch, train=True)
            optimizer.zero_grad()
            loss["total_loss"].backward()
            optimizer.step()
            losses.append(loss["latent_motion"].item())
    assert all(torch.equal(codes, batch["latent_motion_ids"]) for codes in seen)
    assert losses[-1] < losses[0]
    assert trainer.latent_motion_tokenizer is None
    assert "calculate_loss" not in vars(trainer)
    print(
        f"MotoGPT_Trainer.calculate_loss, {len(losses)} steps without a tokenizer: Moto-GPT was given the batch's "
        f"codes each time; cross-entropy on them {losses[0]:.2f} -> {losses[-1]:.2f}"
    )


def _small_moto_gpt(vision: Path, num_latents: int) -> Any:
    from moto_gpt.src.models.mae_model import MaeEncoder
    from moto_gpt.src.models.moto_gpt import MotoGPT
    from moto_gpt.src.models.trajectory_gpt2 import GPT2Config, GPT2Model
    from transformers import T5Config, T5EncoderModel, ViTMAEConfig, ViTMAEModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTMAEModel(ViTMAEConfig(image_size=32, patch_size=16, **sizes)).save_pretrained(vision)
    language = T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    gpt = GPT2Config(
        vocab_size=1, n_embd=32, n_layer=2, n_head=2, activation_function="relu", dropout=0.0, n_positions=1024
    )
    return MotoGPT(
        model_lang=T5EncoderModel(language),
        model_vision=MaeEncoder(use_obs_feature=True, pretrained_model_name_or_path=str(vision)),
        model_causal_transformer=GPT2Model(gpt),
        act_dim=7,
        hidden_size=32,
        sequence_length=SEQUENCE,
        chunk_size=CHUNK,
        per_latent_motion_len=num_latents,
        latent_motion_codebook_size=128,
        latent_motion_pred=True,
        act_pred=True,
        img_feat_dim=32,
        patch_feat_dim=32,
        lang_feat_dim=16,
    )


def _preprocessor() -> Any:
    from common.processors.rgb_preprocessors import RGB_PreProcessor

    return RGB_PreProcessor(
        rgb_shape=[32, 32], rgb_mean=[0.5] * 3, rgb_std=[0.5] * 3, do_random_shift=True, shift_pad=2
    )


if __name__ == "__main__":
    run(__file__, make, read)
