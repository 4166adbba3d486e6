"""The paper's architecture, counted part by part on the meta device."""

from __future__ import annotations

import pytest
import torch

from lara_tokenizer.model import LatentActionConfig, LatentActionModel


def _count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("preset", ["moto", "paper_exact"])
def test_the_parts_have_the_published_numbers_of_parameters(preset):
    with torch.device("meta"):
        model = LatentActionModel(getattr(LatentActionConfig, preset)())
    m_former, forward = model.inverse_dynamics.m_former, model.forward_dynamics
    decoder = forward.decoder
    assert _count(model.vision_encoder) == 303_301_632
    assert _count(m_former) - _count(m_former.transformer) == 1_105_152  # embeddings
    assert _count(m_former.transformer.layers) == 28_351_488
    assert _count(m_former.transformer.norm) == 1_536
    assert _count(model.inverse_dynamics.to_latents) == 615_200
    assert _count(model.bottleneck) == 4_096
    assert _count(forward.from_latents) == 26_400
    assert _count(decoder) - _count(decoder.transformer, decoder.to_pixels) == 5_460_480  # embeddings
    assert _count(decoder.transformer.layers) == 85_054_464
    assert _count(decoder.transformer.norm) == 1_536
    assert _count(decoder.to_pixels) == 590_592
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 121_210_944


def test_the_default_is_small_enough_to_bundle():
    with torch.device("meta"):
        model = LatentActionModel(LatentActionConfig())
    assert 4 * _count(model) < 25e6  # bytes in float32
