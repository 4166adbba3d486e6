"""A frozen vision-language model as the policy's eyes: images and an instruction to hidden states."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class VisionLanguageEncoder:
    """Hidden states of any transformers image-text-to-text model. No part of a policy's checkpoint: named by id.

    >>> encoder = VisionLanguageEncoder.load("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", None, 960)  # doctest: +SKIP
    >>> states, mask = encoder(frames, ["open the drawer"])                                            # doctest: +SKIP
    """

    def __init__(self, model: Any, processor: Any, layer: int | None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor, self.layer = processor, layer

    @classmethod
    def load(cls, name: str | None, layer: int | None, context_size: int) -> VisionLanguageEncoder:
        """Load model and processor. Raises ValueError where its width is not the policy's `context_size`."""
        from transformers import AutoModelForImageTextToText

        if name is None:
            raise ValueError("context 'vision_language' needs vision_language_model, a folder or a Hub id.")
        model = AutoModelForImageTextToText.from_pretrained(name)
        width = model.config.get_text_config().hidden_size
        if width != context_size:
            raise ValueError(f"{name} has hidden states of width {width}, the policy was built for {context_size}.")
        processor = load_processor(name)
        if hasattr(processor.image_processor, "do_image_splitting"):  # SmolVLM would cut each camera into many tiles
            processor.image_processor.do_image_splitting = False
        return cls(model, processor, layer)

    def to(self, device: torch.device) -> VisionLanguageEncoder:
        """On `device`; where it is there already nothing happens."""
        if next(self.model.parameters()).device != device:
            self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, frames: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """uint8 (B, V, 3, S, S), all cameras at t, and B instructions -> states (B, X, W) and mask (B, X).

        The mask is true for real tokens: a batch is padded to its longest.
        """
        device = next(self.model.parameters()).device
        prompts = [self._prompt(text, frames.shape[1]) for text in texts]
        images = [[picture.permute(1, 2, 0).cpu().numpy() for picture in views] for views in frames]
        inputs = self.processor(text=prompts, images=images, padding=True, return_tensors="pt")
        # Without the language head: a logit for every word of every token would be thrown away.
        out = self.model.base_model(**inputs.to(device, self.model.dtype), output_hidden_states=True, use_cache=False)
        states = out.hidden_states[-1 if self.layer is None else self.layer]
        return states.float(), inputs["attention_mask"].bool()

    def _prompt(self, text: str, images: int) -> str:
        """One user turn: the images, then the instruction."""
        content = [{"type": "image"}] * images + [{"type": "text", "text": text}]
        # By the tokenizer, with the processor's template: processors themselves ask their video part first.
        return self.processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.processor.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )


def load_processor(name: str) -> Any:
    """A vision-language model's processor; where torchvision is missing, one for still images, which need none."""
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(name)
    except ImportError as error:
        if "torchvision" not in str(error).lower():
            raise
    return _still_images(name)


def _still_images(name: str) -> Any:
    """The same processor without its part for video, which is what asks for torchvision."""
    import transformers
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    family = getattr(transformers, PROCESSOR_MAPPING_NAMES[AutoConfig.from_pretrained(name).model_type])

    class StillImages(family):  # type: ignore[misc, valid-type]
        """Takes None for the part that is left out."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    values, _ = family.get_processor_dict(name)
    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(name),
        "tokenizer": AutoTokenizer.from_pretrained(name),
        "video_processor": None,
    }
    kept = inspect.signature(family.__init__).parameters
    return StillImages(**parts, **{key: value for key, value in values.items() if key in kept and key not in parts})
