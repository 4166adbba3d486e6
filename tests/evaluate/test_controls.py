"""Controls win where they should: flow on moving textures; no change gives nothing; equal bits; reasons for gaps."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTModel

from lara_tokenizer.evaluate import PairSet
from lara_tokenizer.evaluate.controls.closed_form import CODES, COMPONENTS, STAGES, ClosedFormTokenizer
from lara_tokenizer.evaluate.controls.encoder import ControlEncoder
from lara_tokenizer.evaluate.controls.motion_controls import motion_controls
from lara_tokenizer.evaluate.probes import probe_actions

EPISODES, PAIRS, SIDE = 15, 8, 128
FLOW_ROWS = ("normal_flow", "optical_flow", "closed_form", "closed_form_codes")


def _smooth_noise(rng: np.random.Generator, side: int) -> np.ndarray:
    """A random texture of coarse and fine grains, float (side, side) in 0..255."""
    noise = torch.from_numpy(rng.random((1, 1, side // 4, side // 4), np.float32))
    smooth = torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic")[0, 0].numpy()
    return (255 * smooth).clip(0, 255)


@pytest.fixture(scope="module")
def textures() -> PairSet:
    """A textured patch, another one in each episode, that its action moves over a still background; grey frames."""
    rng = np.random.default_rng(0)
    frames, actions = [], []
    for _ in range(EPISODES):
        background, patch = _smooth_noise(rng, SIDE), _smooth_noise(rng, 48)
        for _ in range(PAIRS):
            x, y = rng.integers(24, 56, 2)
            move = rng.integers(-4, 5, 2)
            for dx, dy in ((0, 0), move):
                frame = background.copy()
                frame[y + dy : y + dy + 48, x + dx : x + dx + 48] = patch
                frames.append(frame.astype(np.uint8))
            actions.append(move)
    grey = np.stack(frames)
    now = np.arange(0, len(grey), 2)
    colours = np.repeat(grey[:, None, ::4, ::4], 3, 1)
    episodes = np.repeat(np.arange(EPISODES), PAIRS)
    return PairSet(colours, now, now + 1, np.array(actions, float), episodes, grey=grey)


def _table(pairs: PairSet, rows):
    now, future = pairs.frames[pairs.now], pairs.frames[pairs.future]
    noise = np.random.default_rng(1).normal(size=(len(pairs), 4))
    return probe_actions({"z": noise, **rows}, now, future, pairs.actions, pairs.episodes)


def test_flow_tells_how_a_texture_moves_and_pixels_do_not(textures):
    controls = motion_controls(textures, bits=56)
    assert controls.left_out == {}
    rows = _table(textures, controls.rows).rows
    r2 = {name: row.conditional_r2.value for name, row in rows.items()}
    assert min(r2[name] for name in FLOW_ROWS) > 0.5
    assert r2["optical_flow"] > 0.9
    assert max(r2["pixel_difference"], r2["pixel_difference_stabilized"]) < 0.2


def test_in_pairs_without_change_every_control_finds_exactly_nothing(textures):
    still = replace(textures, future=textures.now)
    table = _table(still, motion_controls(still, bits=56).rows)
    for name in (*FLOW_ROWS, "pixel_difference", "pixel_difference_stabilized"):
        assert (table.rows[name].r2.value, table.rows[name].conditional_r2.value) == (0, 0)


def test_the_best_control_is_named_with_the_paired_difference(textures):
    table = _table(textures, motion_controls(textures, bits=56).rows)
    best = table.best_controls["z"]
    assert best.name in FLOW_ROWS
    assert best.value == max(table.rows[name].conditional_r2.value for name in FLOW_ROWS)
    assert best.difference == table.margins["conditional_r2"][best.name].value
    assert best.difference_interval[1] < 0
    assert not best.is_beaten


def test_the_shipped_tokenizer_has_56_bits_and_a_note_of_its_sources():
    tokenizer = ClosedFormTokenizer.load()
    assert tokenizer.codebooks.shape == (STAGES, CODES, COMPONENTS)
    assert STAGES * tokenizer.bits_per_stage == 56
    identity = tokenizer.directions.T @ tokenizer.directions
    assert np.allclose(identity, np.eye(COMPONENTS), atol=1e-5)


def test_codes_of_the_closed_form_tokenizer_are_deterministic_and_each_stage_comes_nearer():
    tokenizer = ClosedFormTokenizer.load()
    flow = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    latents = tokenizer.latents(flow)
    codes = tokenizer.codes(latents, STAGES)
    assert np.array_equal(codes, tokenizer.codes(latents, STAGES))
    assert codes.shape == (64, STAGES)
    errors = [((latents - tokenizer.quantized(codes[:, :stages])) ** 2).mean() for stages in range(1, STAGES + 1)]
    assert errors == sorted(errors, reverse=True)
    # The first codes are coarse motion: they do not depend on how many follow.
    assert np.array_equal(codes[:, :2], tokenizer.codes(latents, 2))


@pytest.mark.parametrize(("bits", "stages"), [(56, 8), (8 * np.log2(128), 8), (12, 1), (100, 8), (5, 0)])
def test_as_many_stages_as_fit_into_the_bits_of_the_tokenizer(bits, stages):
    assert ClosedFormTokenizer.load().stages_within(bits) == stages


def test_a_tokenizer_with_fewer_bits_than_a_stage_has_no_control_of_its_codes(textures):
    controls = motion_controls(textures, bits=5)
    assert "closed_form_codes" not in controls.rows
    assert "5.0 bits" in controls.left_out["closed_form_codes"]


def test_a_fit_finds_planted_clusters_in_planted_directions():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CODES, 2)) * 10
    basis = np.linalg.qr(rng.normal(size=(128, 2)))[0]
    flow = (centres[rng.integers(CODES, size=4000)] @ basis.T + 0.01 * rng.normal(size=(4000, 128))).astype(np.float32)
    tokenizer = ClosedFormTokenizer.fit(flow)
    latents = tokenizer.latents(flow)
    left = latents - tokenizer.quantized(tokenizer.codes(latents, STAGES))
    assert np.linalg.norm(tokenizer.directions[:, :2].T @ basis, axis=1) == pytest.approx([1, 1], abs=1e-4)
    assert (left**2).sum() < 1e-3 * (latents**2).sum()


def test_without_opencv_the_flow_rows_are_left_out_and_the_extra_is_named(textures, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    controls = motion_controls(textures, bits=56)
    assert set(controls.rows) == {"normal_flow", "pixel_difference_stabilized"}
    assert set(controls.left_out) == {"optical_flow", "closed_form", "closed_form_codes"}
    assert all("pip install 'lara-tokenizer[eval]'" in reason for reason in controls.left_out.values())


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    ViTModel(ViTConfig(image_size=48, patch_size=16, **sizes), add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def test_a_control_encoder_sees_frames_at_its_own_size_and_no_change_in_no_change(
    encoder_folder, textures, plain_processor
):
    encoder = ControlEncoder.load(encoder_folder, torch.device("cpu"))
    assert encoder.side == 48
    assert encoder.change(plain_processor, textures).values_PF.any()
    assert not encoder.change(plain_processor, replace(textures, future=textures.now)).values_PF.any()


def test_the_image_size_of_a_processor_comes_before_that_of_the_configuration(encoder_folder, tmp_path):
    shutil.copytree(encoder_folder, tmp_path, dirs_exist_ok=True)
    sizes = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(sizes))
    encoder = ControlEncoder.load(str(tmp_path), torch.device("cpu"))
    assert (encoder.side, encoder.mean) == (32, (0.5, 0.5, 0.5))


def test_a_control_encoder_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(ValueError, match="control encoder"):
        ControlEncoder.load(str(tmp_path / "nothing"), torch.device("cpu"))
