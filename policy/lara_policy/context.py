"""Context encoders: images and an instruction to tokens that the policy attends to.

`FrameContext` (context "frames"): the tokenizer's frozen frame features, a learned vector per task, optionally a small
trainable stem. `VisionLanguageEncoder` (context "vision_language"): hidden states of a frozen vision-language model.

Shape suffixes: B samples, V cameras, S side of the frames, P tokens of a frame, X context tokens, C context width,
M frames (any number).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from lara_tokenizer.model.frame_features import frame_features

if TYPE_CHECKING:
    from lara_policy.configuration_flow_matching_policy import FlowMatchingPolicyConfig

STEM_WIDTHS = (32, 64, 64)
STEM_STRIDES = (2, 2, 1)


class KeypointStem(nn.Module):
    """Three convolutions and a spatial softmax: the mean position of each channel's activation.

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
        # Summing over rows leaves the distribution over columns, and the other way round.
        columns, rows = (
            (share_MKHW.sum(axis) * torch.linspace(-1, 1, share_MKHW.shape[-1], device=share_MKHW.device)).sum(-1)
            for axis in (2, 3)
        )
        return self.output(torch.cat([columns, rows], -1).to(self.output.weight.dtype)).unsqueeze(1)


class FrameContext(nn.Module):
    """Frames of every camera and a task index -> context tokens (B, X, C).

    The vision encoder is the tokenizer's, frozen. Features that are already known (the tokenizer encodes one of the
    same frames) are passed in instead of being computed again.
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
        """Normalized frames (M, 3, S, S) -> frozen features (M, P, W)."""
        return frame_features(self.vision_encoder, pixel_values, self.patch_order)

    def forward(self, pixel_values: Tensor, tasks: Tensor, features: Tensor | None = None) -> Tensor:
        """Normalized frames (B, V, 3, S, S), tasks int64 (B,), features (B, V, P, W) or None -> (B, X, C)."""
        batch, cameras = pixel_values.shape[:2]
        if cameras > len(self.cameras):
            raise ValueError(f"{cameras} cameras came, the policy was built for {len(self.cameras)}.")
        frames_MCHW = rearrange(pixel_values, "b v c h w -> (b v) c h w")
        if features is None:
            features = rearrange(self.features(frames_MCHW), "(b v) p w -> b v p w", b=batch)
        tokens_BVPC = self.project(features)
        if self.stem is not None:
            keypoints_BVPC = rearrange(self.stem(frames_MCHW), "(b v) p c -> b v p c", b=batch)
            tokens_BVPC = torch.cat([tokens_BVPC, keypoints_BVPC.to(tokens_BVPC.dtype)], 2)
        tokens_BVPC = tokens_BVPC + self.cameras[:cameras, None]
        return torch.cat([rearrange(tokens_BVPC, "b v p c -> b (v p) c"), self.tasks(tasks).unsqueeze(1)], 1)

    def grow_tasks(self, count: int, std: float) -> None:
        """Extend the task table to `count` vectors: the known ones stay, new ones are normal with deviation `std`."""
        old = self.tasks.weight
        self.tasks = nn.Embedding(count, old.shape[1]).to(old)
        with torch.no_grad():
            nn.init.normal_(self.tasks.weight, std=std)
            self.tasks.weight[: len(old)] = old


def shift_frames(frames_MCHW: Tensor, shift_M2: Tensor, max_shift: int) -> Tensor:
    """Shift each image by its (rows, columns), integers in -max_shift..max_shift, repeating the edge.

    >>> shift_frames(torch.tensor([[[[1, 2, 3]]]]), torch.tensor([[0, 1]]), 1)
    tensor([[[[1, 1, 2]]]])
    """
    count, _, height, width = frames_MCHW.shape
    # Replicate padding is implemented for floats only; uint8 values are exact in float32.
    padded = F.pad(frames_MCHW.float(), (max_shift,) * 4, mode="replicate").to(frames_MCHW.dtype)
    first_M2 = max_shift - shift_M2
    rows_MH = first_M2[:, :1] + torch.arange(height, device=frames_MCHW.device)
    columns_MW = first_M2[:, 1:] + torch.arange(width, device=frames_MCHW.device)
    index_M11 = torch.arange(count, device=frames_MCHW.device)[:, None, None]
    # Advanced indices around the slice put the channels last.
    shifted_MHWC = padded[index_M11, :, rows_MH[:, :, None], columns_MW[:, None]]
    return rearrange(shifted_MHWC, "m h w c -> m c h w")


def shift_samples(frames_BFCHW: Tensor, shift_B2: Tensor, max_shift: int) -> Tensor:
    """Shift all frames of a sample alike: a pair keeps its motion, and frames that two of them share stay equal."""
    stacked = shift_frames(rearrange(frames_BFCHW, "b f c h w -> b (f c) h w"), shift_B2, max_shift)
    return rearrange(stacked, "b (f c) h w -> b f c h w", c=3)


class VisionLanguageEncoder:
    """Hidden states of a frozen transformers image-text-to-text model. The policy's checkpoint contains only its name.

    >>> encoder = VisionLanguageEncoder.load("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", None, 960)  # doctest: +SKIP
    >>> states, mask = encoder(frames, ["open the drawer"])                                            # doctest: +SKIP
    """

    def __init__(self, model: Any, processor: Any, layer: int | None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.layer = layer

    @classmethod
    def load(cls, name: str | None, layer: int | None, context_size: int) -> VisionLanguageEncoder:
        """Load model and processor. Raises ValueError if the model's width is not the policy's `context_size`."""
        from transformers import AutoModelForImageTextToText

        if name is None:
            raise ValueError("context 'vision_language' needs vision_language_model, a folder or a Hub id.")
        try:
            model = AutoModelForImageTextToText.from_pretrained(name)
        except (ImportError, OSError):
            raise
        except Exception as error:  # damaged files raise errors of many types
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"vision-language model {name!r} cannot be loaded ({reason}).") from error
        width = model.config.get_text_config().hidden_size
        if width != context_size:
            raise ValueError(f"{name} has hidden states of width {width}, the policy was built for {context_size}.")
        processor = load_processor(name)
        if hasattr(processor.image_processor, "do_image_splitting"):  # SmolVLM would cut each camera into many tiles
            processor.image_processor.do_image_splitting = False
        return cls(model, processor, layer)

    def to(self, device: torch.device) -> VisionLanguageEncoder:
        """Move the model to `device`."""
        if next(self.model.parameters()).device != device:
            self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, frames: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode all cameras at t, uint8 (B, V, 3, S, S), and B instructions: states (B, X, W) and mask (B, X).

        The mask is true for real tokens: a batch is padded to its longest prompt.
        """
        device = next(self.model.parameters()).device
        prompts = [self._prompt(text, frames.shape[1]) for text in texts]
        images = [[image.permute(1, 2, 0).cpu().numpy() for image in views] for views in frames]
        inputs = self.processor(text=prompts, images=images, padding=True, return_tensors="pt")
        # Without the language head, whose logits (one per word of the vocabulary and token) would be discarded.
        out = self.model.base_model(**inputs.to(device, self.model.dtype), output_hidden_states=True, use_cache=False)
        states = out.hidden_states[-1 if self.layer is None else self.layer]
        return states.float(), inputs["attention_mask"].bool()

    def _prompt(self, text: str, images: int) -> str:
        """One user turn: the images, then the instruction."""
        content = [{"type": "image"}] * images + [{"type": "text", "text": text}]
        # The tokenizer applies the processor's template: `processor.apply_chat_template` would need its video part.
        return self.processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.processor.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )


def load_processor(name: str) -> Any:
    """A vision-language model's processor; without torchvision, the same for still images only."""
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(name)
    except ImportError as error:
        if "torchvision" not in str(error).lower():
            raise
    return _still_image_processor(name)


def _still_image_processor(name: str) -> Any:
    """The processor without its video part, the only one that requires torchvision."""
    import transformers
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    family = getattr(transformers, PROCESSOR_MAPPING_NAMES[AutoConfig.from_pretrained(name).model_type])

    class StillImages(family):  # type: ignore[misc, valid-type]
        """The family's processor, accepting None for the part that is left out."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    values, _ = family.get_processor_dict(name)
    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(name),
        "tokenizer": AutoTokenizer.from_pretrained(name),
        "video_processor": None,
    }
    known = inspect.signature(family.__init__).parameters
    return StillImages(**parts, **{key: value for key, value in values.items() if key in known and key not in parts})
