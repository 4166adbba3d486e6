"""Our checkpoints in Moto's layout: what Moto reads, what it cannot represent, and the way back."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lara_tokenizer.convert import convert_checkpoint, export_to_moto
from lara_tokenizer.model import LatentActionConfig, LatentActionModel, LatentActionProcessor

OF_THE_SAVE = ("_name_or_path", "transformers_version")


def _settings(config):
    return {name: value for name, value in config.to_dict().items() if name not in OF_THE_SAVE}


def _assert_identical(one, other):
    first, second = LatentActionModel.from_pretrained(one), LatentActionModel.from_pretrained(other)
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
        assert tensor.dtype == second.state_dict()[name].dtype
    assert _settings(first.config) == _settings(second.config)
    processors = [LatentActionProcessor.from_pretrained(folder).to_dict() for folder in (one, other)]
    assert processors[0] == processors[1]


@pytest.fixture
def trained(tmp_path, tiny_config):
    """A checkpoint after some steps: batch norm not yet folded, counters running, a decoder of another width."""
    changes = {"decoder_hidden_size": 24, "decoder_num_attention_heads": 3, "strides": ["0.5s", "1.0s"]}
    config = LatentActionConfig.from_dict({**tiny_config.to_dict(), **changes})
    torch.manual_seed(0)
    model = LatentActionModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    for _ in range(3):
        model(torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32))
    model.save_pretrained(tmp_path / "trained")
    LatentActionProcessor(
        size={"height": 32, "width": 32}, resample="bilinear", image_mean=[0.5] * 3, image_std=[0.25] * 3
    ).save_pretrained(tmp_path / "trained")
    return tmp_path / "trained"


def test_from_moto_and_back_is_bit_equal(moto, vision, tmp_path):
    convert_checkpoint(moto, vision_encoder=vision, out=tmp_path / "lam")
    export_to_moto(tmp_path / "lam", out=tmp_path / "again")
    before = torch.load(moto / "pytorch_model.bin", weights_only=True)
    after = torch.load(tmp_path / "again" / "pytorch_model.bin", weights_only=True)
    assert type(after) is OrderedDict
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and after[name].dtype == torch.float32 for name in before)
    convert_checkpoint(tmp_path / "again", out=tmp_path / "lam2")
    _assert_identical(tmp_path / "lam", tmp_path / "lam2")


def test_the_exported_settings_state_what_moto_s_own_did(moto, vision, sizes, reference, tmp_path):
    convert_checkpoint(moto, vision_encoder=vision, out=tmp_path / "lam")
    export_to_moto(tmp_path / "lam", out=tmp_path / "again")
    exported = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    published = reference.hydra_tree(sizes)
    for part in ("m_former", "decoder"):
        stated = published[part]["config"] | {"_target_": "transformers.ViTConfig", "layer_norm_eps": 1e-12}
        assert exported[part]["config"] | stated == exported[part]["config"]
    assert exported["m_former"]["config"]["input_hidden_size"] == sizes.vision_width
    assert exported["m_former"]["config"]["num_patches"] == sizes.frame_tokens
    assert "legacy" not in exported["m_former"]["config"]
    assert exported["decoder"]["config"]["num_patches"] == sizes.patches
    assert exported["vector_quantizer"]["beta"] == 0.25
    assert (exported["commit_loss_w"], exported["recon_loss_w"]) == (2.0, 0.5)
    assert exported["_target_"] == "latent_motion_tokenizer.src.models.latent_motion_tokenizer.LatentMotionTokenizer"
    assert exported["image_encoder"] == {
        "_target_": "transformers.ViTMAEModel.from_pretrained",
        "pretrained_model_name_or_path": str(tmp_path / "again" / "vision_encoder"),
    }


def test_the_vision_encoder_lies_beside_under_names_that_old_transformers_read(moto, vision, tmp_path):
    convert_checkpoint(moto, vision_encoder=vision, out=tmp_path / "lam")
    export_to_moto(tmp_path / "lam", out=tmp_path / "again")
    published = load_file(vision / "model.safetensors")
    beside = load_file(tmp_path / "again" / "vision_encoder" / "model.safetensors")
    assert "encoder.layer.0.attention.attention.query.weight" in beside
    assert beside.keys() == published.keys()
    assert all(torch.equal(beside[name], published[name]) for name in published)


def test_what_moto_cannot_say_survives_the_way_there_and_back(trained, tmp_path):
    export_to_moto(trained, out=tmp_path / "moto")
    convert_checkpoint(tmp_path / "moto", out=tmp_path / "back")
    _assert_identical(trained, tmp_path / "back")


def test_moto_gets_the_latents_of_eval_mode(trained, tmp_path):
    export_to_moto(trained, out=tmp_path / "moto")
    for sidecar in ("lara_tokenizer.json", "lara_tokenizer.safetensors"):
        (tmp_path / "moto" / sidecar).unlink()  # as Moto sees the folder
    convert_checkpoint(tmp_path / "moto", out=tmp_path / "plain")
    ours = LatentActionModel.from_pretrained(trained).eval()
    converted = LatentActionModel.from_pretrained(tmp_path / "plain").eval()
    assert converted.config.segment_embedding == "per_frame"
    assert converted.config.loss_weights == ours.config.loss_weights
    now, future = torch.randn(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        a, b = ours.encode(now, future), converted.encode(now, future)
        torch.testing.assert_close(b.latents, a.latents, rtol=1e-4, atol=1e-4)
        assert torch.equal(a.codes, b.codes)
        decoded = ours.decode(now, codes=a.codes)
        torch.testing.assert_close(now + converted.decode(now, codes=a.codes), decoded, rtol=1e-4, atol=1e-4)


def test_each_difference_in_moto_s_code_is_one_note(trained, tmp_path):
    notes = export_to_moto(trained, out=tmp_path / "moto").notes
    for word in ("shuffle", "add frame t", "ImageNet", "bilinear", "224 px", "batch norm"):
        assert sum(word in note for note in notes) == 1, word


def test_an_exported_query_does_not_drag_the_fused_weights_along(trained, tmp_path):
    export_to_moto(trained, out=tmp_path / "moto")
    file = tmp_path / "moto" / "pytorch_model.bin"
    count = sum(tensor.numel() for tensor in torch.load(file, weights_only=True).values())
    assert file.stat().st_size < 4 * count + 40_000


def test_weights_that_changed_after_the_export_are_refused(trained, tmp_path):
    export_to_moto(trained, out=tmp_path / "moto")
    weights = torch.load(tmp_path / "moto" / "pytorch_model.bin", weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "moto" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"Delete lara_tokenizer\.json"):
        convert_checkpoint(tmp_path / "moto", out=tmp_path / "back")


def test_a_later_format_of_what_was_kept_is_refused(trained, tmp_path):
    export_to_moto(trained, out=tmp_path / "moto")
    kept = tmp_path / "moto" / "lara_tokenizer.json"
    kept.write_text(kept.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(ValueError, match=r"has format 2, this version reads 1\. Update lara-tokenizer"):
        convert_checkpoint(tmp_path / "moto", out=tmp_path / "back")


def test_both_vq_weights_survive_in_moto_s_two_forms(tiny_config):
    from lara_tokenizer.convert.moto.write import moto_tree

    for codebook, commitment, legacy in ((0.25, 1.0, True), (1.0, 0.25, False), (0.0, 0.0, True), (0.0, 2.0, True)):
        changes = {"codebook_loss_weight": codebook, "commitment_loss_weight": commitment}
        tree = moto_tree(LatentActionConfig.from_dict({**tiny_config.to_dict(), **changes}), "vit")
        quantizer, weight = tree["vector_quantizer"], tree["commit_loss_w"]
        assert quantizer.get("legacy", True) == legacy
        terms = (quantizer["beta"], 1.0) if legacy else (1.0, quantizer["beta"])
        assert (weight * terms[0], weight * terms[1]) == (codebook, commitment)


def test_only_a_vit_mae_goes_to_moto(tiny_config, tmp_path):
    vision = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"intermediate_size": 32, "image_size": 32, "patch_size": 8}
    config = LatentActionConfig.from_dict({**tiny_config.to_dict(), "vision_config": vision})
    LatentActionModel(config).save_pretrained(tmp_path / "vit")
    LatentActionProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="has a vit vision encoder; Moto's tokenizer reads a ViT-MAE"):
        export_to_moto(tmp_path / "vit", out=tmp_path / "moto")
    assert not (tmp_path / "moto").exists()


def test_a_checkpoint_that_is_not_ours_is_not_exported(vision, tmp_path):
    with pytest.raises(ValueError, match=r"is not a latent action model \(model_type 'vit_mae'\)"):
        export_to_moto(vision, out=tmp_path / "moto")


@pytest.fixture
def warping(tmp_path, tiny_config):
    """A model whose decoder moves pixels, and whose processor steadies pairs."""
    torch.manual_seed(0)
    model = LatentActionModel(LatentActionConfig.from_dict({**tiny_config.to_dict(), "decoder_warp": True})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "warping")
    LatentActionProcessor(size={"height": 32, "width": 32}, steady_pairs=True).save_pretrained(tmp_path / "warping")
    return tmp_path / "warping"


def test_the_flow_head_stays_behind_and_comes_back(warping, tmp_path):
    summary = export_to_moto(warping, out=tmp_path / "moto")
    tensors = torch.load(tmp_path / "moto" / "pytorch_model.bin", weights_only=True)
    assert not any("flow" in name for name in tensors)
    for word in ("does not warp frames", "no global motion compensation"):
        assert sum(word in note for note in summary.notes) == 1, word
    convert_checkpoint(tmp_path / "moto", out=tmp_path / "back")
    _assert_identical(warping, tmp_path / "back")
    for sidecar in ("lara_tokenizer.json", "lara_tokenizer.safetensors"):
        (tmp_path / "moto" / sidecar).unlink()
    convert_checkpoint(tmp_path / "moto", out=tmp_path / "plain")
    now, future = torch.randn(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        ours, plain = (LatentActionModel.from_pretrained(each).eval() for each in (warping, tmp_path / "plain"))
        a, b = ours.encode(now, future), plain.encode(now, future)
    torch.testing.assert_close(b.latents, a.latents, rtol=1e-4, atol=1e-4)
    assert torch.equal(a.codes, b.codes)
