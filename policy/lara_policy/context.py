"""What a policy sees without a vision-language model: frozen frame features, a task vector, and maybe a small stem.

Shape suffixes: B samples, V cameras, S side of the frames, P tokens of a frame, X context tokens, C their width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from lara_tokenizer.model.frame_features import frame_features

if TYPE_CHECKING:
    from lara_policy.configuration_flow_matching_policy import FlowMatchingPolicyConfig


import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

STEM_WIDTHS = (32, 64, 64)
STEM_STRIDES = (2, 2, 1)


class KeypointStem(nn.Module):
    """Where things are: three convolutions, then the mean place of each channel's activation (spatial softmax).

    Frames (M, 3, S, S) -> one token (M, 1, C). Levine et al. 2016, arXiv 1504.00702.
    """

    def __init__(self, context_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for width_in, width_out, stride in zip((3, *STEM_WIDTHS), STEM_WIDTHS, STEM_STRIDES, strict=False):
            self.layers.append(nn.Conv2d(width_in, width_out, 5, stride=stride, padding=2))
            self.layers.append(nn.GroupNorm(8, width_out))
            self.layers.append(nn.SiLU())
        self.maps = nn.Conv2d(STEM_WIDTHS[-1], STEM_WIDTHS[-1], 1)
        self.output = nn.Linear(2 * STEM_WIDTHS[-1], context_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        maps_MKHW = self.maps(self.layers(pixel_values)).float()
        share_MKHW = maps_MKHW.flatten(2).softmax(-1).view_as(maps_MKHW)
        columns, rows = (
            (share_MKHW.sum(axis) * torch.linspace(-1, 1, share_MKHW.shape[-1], device=share_MKHW.device)).sum(-1)
            for axis in (2, 3)
        )
        return self.output(torch.cat([columns, rows], -1).to(self.output.weight.dtype)).unsqueeze(1)


class FrameContext(nn.Module):
    """Frames of every camera and a task number -> context tokens (B, X, C).

    The vision encoder is the tokenizer's, frozen: `features` takes no gradient, and where they are known already (the
    tokenizer looks at one of the same frames) they are given instead of computed.
    """

    def __init__(self, config: FlowMatchingPolicyConfig) -> None:
        super().__init__()
        if config.vision_config is None:
            raise ValueError(
                "context 'frames' needs vision_config, that of the tokenizer whose frozen features the policy sees: "
                "build the policy with FlowMatchingPolicy.from_tokenizer."
            )
        self.patch_order = config.patch_order
        self.vision_encoder = AutoModel.from_config(config.vision_config)
        self.vision_encoder.requires_grad_(False)
        self.project = nn.Linear(self.vision_encoder.config.hidden_size, config.context_size)
        self.cameras = nn.Parameter(torch.empty(config.num_cameras, config.context_size))
        self.tasks = nn.Embedding(max(len(config.tasks), 1), config.context_size)
        self.stem = KeypointStem(config.context_size) if config.keypoint_stem else None

    @torch.no_grad()
    def features(self, pixel_values: Tensor) -> Tensor:
        """Normalised frames (M, 3, S, S) -> frozen features (M, P, V)."""
        return frame_features(self.vision_encoder, pixel_values, self.patch_order)

    def forward(self, pixel_values: Tensor, tasks: Tensor, features: Tensor | None = None) -> Tensor:
        """Normalised frames (B, V, 3, S, S), tasks int64 (B,), features (B, V, P, W) or None -> (B, X, C)."""
        cameras = pixel_values.shape[1]
        if cameras > len(self.cameras):
            raise ValueError(f"{cameras} cameras came, the policy was built for {len(self.cameras)}.")
        if features is None:
            features = self.features(pixel_values.flatten(0, 1)).unflatten(0, pixel_values.shape[:2])
        tokens = self.project(features)
        if self.stem is not None:
            own = self.stem(pixel_values.flatten(0, 1)).unflatten(0, pixel_values.shape[:2])
            tokens = torch.cat([tokens, own.to(tokens.dtype)], 2)
        tokens = tokens + self.cameras[:cameras, None]
        return torch.cat([tokens.flatten(1, 2), self.tasks(tasks).unsqueeze(1)], 1)

    def grow_tasks(self, count: int, std: float) -> None:
        """Fresh vectors, normal with deviation `std`, behind those of the tasks there are."""
        old = self.tasks.weight
        self.tasks = nn.Embedding(count, old.shape[1]).to(old)
        with torch.no_grad():
            nn.init.normal_(self.tasks.weight, std=std)
            self.tasks.weight[: len(old)] = old


def shift_frames(frames_MCHW: Tensor, shift_M2: Tensor, most: int) -> Tensor:
    """Each picture moved by its (rows, columns), integers in -most..most, its edge repeated; uint8 stays uint8.

    >>> shift_frames(torch.tensor([[[[1, 2, 3]]]]), torch.tensor([[0, 1]]), 1)
    tensor([[[[1, 1, 2]]]])
    """
    count, _, height, width = frames_MCHW.shape
    padded = F.pad(frames_MCHW.float(), (most,) * 4, mode="replicate").to(frames_MCHW.dtype)
    first_M2 = most - shift_M2
    rows_MH = first_M2[:, :1] + torch.arange(height, device=frames_MCHW.device)
    columns_MW = first_M2[:, 1:] + torch.arange(width, device=frames_MCHW.device)
    every_M = torch.arange(count, device=frames_MCHW.device)[:, None, None]
    return padded[every_M, :, rows_MH[:, :, None], columns_MW[:, None]].permute(0, 3, 1, 2)


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
