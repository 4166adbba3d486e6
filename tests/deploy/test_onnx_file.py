"""onnxruntime and numpy compute the latent actions that torch computes."""

from __future__ import annotations

import json
import runpy

import numpy as np
import pytest
import torch

from lara_tokenizer.deploy import checks, export_onnx
from lara_tokenizer.model import LatentActionConfig, LatentActionModel, LatentActionProcessor, steady_pairs
from lara_tokenizer.model.steady_pairs import steady_future, steady_future_as_graph

SIDE = 32


@pytest.fixture(scope="module")
def matching_checkpoint(tmp_path_factory):
    """A tiny model of the bundled kind: matching inverse model, a codebook for each code, steady pairs."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("matching") / "lam"
    vision = {"model_type": "latent_action_frames", "image_size": SIDE, "channels": [8, 8, 16], "blocks": [1, 1, 1]}
    sizes = {"image_size": SIDE, "patch_size": 16, "hidden_size": 16, "motion_channels": 6, "num_latents": 4}
    config = LatentActionConfig(
        **sizes,
        vision_config=vision,
        inverse_model="matching",
        codebook_size=16,
        codebook_dim=3,
        separate_codebooks=True,
        standardize_latents=False,
        num_m_former_layers=1,
        num_decoder_layers=1,
        decoder_motion_map=True,
    )
    model = LatentActionModel(config).eval()
    torch.nn.init.normal_(model.bottleneck.codebook.weight, std=0.3)
    model.save_pretrained(folder)
    LatentActionProcessor(size={"height": SIDE, "width": SIDE}, steady_pairs=True).save_pretrained(folder)
    return folder


def _shaken(moving_square, count):
    """Frames of a moving square under a shaking camera."""
    rng = np.random.default_rng(0)
    frames = moving_square(count, size=80, step=5)
    return np.stack([np.roll(frame, tuple(rng.integers(-3, 4, 2)), (0, 1)) for frame in frames])


def test_the_stabilisation_without_branches_is_the_stabilisation(moving_square):
    frames = torch.from_numpy(_shaken(moving_square, 24)).permute(0, 3, 1, 2)
    now, future = frames[:-1], frames[1:]
    expected = steady_future(now, future)
    assert (expected != future).any()
    assert (steady_future_as_graph(now, future) - expected.float()).abs().max() <= 1


def test_codes_of_the_file_are_those_of_torch(matching_checkpoint, moving_square, tmp_path, monkeypatch):
    monkeypatch.setattr(steady_pairs, "_REFINEMENTS", 1)  # on both sides: each adds its nodes to the graph
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="needs the extra 'onnx'")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    summary = export_onnx(matching_checkpoint, tmp_path / "out")
    assert summary.files == ("README.md", "encoder.onnx", "frames.py", "preparation.json")
    assert summary.checked_codes == 64
    session = runtime.InferenceSession(tmp_path / "out" / "encoder.onnx", providers=["CPUExecutionProvider"])
    prepare = runpy.run_path(str(tmp_path / "out" / "frames.py"))["prepare"]  # finds preparation.json beside itself
    frames = _shaken(moving_square, 33)
    given = {"frames": prepare(frames[:-1]), "future_frames": prepare(frames[1:])}
    latents, codes, margin = session.run(["latents", "codes", "code_margin"], given)
    model, processor = (
        each.from_pretrained(matching_checkpoint) for each in (LatentActionModel, LatentActionProcessor)
    )
    expected = model.encode(**processor(frames[:-1], frames[1:]))
    differ = codes != expected.codes.numpy()
    assert differ.mean() <= 0.001, f"margins of the codes that differ: {expected.code_margin.numpy()[differ]}"
    assert len(np.unique(codes)) > 4
    np.testing.assert_allclose(latents, expected.latents, atol=0.02 * float(expected.latents.abs().max()))
    np.testing.assert_allclose(margin, expected.code_margin.mean(1), rtol=0.05, atol=1e-3)
    one = session.run(["codes"], {name: each[:1] for name, each in given.items()})[0]  # a robot has one pair at a time
    assert np.array_equal(one, codes[:1])
    assert json.loads((tmp_path / "out" / "preparation.json").read_text())["strides"] == model.config.strides


def test_without_the_extra_the_error_comes_before_the_model(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "find_spec", lambda package: None)
    with pytest.raises(ImportError, match=r"onnx needs the 'onnx' extra: pip install 'lara-tokenizer\[onnx\]'"):
        export_onnx("no-such-model", tmp_path / "out")


def test_a_folder_with_files_is_refused_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "find_spec", lambda package: True)
    (tmp_path / "note.txt").touch()
    with pytest.raises(ValueError, match="exists already and is not an empty folder: OUT takes the name of a new one"):
        export_onnx("no-such-model", tmp_path)
