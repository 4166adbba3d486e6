"""Tiny, randomly initialized instances of LeRobot's real policy classes, and a batch for each. No downloads.

Each builder takes a folder for the files it writes (configurations, tokenizers) and returns (policy, batch).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_policy_config

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_vision_language import word_level_tokenizer

BATCH, CHUNK, SIDE, STATE, ACTION = 3, 8, 64, 2, 2
DEPTH = 4  # blocks of every policy that has some
TINY_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}

INPUTS = {
    "observation.image": PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE)),
    "observation.state": PolicyFeature(FeatureType.STATE, (STATE,)),
}
OUTPUTS = {"action": PolicyFeature(FeatureType.ACTION, (ACTION,))}

ACT = {
    "chunk_size": CHUNK,
    "n_action_steps": 4,
    "dim_model": 32,
    "n_heads": 4,
    "dim_feedforward": 64,
    "n_encoder_layers": 1,
    "n_vae_encoder_layers": 1,
    "n_decoder_layers": DEPTH,
    "pretrained_backbone_weights": None,
}
DIFFUSION = {
    "horizon": 8,
    "n_action_steps": 4,
    "down_dims": [32, 64],
    "diffusion_step_embed_dim": 16,
    "spatial_softmax_num_keypoints": 8,
    "num_train_timesteps": 10,
    "pretrained_backbone_weights": None,
}


def build(kind: str, fields: dict[str, Any]) -> torch.nn.Module:
    """A policy of that type, in training mode."""
    torch.manual_seed(0)
    config = make_policy_config(
        kind, device="cpu", push_to_hub=False, input_features=dict(INPUTS), output_features=dict(OUTPUTS), **fields
    )
    return get_policy_class(kind)(config).train()


def make_batch(history: int | None = None, tokens: int | None = None) -> dict[str, torch.Tensor]:
    """A pre-processed batch: `history` observations in time, or no such axis; `tokens` of an instruction."""
    random = torch.Generator().manual_seed(1)
    time = () if history is None else (history,)
    batch = {
        "observation.image": torch.rand(BATCH, *time, 3, SIDE, SIDE, generator=random),
        "observation.state": torch.randn(BATCH, *time, STATE, generator=random),
        "action": torch.randn(BATCH, CHUNK, ACTION, generator=random),
        "action_is_pad": torch.zeros(BATCH, CHUNK, dtype=torch.bool),
    }
    if tokens is not None:
        batch["observation.language.tokens"] = torch.randint(5, 20, (BATCH, tokens), generator=random)
        batch["observation.language.attention_mask"] = torch.ones(BATCH, tokens, dtype=torch.bool)
    return batch


def act(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    return build("act", ACT), make_batch()


def diffusion(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    return build("diffusion", {**DIFFUSION, "down_dims": (32, 64)}), make_batch(history=2)


def multi_task_dit(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {**sizes, "vocab_size": 64, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    clip = CLIPConfig(
        text_config=text, vision_config={**sizes, "image_size": SIDE, "patch_size": 16}, projection_dim=32
    )
    CLIPModel(clip).save_pretrained(folder / "clip")
    fields = {
        "horizon": CHUNK,
        "n_action_steps": 4,
        "objective": "flow_matching",
        "hidden_dim": 32,
        "num_layers": DEPTH,
        "num_heads": 4,
        "timestep_embed_dim": 16,
        "image_crop_shape": None,
        "vision_encoder_name": str(folder / "clip"),
        "text_encoder_name": str(folder / "clip"),
    }
    return build("multi_task_dit", fields), make_batch(history=2, tokens=6)


def smolvlm_folder(folder: Path) -> Path:
    """A folder for `vlm_model_name`: a configuration and a processor with a word-level tokenizer."""
    from transformers import SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    special = {"image_token": "<image>", "fake_image_token": "<fake>", "global_image_token": "<global>"}
    special |= {"end_of_utterance_token": "<end>"}
    words = ["<unk>", "<pad>", "<s>", "</s>", *special.values(), *("push", "the", "square", "\n")]
    words += ["User", "Assistant", ":"]
    vocabulary = {word: index for index, word in enumerate(words)} | {f"w{index}": index for index in range(15, 64)}
    tokenizer = word_level_tokenizer(vocabulary, bos_token="<s>", eos_token="</s>", extra_special_tokens=special)
    SmolVLMProcessor(SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor(), image_seq_len=4).save_pretrained(
        folder
    )
    text = {**TINY_TEXT, "model_type": "llama", "num_hidden_layers": DEPTH, "vocab_size": 64, "pad_token_id": 1}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    SmolVLMConfig(
        text_config=text,
        vision_config={**vision, "image_size": SIDE, "patch_size": 16},
        scale_factor=2,
        image_token_id=4,
        pad_token_id=1,
    ).save_pretrained(folder)
    return folder


def smolvla_fields(folder: Path) -> dict[str, Any]:
    return {
        "chunk_size": CHUNK,
        "n_action_steps": 4,
        "vlm_model_name": str(smolvlm_folder(folder / "smolvlm")),
        "load_vlm_weights": False,
        "num_vlm_layers": DEPTH,
        "resize_imgs_with_padding": [SIDE, SIDE],
        "max_state_dim": 4,
        "max_action_dim": 4,
        "num_steps": 2,
    }


def smolvla(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    fields = smolvla_fields(folder) | {"resize_imgs_with_padding": (SIDE, SIDE)}
    return build("smolvla", fields), make_batch(tokens=6)


def pi(kind: str, **fields: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    """pi0 and pi0.5 have no small variant: three of the module's names are replaced while the policy is built."""
    from importlib import import_module

    module = import_module(f"lerobot.policies.{kind}.modeling_{kind}")
    paligemma, gemma, configs = (
        getattr(module, name)
        for name in ("PaliGemmaForConditionalGenerationWithPiGemma", "PiGemmaForCausalLM", "CONFIG_MAPPING")
    )

    def small_paligemma(config: Any) -> Any:
        config.text_config.vocab_size = 64
        config.vision_config.projection_dim = config.projection_dim = config.text_config.hidden_size
        config.vision_config.intermediate_size = 64
        return paligemma(config=config)

    def small_gemma(config: Any) -> Any:
        config.vocab_size = 64
        return gemma(config=config)

    def small_config() -> Any:
        return configs["paligemma"](
            vision_config={
                "model_type": "siglip_vision_model",
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "patch_size": 16,
            }
        )

    size = SimpleNamespace(width=32, depth=DEPTH, mlp_dim=64, num_heads=8, num_kv_heads=1, head_dim=16)
    with (
        patch.object(module, "get_gemma_config", lambda variant: size),
        patch.object(module, "CONFIG_MAPPING", {"paligemma": small_config, "gemma": configs["gemma"]}),
        patch.object(module, "PaliGemmaForConditionalGenerationWithPiGemma", small_paligemma),
        patch.object(module, "PiGemmaForCausalLM", small_gemma),
    ):
        fields = {
            "chunk_size": CHUNK,
            "n_action_steps": 4,
            "image_resolution": (SIDE, SIDE),
            "dtype": "float32",
            **fields,
        }
        return build(kind, fields), make_batch(tokens=6)


def pi0(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    return pi("pi0")


def pi05(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    return pi("pi05")


def groot_n1_7(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A Qwen3-VL configuration, a checkpoint of the whole model, and a batch as its own pre-processor would give."""
    from lerobot.policies.groot.groot_n1_7 import GR00TN17, GR00TN17Config
    from transformers import Qwen3VLConfig

    image, start, end, horizon, grid = 60, 61, 62, 12, 4
    rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [2, 1, 1], "rope_theta": 10000}
    text = {**TINY_TEXT, "num_hidden_layers": 2, "vocab_size": 64, "rope_scaling": rope, "rope_parameters": rope}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32}
    vision |= {"patch_size": 8, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    tokens = {"image_token_id": image, "video_token_id": 59}
    tokens |= {"vision_start_token_id": start, "vision_end_token_id": end}
    Qwen3VLConfig(text_config=text, vision_config=vision, **tokens).save_pretrained(folder / "qwen3-vl")
    widths = {"backbone_embedding_dim": 32, "hidden_size": 32, "input_embedding_dim": 32}
    limits = {"max_state_dim": 6, "max_action_dim": 5}
    attention = {"num_attention_heads": 4, "attention_head_dim": 8, "dropout": 0.0, "positional_embeddings": None}
    config = GR00TN17Config(
        model_name=str(folder / "qwen3-vl"),
        backbone_model_type="qwen",
        select_layer=2,
        action_horizon=horizon,
        max_num_embodiments=4,
        max_seq_len=32,
        diffusion_model_cfg={
            **attention,
            "num_layers": DEPTH,
            "norm_type": "ada_norm",
            "final_dropout": True,
            "output_dim": 32,
            "interleave_self_attention": True,
        },
        vl_self_attention_cfg={**attention, "num_layers": 1, "final_dropout": True},
        use_flash_attention=False,
        load_bf16=False,
        **widths,
        **limits,
    )
    GR00TN17(config, load_backbone_weights=False).save_pretrained(folder / "groot")
    fields = {
        "base_model_path": str(folder / "groot"),
        "chunk_size": CHUNK,
        "n_action_steps": 4,
        **limits,
        "use_flash_attention": False,
        "use_bf16": False,
    }
    random = torch.Generator().manual_seed(1)
    patches = grid * grid
    ids = torch.tensor([[5, start, *[image] * (patches // 4), end, 7, 8]]).repeat(BATCH, 1)
    batch = {
        "state": torch.randn(BATCH, 1, 6, generator=random),
        "action": torch.randn(BATCH, horizon, 5, generator=random),
        "action_mask": torch.ones(BATCH, horizon, 5),
        "embodiment_id": torch.zeros(BATCH, dtype=torch.long),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(BATCH * patches, 3 * 2 * 8 * 8, generator=random),
        "image_grid_thw": torch.tensor([[1, grid, grid]]).repeat(BATCH, 1),
    }
    return build("groot", fields), batch


def xvla_fields() -> dict[str, Any]:
    vision = {
        "model_type": "florence_vision",
        "embed_dim": [16, 16, 32, 32],
        "num_heads": [2, 2, 4, 4],
        "num_groups": [2, 2, 4, 4],
        "depths": [1, 1, 1, 1],
        "projection_dim": 32,
    }
    text = {
        "model_type": "bart",
        "d_model": 32,
        "vocab_size": 64,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    return {
        "florence_config": {"vision_config": vision, "text_config": text},
        "chunk_size": CHUNK,
        "n_action_steps": 4,
        "hidden_size": 32,
        "depth": DEPTH,
        "num_heads": 4,
        "num_domains": 2,
        "len_soft_prompts": 4,
        "max_len_seq": 128,
        "action_mode": "auto",
        "max_action_dim": 4,
        "max_state_dim": 4,
    }


def xvla(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    return build("xvla", xvla_fields()), make_batch(tokens=6)


BUILDERS: dict[str, Callable[[Path], tuple[torch.nn.Module, dict[str, Any]]]] = {
    builder.__name__: builder for builder in (act, diffusion, multi_task_dit, smolvla, pi0, pi05, groot_n1_7, xvla)
}
