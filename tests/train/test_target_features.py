"""Features of a frozen encoder: once for every frame, equal after a kill, a function of weights and frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import MobileNetV2Config, MobileNetV2Model, ResNetConfig, ResNetModel, ViTConfig, ViTModel

from lara_tokenizer.model import LatentActionProcessor
from lara_tokenizer.train.frames import FrameCache
from lara_tokenizer.train.targets.encoder import TargetEncoder
from lara_tokenizer.train.targets.features import TargetFeatures

CELLS = 2
PROCESSOR = LatentActionProcessor(size={"height": 32, "width": 32})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A ResNet of two stages after a stem of stride 4, the last at stride 16."""
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 24, 40], depths=[1, 1, 1], layer_type="basic")
    folder = tmp_path_factory.mktemp("resnet")
    ResNetModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def cache(tmp_path, squares):
    return FrameCache.build(squares(7, broken=(2,)), PROCESSOR, tmp_path / "frames")


def _files(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_killed_and_a_truncated_run_end_in_the_same_bytes(cache, encoder):
    def kill(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TargetFeatures.build(cache, encoder, CELLS, kill)
    (folder,) = cache.folder.glob("features-*")
    assert 0 < np.fromfile(folder / "done.u8", np.uint8).sum() < 120
    resumed = _files(TargetFeatures.build(cache, encoder, CELLS).folder)
    # In one go.
    for file in folder.iterdir():
        file.unlink()
    whole = TargetFeatures.build(cache, encoder, CELLS)
    assert _files(whole.folder) == resumed
    assert np.fromfile(folder / "done.u8", np.uint8).sum() == 120  # not the 20 frames that cannot be read
    # Cut by a full disk: the marks are of no worth.
    with open(folder / "features.f16", "r+b") as file:
        file.truncate(5000)
    assert _files(TargetFeatures.build(cache, encoder, CELLS).folder) == resumed
    # And done once: nothing is computed again.
    TargetFeatures.build(cache, encoder, CELLS, kill)


def test_features_are_the_encoders_maps_in_the_directions_that_change_most(cache, encoder):
    features = TargetFeatures.build(cache, encoder, CELLS)
    last, rows = cache.sequences[-1], np.arange(20)
    maps = TargetEncoder.load(encoder, CELLS)(cache.read(np.array([last.index]), rows[None])[0])
    components = torch.from_numpy(np.load(features.folder / "components.npy"))
    assert torch.allclose(components.T @ components, torch.eye(32), atol=1e-5)
    read = features.read(np.array([last.index]), rows[None])[0].float()
    assert torch.allclose(read, torch.einsum("bvij,vc->bcij", maps, components), rtol=1e-2, atol=1e-2)
    change = (read[5:] - read[:-5]).square().mean((0, 2, 3))
    assert change[:4].min() > change[-4:].max()


def test_other_weights_or_frames_have_a_folder_of_their_own(cache, encoder, tmp_path, squares):
    first = TargetFeatures.build(cache, encoder, CELLS).folder
    model = ResNetModel.from_pretrained(encoder)
    model.get_parameter("encoder.stages.0.layers.0.layer.0.convolution.weight").data += 1
    model.save_pretrained(tmp_path / "other")
    assert TargetFeatures.build(cache, str(tmp_path / "other"), CELLS).folder != first
    fewer = FrameCache.build(squares(3), PROCESSOR, tmp_path / "fewer")
    assert TargetFeatures.build(fewer, encoder, CELLS).folder.name != first.name


def test_a_transformers_patch_tokens_are_a_map_at_its_own_size(tmp_path):
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=64, patch_size=16
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    frames = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    encoder = TargetEncoder.load(str(tmp_path), 4)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (encoder.mean, encoder.std))
    with torch.no_grad():
        tokens = model((frames / 255 - mean) / std).last_hidden_state
    assert torch.allclose(encoder(frames).flatten(2).transpose(1, 2), tokens[:, 1:], atol=1e-5)
    assert encoder(frames[..., ::2, ::2]).shape == (2, 32, 4, 4)  # frames of another size are resized


def test_a_convolutional_networks_map_is_the_last_at_stride_16(tmp_path):
    model = MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.35)).eval()
    model.save_pretrained(tmp_path)
    frames = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert TargetEncoder.load(str(tmp_path), 4)(frames).shape == (2, 32, 4, 4)


def test_what_gives_no_map_is_refused(tmp_path, cache):
    with pytest.raises(ValueError, match=r"target_encoder .*nothing"):
        TargetEncoder.load(str(tmp_path / "nothing"), CELLS)
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")).save_pretrained(
        tmp_path / "coarse"
    )
    with pytest.raises(ValueError, match=r"its maps have sides .*, none 2 \(stride 16\)"):
        TargetFeatures.build(cache, str(tmp_path / "coarse"), CELLS)
    ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8], depths=[1, 1, 1], layer_type="basic")
    ).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ValueError, match="features have 8 channels, fewer than the 32"):
        TargetFeatures.build(cache, str(tmp_path / "narrow"), CELLS)
