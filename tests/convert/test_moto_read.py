"""All four published layouts become a model that computes what the reference computes."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel

from lara_tokenizer.convert import convert_checkpoint
from lara_tokenizer.convert.moto.names import reference_shapes
from lara_tokenizer.model import LatentActionConfig, LatentActionModel, LatentActionProcessor

OTHER_SIZES = [
    {},
    {"width": 32, "heads": 8, "layers": 1, "decoder_layers": 2, "queries": 5, "codes": 7, "code_dim": 3},
    {"image": 48, "patch": 16, "vision_patch": 8, "vision_width": 28, "decoder_width": 24, "decoder_heads": 3},
]


def _vit(tensors, prefix, layers, heads, x):
    def linear(x, name):
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-12)

    for index in range(layers):
        layer = f"{prefix}.encoder.layer.{index}"
        h = norm(x, f"{layer}.layernorm_before")
        q, k, v = (
            linear(h, f"{layer}.attention.attention.{name}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"{layer}.attention.output.dense")
        h = F.gelu(linear(norm(x, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense"))
        x = x + linear(h, f"{layer}.output.dense")
    return norm(x, f"{prefix}.layernorm")


def _reference_forward(t, s, features, future_features, pixels, segment_of_future=0):
    """(latents, codes, reconstruction) from the reference's tensors, written from its description."""
    batch, name = len(pixels), "m_former.embeddings"
    project = (t[f"{name}.projection.weight"], t[f"{name}.projection.bias"])
    now = torch.cat(
        [
            t[f"{name}.latent_motion_token"].expand(batch, -1, -1),
            F.linear(features, *project),
            t[f"{name}.sep_token"].expand(batch, -1, -1),
        ],
        1,
    )
    segments = t[f"{name}.token_type_embeddings"]
    tokens = [now + segments[0], F.linear(future_features, *project) + segments[segment_of_future]]
    hidden = torch.cat(tokens, 1) + t[f"{name}.position_embeddings"]
    queries = _vit(t, "m_former", s.layers, s.heads, hidden)[:, : s.queries]

    def resample(x, side):
        first, second = (F.linear, t[f"vq_{side}_resampler.0.weight"]), (F.linear, t[f"vq_{side}_resampler.2.weight"])
        x = first[0](x, first[1], t[f"vq_{side}_resampler.0.bias"]).tanh()
        return second[0](x, second[1], t[f"vq_{side}_resampler.2.bias"])

    latents = resample(queries, "down")
    codebook = t["vector_quantizer.embedding.weight"]
    codes = torch.cdist(latents, codebook.expand(batch, -1, -1)).argmin(-1)
    name = "decoder.transformer.embeddings"
    patches = F.conv2d(
        pixels, t[f"{name}.patch_embeddings.projection.weight"], t[f"{name}.patch_embeddings.projection.bias"], s.patch
    )
    fused = F.linear(
        resample(codebook[codes], "up").flatten(1),
        t[f"{name}.query_pooling_layer.weight"],
        t[f"{name}.query_pooling_layer.bias"],
    )
    hidden = patches.flatten(2).mT + fused.unsqueeze(1) + t[f"{name}.position_embeddings"]
    hidden = _vit(t, "decoder.transformer", s.decoder_layers, s.decoder_heads, hidden)
    grid = hidden.mT.unflatten(2, (s.image // s.patch, -1))
    return (
        latents,
        codes,
        F.pixel_shuffle(F.conv2d(grid, t["decoder.decoder.0.weight"], t["decoder.decoder.0.bias"]), s.patch),
    )


def _frames(s, seed=3, batch=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, 3, s.image, s.image, generator=generator)


def _features(folder, frames):
    """The encoder's tokens, as the reference makes them, but for the order of the patches."""
    encoder = ViTMAEModel.from_pretrained(folder, mask_ratio=0.0).eval()
    patches = (encoder.config.image_size // encoder.config.patch_size) ** 2
    noise = torch.arange(patches, dtype=torch.float32).expand(len(frames), -1)
    return encoder(frames, noise=noise).last_hidden_state


@pytest.mark.parametrize("changes", OTHER_SIZES, ids=["small", "few codes", "large patches"])
@torch.no_grad()
def test_a_converted_model_computes_what_the_reference_computes(reference, vision_folder, tmp_path, changes):
    s = reference.Sizes(**changes)
    tensors, vision = reference.tensors_of(s), vision_folder(s)
    others = _frames(s, seed=4, batch=8)
    latents, _, _ = _reference_forward(tensors, s, *(_features(vision, frames) for frames in others), others[0])
    tensors["vector_quantizer.embedding.weight"] = latents.flatten(0, 1)[: s.codes].clone()  # so that codes vary
    source = reference.write_moto(tmp_path / "moto", tensors, reference.hydra_tree(s))
    convert_checkpoint(source, vision_encoder=vision, out=tmp_path / "lam")
    now, future = _frames(s)
    out = LatentActionModel.from_pretrained(tmp_path / "lam").eval()(now, future)
    latents, codes, reconstruction = _reference_forward(
        tensors, s, _features(vision, now), _features(vision, future), now
    )
    assert codes.unique().numel() > 3
    assert torch.equal(out.codes, codes)
    # Weights of this size amplify roundings; the parity fixture below is held to 1e-5.
    torch.testing.assert_close(out.latents, latents, rtol=0, atol=1e-4)
    torch.testing.assert_close(out.reconstruction, reconstruction, rtol=0, atol=1e-3)


def test_the_vision_encoder_of_the_folder_is_inside_the_converted_checkpoint(moto, vision, tmp_path):
    convert_checkpoint(moto, vision_encoder=vision, out=tmp_path / "lam")
    model = LatentActionModel.from_pretrained(tmp_path / "lam")
    published = load_file(vision / "model.safetensors")
    key = "embeddings.position_embeddings"
    assert torch.equal(model.vision_encoder.state_dict()[key], published[key])
    saved = load_file(tmp_path / "lam" / "model.safetensors")
    assert all(torch.equal(saved[f"vision_encoder.{name}"], tensor) for name, tensor in published.items())
    assert model.config.vision_config.mask_ratio == 0


def test_an_encoder_published_with_its_pre_training_decoder_loads_whole(moto, vision, sizes, tmp_path):
    config = ViTMAEConfig.from_pretrained(vision, decoder_hidden_size=8, decoder_num_hidden_layers=1)
    config.decoder_num_attention_heads, config.decoder_intermediate_size = 2, 8
    pretrained = ViTMAEForPreTraining(config)
    pretrained.save_pretrained(tmp_path / "mae")
    convert_checkpoint(moto, vision_encoder=tmp_path / "mae", out=tmp_path / "lam")
    model = LatentActionModel.from_pretrained(tmp_path / "lam")
    assert all(
        torch.equal(tensor, model.vision_encoder.state_dict()[name])
        for name, tensor in pretrained.vit.state_dict().items()
    )


def test_moto_s_settings_reach_the_config(moto, vision, tmp_path):
    summary = convert_checkpoint(moto, vision_encoder=vision, out=tmp_path / "lam")
    config = LatentActionConfig.from_pretrained(tmp_path / "lam")
    assert (config.num_attention_heads, config.decoder_num_attention_heads) == (4, 2)
    assert config.loss_weights == {"reconstruction": 0.5, "codebook": 0.5, "commitment": 2.0}
    assert config.layer_norm_eps == 1e-12
    assert config.segment_embedding == "shared"
    assert config.patch_order == "row_major"
    assert config.freeze_vision_encoder
    assert not config.decoder_residual
    assert config.strides == ["5f"]
    assert summary.sizes["codebook_size"] == 18
    assert any("perceptual" in note for note in summary.notes)


def test_a_quantizer_with_the_usual_loss_puts_beta_on_the_commitment_term(reference, sizes, vision, tmp_path):
    tree = reference.hydra_tree(sizes)
    tree["vector_quantizer"]["legacy"] = False
    source = reference.write_moto(tmp_path / "moto", reference.tensors_of(sizes), tree)
    convert_checkpoint(source, vision_encoder=vision, out=tmp_path / "lam")
    config = LatentActionConfig.from_pretrained(tmp_path / "lam")
    assert (config.codebook_loss_weight, config.commitment_loss_weight) == (2.0, 0.5)


def test_one_segment_row_per_frame_is_read_from_the_settings(reference, sizes, vision, tmp_path):
    tree, tensors = reference.hydra_tree(sizes), reference.tensors_of(sizes)
    tree["m_former"]["config"]["legacy"] = False
    source = reference.write_moto(tmp_path / "moto", tensors, tree)
    convert_checkpoint(source, vision_encoder=vision, out=tmp_path / "lam")
    model = LatentActionModel.from_pretrained(tmp_path / "lam").eval()
    now, future = _frames(sizes)
    with torch.no_grad():
        features, future_features = model.get_frame_features(now), model.get_frame_features(future)
        latents, _, _ = _reference_forward(tensors, sizes, features, future_features, now, segment_of_future=1)
        torch.testing.assert_close(model.encode(now, future).latents, latents, rtol=0, atol=1e-4)


def test_moto_trained_on_oxe_names_the_gaps_of_its_mixture(reference, sizes, vision, tmp_path):
    folder = tmp_path / "latent_motion_tokenizer_trained_on_oxe"
    source = reference.write_moto(folder, reference.tensors_of(sizes), reference.hydra_tree(sizes))
    convert_checkpoint(source, vision_encoder=vision, out=tmp_path / "lam")
    assert LatentActionConfig.from_pretrained(tmp_path / "lam").strides == ["3f", "6f", "21f", "30f"]


def _policy_file(folder, tensors, prefix):
    folder.mkdir(parents=True)
    policy = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    policy |= {"backbone.weight": torch.zeros(3), "pred_latent_motion_head.weight": torch.zeros(2, 2)}
    save_file(policy, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "gr00t_n1_5"}))
    return folder


def _layout(name, reference, s, root):
    """Write a checkpoint of that layout; without settings the heads are 1 = width // 64, at least one."""
    tensors, tree = reference.tensors_of(s), reference.hydra_tree(s)
    if name == "stage 1":
        return reference.write_lara(root / "checkpoint-300", tensors, tree)
    if name == "policy sub-folder":
        _policy_file(root / "checkpoint-7", tensors, "action_head.latent_motion_tokenizer.")
        reference.write_lara(root / "checkpoint-7" / "latent_motion_tokenizer", tensors, tree)
        return root / "checkpoint-7"
    if name == "policy":
        return _policy_file(root / "checkpoint-7", tensors, "action_head.latent_motion_tokenizer.")
    return _policy_file(root / "7000", tensors, "latent_motion_tokenizer.")


@pytest.mark.parametrize(
    ("name", "layout", "mean", "stride", "heads"),
    [
        ("stage 1", "lara-stage1", [0.0, 0.0, 0.0], "15f", 4),
        ("policy sub-folder", "lara-policy", [0.485, 0.456, 0.406], "15f", 4),
        ("policy", "lara-policy", [0.485, 0.456, 0.406], "15f", 1),
        ("openpi", "openpi", [0.485, 0.456, 0.406], "9f", 1),
    ],
)
def test_lara_s_layouts_convert_with_what_their_files_do_not_say(
    reference, sizes, vision, tmp_path, name, layout, mean, stride, heads
):
    source = _layout(name, reference, sizes, tmp_path)
    summary = convert_checkpoint(source, vision_encoder=vision, out=tmp_path / "lam")
    model = LatentActionModel.from_pretrained(tmp_path / "lam")
    processor = LatentActionProcessor.from_pretrained(tmp_path / "lam")
    assert summary.layout == layout
    assert processor.image_mean == mean
    assert processor.image_std == ([1.0] * 3 if layout == "lara-stage1" else [0.229, 0.224, 0.225])
    assert processor.resample == "bilinear"
    assert processor.size == {"height": 32, "width": 32}
    assert model.config.strides == [stride]
    assert model.config.num_attention_heads == heads
    assert any("attention heads: assumed 1" in note for note in summary.notes) == (heads == 1)
    assert any("padding" in note for note in summary.notes) == (layout == "openpi")
    codebook = reference.tensors_of(sizes)["vector_quantizer.embedding.weight"]
    assert torch.equal(model.bottleneck.codebook.weight, codebook)


def test_a_policy_in_shards_gives_the_same_tensors(reference, sizes, vision, tmp_path):
    tensors = reference.tensors_of(sizes)
    names = [f"action_head.latent_motion_tokenizer.{name}" for name in tensors]
    policy = dict(zip(names, tensors.values(), strict=True)) | {"backbone.weight": torch.zeros(3)}
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    shards = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(policy)}
    for shard in set(shards.values()):
        save_file({name: policy[name] for name in policy if shards[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    summary = convert_checkpoint(folder, vision_encoder=vision, out=tmp_path / "lam")
    assert summary.tensors == len(tensors)
    model = LatentActionModel.from_pretrained(tmp_path / "lam")
    assert torch.equal(model.bottleneck.codebook.weight, tensors["vector_quantizer.embedding.weight"])


def test_settings_beside_a_policy_s_weights_state_its_heads(reference, sizes, vision, tmp_path):
    source = _layout("openpi", reference, sizes, tmp_path)
    (source / "config.yaml").write_text(json.dumps(reference.hydra_tree(sizes)))  # JSON is YAML
    convert_checkpoint(source, vision_encoder=vision, out=tmp_path / "lam")
    assert LatentActionConfig.from_pretrained(tmp_path / "lam").num_attention_heads == sizes.heads


def test_weights_in_half_precision_are_widened_without_a_rounding(reference, sizes, vision, tmp_path):
    tensors = {name: tensor.bfloat16() for name, tensor in reference.tensors_of(sizes).items()}
    source = reference.write_lara(tmp_path / "checkpoint-1", tensors, reference.hydra_tree(sizes))
    convert_checkpoint(source, vision_encoder=vision, out=tmp_path / "lam")
    codebook = LatentActionModel.from_pretrained(tmp_path / "lam").bottleneck.codebook.weight
    assert codebook.dtype == torch.float32
    assert torch.equal(codebook, tensors["vector_quantizer.embedding.weight"].float())


def test_the_paper_s_scale_has_282_tensors_and_121_million_parameters():
    shapes = reference_shapes(LatentActionConfig.moto())
    assert len(shapes) == 282
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 121_210_944
    assert shapes["m_former.embeddings.position_embeddings"] == (1, 403, 768)


def test_the_parity_fixture_is_reproduced(shared_fixtures, tmp_path):
    folder = shared_fixtures / "moto_parity"
    convert_checkpoint(folder / "tokenizer", vision_encoder=folder / "vit_mae_tiny", out=tmp_path / "lam")
    model = LatentActionModel.from_pretrained(tmp_path / "lam").eval()
    expected = load_file(folder / "expected.safetensors")
    now, future = expected["pixel_values"], expected["future_pixel_values"]
    with torch.no_grad():
        out, features = model(now, future), model.get_frame_features(now)
    assert torch.equal(out.codes, expected["codes"])
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(features, expected["encoder_hidden_states"], **close)
    torch.testing.assert_close(out.latents, expected["latents"], **close)
    torch.testing.assert_close(out.quantized_latents, expected["quantized"], **close)
    torch.testing.assert_close(out.reconstruction, expected["reconstruction"], rtol=0, atol=1e-4)
    vq_loss = out.losses["commitment"] + 0.25 * out.losses["codebook"]
    torch.testing.assert_close(vq_loss, expected["vq_loss"].squeeze(), **close)
    torch.testing.assert_close(out.losses["reconstruction"], expected["reconstruction_loss"].squeeze(), **close)
    torch.testing.assert_close(out.loss, vq_loss + out.losses["reconstruction"], **close)
