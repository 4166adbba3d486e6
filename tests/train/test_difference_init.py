"""The difference initialization: the first layer compares positions, and only values are set."""

from __future__ import annotations

import copy

import pytest
import torch

from lara_tokenizer.model import LatentActionConfig, LatentActionModel
from lara_tokenizer.train.difference_init import initialize_from_difference

VISION = {
    "model_type": "vit_mae",
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "image_size": 64,
    "patch_size": 16,
}


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 3, 16, 16, generator=generator)
    now = torch.nn.functional.interpolate(coarse, size=64, mode="bilinear") * 4 - 2
    future = now.clone()
    future[:, :, 20:40, 20:40] = now[:, :, 17:37, 20:40]
    return now, future


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LatentActionModel(LatentActionConfig(vision_config=VISION, num_decoder_layers=1)).eval()


@torch.no_grad()
def test_in_the_first_layer_each_patch_attends_to_its_position_in_the_other_frame(model, pair):
    started = copy.deepcopy(model)
    initialize_from_difference(started, *pair)
    first = started.encode(*pair, output_attentions=True).attentions[0]
    queries, tokens = model.config.num_latents, model.config.num_frame_tokens
    now, future = slice(queries, queries + tokens), slice(queries + tokens + 1, queries + 2 * tokens + 1)
    for one, other in ((now, future), (future, now)):
        assert first[:, :, one, other].diagonal(dim1=-2, dim2=-1).mean() > 0.9


@torch.no_grad()
def test_only_values_are_set_and_the_seed_decides_them(model, pair):
    one, same, other = (copy.deepcopy(model) for _ in range(3))
    initialize_from_difference(one, *pair, seed=3)
    initialize_from_difference(same, *pair, seed=3)
    initialize_from_difference(other, *pair, seed=4)
    before, after = model.state_dict(), one.state_dict()
    assert {name: tensor.shape for name, tensor in before.items()} == {name: t.shape for name, t in after.items()}
    assert all(torch.equal(after[name], tensor) for name, tensor in same.state_dict().items())
    name = "inverse_dynamics.m_former.positions"
    assert not torch.equal(after[name], other.state_dict()[name])
    decoder = [name for name in before if name.startswith(("forward_dynamics.", "bottleneck."))]
    assert decoder
    assert all(torch.equal(before[name], after[name]) for name in decoder)


def test_a_model_without_a_second_layer_is_refused(pair):
    shallow = LatentActionModel(LatentActionConfig(vision_config=VISION, num_m_former_layers=1))
    with pytest.raises(ValueError, match=r"at least 2 layers .* this model has vit_mae, 1 layers, heads 32 wide"):
        initialize_from_difference(shallow, *pair)
