"""Folders of tiny random vision-language models with their real processors: SmolVLM and Qwen2-VL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
PLAIN = ["<pad>", "<unk>", "go", "stop", "now", "User", "user", ":"]


def smolvlm(folder: Path) -> Path:
    """One image is 4 tokens."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessor

    special = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    words = _save_tokenizer(folder, special)
    image_processor = SmolVLMImageProcessor(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False
    )
    vision = {**TEXT, "image_size": 32, "patch_size": 8}
    del vision["num_key_value_heads"]
    config = SmolVLMConfig(
        vision_config=vision,
        text_config={**TEXT, "model_type": "llama", "vocab_size": len(words), "pad_token_id": 0},
        image_token_id=words.index("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    _save(
        folder,
        SmolVLMForConditionalGeneration,
        config,
        image_processor,
        "SmolVLMProcessor",
        "<image>",
        {"image_seq_len": 4},
    )
    return folder


def qwen2_vl(folder: Path) -> Path:
    """One image of 64 pixels is 4 tokens."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor

    special = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    words = _save_tokenizer(folder, special, ["<|vision_start|>", "<|vision_end|>"])
    image_processor = Qwen2VLImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 4 * 28 * 28})
    rope = {"type": "default", "rope_type": "default", "mrope_section": [1, 1, 2]}
    config = Qwen2VLConfig(
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2},
        text_config={
            **TEXT,
            "vocab_size": len(words),
            "pad_token_id": 0,
            "rope_scaling": rope,
            "rope_parameters": rope,
        },
        image_token_id=words.index("<|image_pad|>"),
        video_token_id=words.index("<|video_pad|>"),
        vision_start_token_id=words.index("<|vision_start|>"),
        vision_end_token_id=words.index("<|vision_end|>"),
    )
    image_text = "<|vision_start|><|image_pad|><|vision_end|>"
    _save(folder, Qwen2VLForConditionalGeneration, config, image_processor, "Qwen2VLProcessor", image_text, {})
    return folder


def _save_tokenizer(folder: Path, special: dict[str, str], more: list[str] | None = None) -> list[str]:
    words = [*PLAIN, *special.values(), *(more or [])]
    vocabulary = {word: index for index, word in enumerate(words)}
    added = {"extra_special_tokens": special, "additional_special_tokens": more or []}
    word_level_tokenizer(vocabulary, padding_side="left", **added).save_pretrained(folder)
    return words


def word_level_tokenizer(vocabulary: dict[str, int], **settings: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words; "<pad>" and "<unk>" are among them."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", **settings)


def _save(
    folder: Path,
    model_class: Any,
    config: Any,
    image_processor: Any,
    processor: str,
    image_text: str,
    settings: dict[str, Any],
) -> None:
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    image_processor.save_pretrained(folder)
    described = {"processor_class": processor, **settings}
    (folder / "processor_config.json").write_text(json.dumps(described), encoding="utf-8")
    template = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}" + image_text + "{% else %} "
        "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
