"""Synthetic checkpoints of Moto and LARA, and what the tests of all families check alike."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from lara_tokenizer.convert import convert_checkpoint
from lara_tokenizer.model import LatentActionPreTrainedModel, load_model


@dataclass(frozen=True)
class Sizes:
    """The sizes of a reference tokenizer; all numbers differ, so that none can stand in for another."""

    width: int = 24
    heads: int = 4
    layers: int = 2
    mlp: int = 40
    queries: int = 3
    codes: int = 18
    code_dim: int = 6
    decoder_width: int = 32
    decoder_heads: int = 2
    decoder_layers: int = 1
    decoder_mlp: int = 56
    image: int = 32
    patch: int = 8
    vision_width: int = 20
    vision_patch: int = 16

    @property
    def frame_tokens(self) -> int:
        return (self.image // self.vision_patch) ** 2 + 1

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _layers(prefix: str, count: int, width: int, mlp: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for index in range(count):
        layer = f"{prefix}.{index}"
        for name in ("query", "key", "value"):
            shapes |= _linear(f"{layer}.attention.attention.{name}", width, width)
        shapes |= _linear(f"{layer}.attention.output.dense", width, width)
        shapes |= _linear(f"{layer}.intermediate.dense", mlp, width)
        shapes |= _linear(f"{layer}.output.dense", width, mlp)
        shapes |= _norm(f"{layer}.layernorm_before", width) | _norm(f"{layer}.layernorm_after", width)
    return shapes


def shapes_of(s: Sizes) -> dict[str, tuple[int, ...]]:
    """Every name and shape of a tokenizer's file."""
    embeddings, decoder = "m_former.embeddings", "decoder.transformer.embeddings"
    return {
        f"{embeddings}.latent_motion_token": (1, s.queries, s.width),
        f"{embeddings}.sep_token": (1, 1, s.width),
        f"{embeddings}.position_embeddings": (1, s.queries + 2 * s.frame_tokens + 1, s.width),
        f"{embeddings}.token_type_embeddings": (2, s.width),
        **_linear(f"{embeddings}.projection", s.width, s.vision_width),
        **_layers("m_former.encoder.layer", s.layers, s.width, s.mlp),
        **_norm("m_former.layernorm", s.width),
        "vector_quantizer.embedding.weight": (s.codes, s.code_dim),
        **_linear("vq_down_resampler.0", s.decoder_width, s.width),
        **_linear("vq_down_resampler.2", s.code_dim, s.decoder_width),
        **_linear("vq_up_resampler.0", s.code_dim, s.code_dim),
        **_linear("vq_up_resampler.2", s.decoder_width, s.code_dim),
        f"{decoder}.position_embeddings": (1, s.patches, s.decoder_width),
        f"{decoder}.patch_embeddings.projection.weight": (s.decoder_width, 3, s.patch, s.patch),
        f"{decoder}.patch_embeddings.projection.bias": (s.decoder_width,),
        **_linear(f"{decoder}.query_pooling_layer", s.decoder_width, s.queries * s.decoder_width),
        **_layers("decoder.transformer.encoder.layer", s.decoder_layers, s.decoder_width, s.decoder_mlp),
        **_norm("decoder.transformer.layernorm", s.decoder_width),
        "decoder.decoder.0.weight": (3 * s.patch**2, s.decoder_width, 1, 1),
        "decoder.decoder.0.bias": (3 * s.patch**2,),
    }


def tensors_of(s: Sizes, seed: int = 0) -> OrderedDict[str, Tensor]:
    """Random weights, large enough that codes vary between pairs."""
    generator = torch.Generator().manual_seed(seed)
    return OrderedDict((name, _random(name, shape, generator)) for name, shape in shapes_of(s).items())


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    is_gain = name.endswith(("layernorm.weight", "layernorm_before.weight", "layernorm_after.weight"))
    return 0.5 * torch.randn(shape, generator=generator) + is_gain


def hydra_tree(s: Sizes) -> dict[str, Any]:
    """Moto's config.yaml; `_target_` names that do not exist show that nothing is instantiated."""
    vit = {"_target_": "no.such.Config", "hidden_act": "gelu", "qkv_bias": True, "layer_norm_eps": "1e-12"}
    return {
        "_target_": "no.such.Tokenizer",
        "codebook_dim": s.code_dim,
        "commit_loss_w": 2.0,
        "recon_loss_w": 0.5,
        "perceptual_loss_w": 1.0,
        "image_encoder": {"_target_": "no.such.load", "pretrained_model_name_or_path": "somebody/vit-mae-tiny"},
        "m_former": {
            "_target_": "no.such.MFormer",
            "config": {
                **vit,
                "query_num": s.queries,
                "hidden_size": s.width,
                "intermediate_size": s.mlp,
                "num_attention_heads": s.heads,
                "num_hidden_layers": s.layers,
            },
        },
        "vector_quantizer": {
            "_target_": "no.such.VQ",
            "n_e": s.codes,
            "e_dim": s.code_dim,
            "beta": 0.25,
            "remap": None,
        },
        "decoder": {
            "_target_": "no.such.Decoder",
            "config": {
                **vit,
                "hidden_size": s.decoder_width,
                "intermediate_size": s.decoder_mlp,
                "num_attention_heads": s.decoder_heads,
                "num_hidden_layers": s.decoder_layers,
                "image_size": s.image,
                "patch_size": s.patch,
            },
        },
    }


def write_moto(folder: Path, tensors: dict[str, Tensor], tree: dict[str, Any] | None) -> Path:
    """Layout a: pytorch_model.bin and config.yaml."""
    folder.mkdir(parents=True)
    torch.save(tensors, folder / "pytorch_model.bin")
    if tree is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    return folder


def write_lara(folder: Path, tensors: dict[str, Tensor], tree: dict[str, Any]) -> Path:
    """Layout b, and the sub-folder of layout c: model.safetensors and a nested config.json."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    parts = ("image_encoder", "m_former", "vector_quantizer", "decoder")
    nested = {f"{name}_config" if name in parts else name: value for name, value in tree.items()}
    (folder / "config.json").write_text(json.dumps({"model_type": "latent_motion_tokenizer", **nested}))
    return folder


class Reference:
    """Builders of checkpoints for the tests; a fixture passes them on, since test folders are not packages."""

    Sizes = Sizes
    tensors_of = staticmethod(tensors_of)
    hydra_tree = staticmethod(hydra_tree)
    write_moto = staticmethod(write_moto)
    write_lara = staticmethod(write_lara)


@pytest.fixture(scope="session")
def reference() -> type[Reference]:
    return Reference


@pytest.fixture(scope="session")
def sizes() -> Sizes:
    return Sizes()


@pytest.fixture(scope="session")
def vision_folder(tmp_path_factory) -> Callable[..., Path]:
    """vision_folder(sizes) -> a transformers folder of their ViT-MAE, with the mask ratio of published ones."""
    from transformers import ViTMAEConfig, ViTMAEModel

    def make(s: Sizes, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("vision")
        config = ViTMAEConfig(
            **{
                "hidden_size": s.vision_width,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 24,
                "image_size": s.image,
                "patch_size": s.vision_patch,
                "mask_ratio": 0.75,
                **changes,
            }
        )
        model = ViTMAEModel(config)
        generator = torch.Generator().manual_seed(1)  # and not the initialisation of this version of transformers
        for name, parameter in sorted(model.named_parameters()):
            parameter.data = _random(name, tuple(parameter.shape), generator)
        model.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def vision(vision_folder, sizes) -> Path:
    return vision_folder(sizes)


@pytest.fixture(scope="module")
def converted(request, tmp_path_factory) -> dict[str, Path]:
    """The converted folder of each of the module's SIZES, from the content of a file that `published(size)` gives."""
    folder = tmp_path_factory.mktemp("converted")
    for size in request.module.SIZES:
        torch.save(request.module.published(size), folder / f"{size}.ckpt")
        convert_checkpoint(folder / f"{size}.ckpt", out=folder / size)
    return {size: folder / size for size in request.module.SIZES}


@pytest.fixture(scope="module")
def golden(request) -> dict[str, Tensor]:
    """Outputs of the original: golden/lapa.safetensors for test_lapa.py."""
    return load_file(request.path.parent / "golden" / f"{request.path.stem.removeprefix('test_')}.safetensors")


@pytest.fixture
def refuses(tmp_path) -> Callable[..., None]:
    """refuses(content, match, **options): a file lam.ckpt with that content gives a ValueError, and no folder."""

    def check(content: object, match: str, **options: Any) -> None:
        torch.save(content, tmp_path / "lam.ckpt")
        with pytest.raises(ValueError, match=match):
            convert_checkpoint(tmp_path / "lam.ckpt", out=tmp_path / "lam", **options)
        assert not (tmp_path / "lam").exists()

    return check


@pytest.fixture
def saved_and_loaded(tmp_path) -> Callable[[LatentActionPreTrainedModel], LatentActionPreTrainedModel]:
    """saved_and_loaded(model) -> the same model from its files: equal type, and equal to the last bit."""

    def check(model: LatentActionPreTrainedModel) -> LatentActionPreTrainedModel:
        model.save_pretrained(tmp_path)
        again, state = load_model(tmp_path), model.state_dict()
        assert type(again) is type(model)
        assert again.state_dict().keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
        return again

    return check


@pytest.fixture
def moto(tmp_path, sizes) -> Path:
    """A Moto checkpoint of the default sizes."""
    return write_moto(tmp_path / "moto", tensors_of(sizes), hydra_tree(sizes))
