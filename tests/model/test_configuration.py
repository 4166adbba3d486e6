"""The config refuses what does not fit together, and says which fields."""

from __future__ import annotations

import json

import pytest

from lara_tokenizer.model import LatentActionConfig

SMALL_VIT = {"model_type": "vit", "image_size": 64, "patch_size": 8, "hidden_size": 16}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hidden_size": 96, "num_attention_heads": 5}, r"num_attention_heads \(5\) must divide hidden_size \(96\)"),
        (
            {"decoder_hidden_size": 96, "decoder_num_attention_heads": 5},
            r"decoder_num_attention_heads \(5\) must divide decoder_hidden_size \(96\)",
        ),
        ({"patch_size": 7}, r"patch_size \(7\) must divide image_size \(64\)"),
        ({"image_size": 0}, r"image_size \(0\) must be at least 1"),
        ({"hidden_size": -4}, r"hidden_size \(-4\) must be at least 1"),
        ({"num_latents": 0}, r"num_latents \(0\) must be at least 1"),
        ({"codebook_dim": 0}, r"codebook_dim \(0\) must be at least 1"),
        ({"num_m_former_layers": 0}, r"num_m_former_layers \(0\) must be at least 1"),
        ({"num_decoder_layers": 0}, r"num_decoder_layers \(0\) must be at least 1"),
        ({"codebook_size": 1}, r"codebook_size \(1\) must be at least 2"),
        ({"patch_order": "spiral"}, "patch_order is 'spiral'; it takes 'row_major' or 'shuffled'"),
        ({"segment_embedding": "legacy"}, "segment_embedding is 'legacy'; it takes 'per_frame' or 'shared'"),
        ({"decoder_warp": True, "decoder_residual": False}, "decoder_warp needs decoder_residual"),
        ({"continuous_steps": -1}, r"continuous_steps \(-1\) must not be negative"),
        ({"dead_code_steps": -1}, r"dead_code_steps \(-1\) must not be negative"),
        ({"motion_weight": -0.5}, r"motion_weight \(-0.5\) must not be negative"),
        ({"commitment_loss_weight": -1.0}, r"commitment_loss_weight \(-1.0\) must not be negative"),
        ({"reconstruction_loss_weight": 0}, "nothing would keep the latents from collapsing"),
        ({"strides": []}, "strides is empty"),
        ({"strides": ["5f", "5"]}, "strides holds '5', a gap without a unit"),
        ({"strides": [5]}, "strides holds 5, a gap without a unit"),
        ({"vision_config": {"hidden_size": 16}}, "vision_config needs a model_type"),
        ({"vision_config": SMALL_VIT | {"image_size": 32}}, r"vision_config.image_size \(32\) and image_size \(64\)"),
        ({"vision_config": SMALL_VIT | {"patch_size": 9}}, r"vision_config.patch_size \(9\) must divide image_size"),
        ({"vision_config": SMALL_VIT, "patch_order": "shuffled"}, "'shuffled' exists for vit_mae only, not for vit"),
        ({"vision_config": {"model_type": "resnet"}}, r"vision_config \(resnet\) has no integer"),
    ],
)
def test_each_wrong_combination_names_its_fields(changes, match):
    with pytest.raises(ValueError, match=match):
        LatentActionConfig(**changes)


def test_a_config_survives_json(tmp_path):
    config = LatentActionConfig(num_latents=3, strides="0.4s", decoder_hidden_size=96, segment_embedding="shared")
    config.save_pretrained(tmp_path)
    again = LatentActionConfig.from_pretrained(tmp_path)
    same = {"_name_or_path", "transformers_version"}
    before, after = json.loads(config.to_json_string(use_diff=False)), json.loads(again.to_json_string(use_diff=False))
    assert {k: v for k, v in before.items() if k not in same} == {k: v for k, v in after.items() if k not in same}
    assert again.strides == ["0.4s"]


def test_the_decoder_takes_the_m_former_s_sizes_unless_told_otherwise():
    config = LatentActionConfig(
        hidden_size=48, num_attention_heads=4, intermediate_size=80, decoder_intermediate_size=64
    )
    assert (config.decoder_hidden_size, config.decoder_num_attention_heads) == (48, 4)
    assert config.decoder_intermediate_size == 64


def test_a_published_mask_ratio_is_set_to_zero():
    config = LatentActionConfig(vision_config={"model_type": "vit_mae", "image_size": 64, "mask_ratio": 0.75})
    assert config.vision_config.mask_ratio == 0


def test_two_presets_share_no_mutable_part():
    first = LatentActionConfig.moto()
    first.vision_config.hidden_size = 3
    assert LatentActionConfig.moto().vision_config.hidden_size == 1024


def test_paper_exact_is_eq_3_as_printed():
    config = LatentActionConfig.paper_exact()
    assert config.loss_weights == {"reconstruction": 1.0, "codebook": 0.25, "commitment": 1.0}
    assert (config.num_latents, config.codebook_size, config.codebook_dim) == (8, 128, 32)
    assert (config.num_frame_tokens, config.num_patches, config.image_size) == (197, 196, 224)
    assert (config.num_m_former_layers, config.num_decoder_layers, config.hidden_size) == (4, 12, 768)
    assert config.freeze_vision_encoder
    assert config.motion_weight == config.standardize_latents == config.decoder_residual == 0
    assert config.continuous_steps == config.dead_code_steps == 0
    assert (config.segment_embedding, config.strides) == ("per_frame", ["5f"])
    assert (config.initializer_range, config.layer_norm_eps) == (0.02, 1e-12)


def test_moto_is_paper_exact_with_one_segment_row_for_both_frames():
    moto = LatentActionConfig.moto().to_diff_dict()
    paper = LatentActionConfig.paper_exact().to_diff_dict()
    assert {name for name in moto if moto[name] != paper.get(name)} == {"segment_embedding"}
    assert moto["segment_embedding"] == "shared"


def test_a_preset_takes_overrides():
    assert LatentActionConfig.moto(strides=["3f"], codebook_size=64).codebook_size == 64
