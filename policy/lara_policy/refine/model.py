"""Tokenizer and policy as one module, so that one optimiser, one DDP and one checkpoint hold both (Eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lara_policy.alignment import AlignmentOptions, LaraAlignment
from lara_policy.context import shift_frames
from lara_policy.distributed import process_count, sum_over_processes
from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy, FlowMatchingPolicyOutput
from lara_policy.tap_presets import resolve_layer
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor

MODES = ("joint", "dit-only", "frozen-lam", "frozen-policy", "codes")
ALONE = ("dit-only", "codes")  # without a tokenizer


@dataclass
class JointOutput:
    """`loss`, its named parts before their weights, and detached scalars to watch."""

    loss: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    monitors: dict[str, Tensor] = field(default_factory=dict)


class LaraModel(nn.Module):
    """L = L_ACT + w1 L_LARA + w2 L_LAM (Eq. 7), the last two over pairs whose later frame exists.

    mode: "joint"; "dit-only", the policy alone, without a tokenizer; "frozen-lam", the policy follows a z that does not
        move; "frozen-policy", the tokenizer learns from a policy that does not move; "codes", the policy learns to tell
        a table's codes, without actions.
    layer: the block whose output tells z, 1-based, or "L-2" (the paper's: the 14th of 16).
    shift: pixels by which a sample's frames are moved together while training.

    The tokenizer sees the first camera. The frozen vision encoder sees each frame once: the policy's features of that
    camera are the tokenizer's.
    """

    def __init__(
        self,
        policy: FlowMatchingPolicy,
        lam: LatentActionModel | None,
        processor: LatentActionProcessor,
        options: AlignmentOptions,
        *,
        mode: str = "joint",
        layer: int | str = "L-2",
        gap: int = 1,
        shift: int = 0,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode {mode!r}: takes one of {', '.join(MODES)}.")
        if mode not in ALONE and lam is None:
            raise ValueError(f"mode {mode!r} needs a tokenizer; without one there are {', '.join(ALONE)}.")
        self.policy, self.processor, self.options, self.mode = policy, processor, options, mode
        self.layer = 1 if mode in ALONE else resolve_layer(layer, policy.config.num_layers)
        self.gap, self.shift = gap, shift
        self.step = 0  # of the optimiser; the trainer keeps it
        self.detach_latents = False  # set by the trainer while the tokenizer is not ready for the policy's gradient
        self.lam = None if mode in ALONE else lam
        self.alignment: LaraAlignment | None = None
        if self.lam is not None:
            config = self.lam.config
            self.alignment = LaraAlignment(policy.config.hidden_size, config.num_latents, config.codebook_dim, options)
            self.lam.vision_encoder.requires_grad_(False)  # frozen in stages 2 and 3, always
            self.lam.config.freeze_vision_encoder = True
        self.shares_encoder = self.lam is not None and _sees_alike(policy, self.lam, processor)
        if mode == "frozen-lam" and self.lam is not None:
            self.lam.requires_grad_(False)
        if mode == "frozen-policy":
            policy.requires_grad_(False)

    def train(self, mode: bool = True) -> LaraModel:
        """As ever, but what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.lam is not None:
            self.lam.vision_encoder.eval()
            if self.mode == "frozen-lam":
                self.lam.eval()
        if self.mode == "frozen-policy":
            self.policy.eval()
        return self

    def forward(self, **batch: Any) -> JointOutput:
        """A batch of `PolicySamples`; with "unlabeled", uint8 (U, 2, 3, S, S), also pairs without actions."""
        pair, images = batch.get("pair"), batch["images"]
        if self.training and self.shift:
            images, pair = self._shifted(images, pair, batch["shift"])
        if self.lam is None or pair is None:
            return self._parts(self._act(batch, images, None)[0])
        now, future = self._pixel_values(pair)
        features = self._features(now, future)
        out, hidden = self._act(batch, images, features)
        parts = self._parts(out)
        self._align(parts, batch, hidden, out.tau, now, future, features)
        if "unlabeled" in batch:
            self._align_unlabeled(parts, batch)
        return parts

    def _parts(self, out: FlowMatchingPolicyOutput) -> JointOutput:
        assert out.loss is not None
        assert out.losses is not None
        return JointOutput(out.loss.detach() if self.mode == "frozen-policy" else out.loss, dict(out.losses))

    def _act(
        self, batch: dict[str, Any], images: Tensor, features: tuple[Tensor, Tensor] | None
    ) -> tuple[FlowMatchingPolicyOutput, Tensor]:
        """The policy's output and the tapped hidden state of the action tokens up to the pair's later frame."""
        policy = self.policy
        if policy.context is None:
            context = policy.encode_context(vision_language=policy.vision_language(images, batch["text"]))
        else:
            assert policy.processor is not None
            pixels = policy.processor.normalize_frames(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            known = self._known_features(pixels, features) if self.shares_encoder else None
            context = policy.encode_context(pixel_values=pixels, tasks=batch["task"], frame_features=known)
        out = policy(
            context,
            state=batch["state"],
            embodiment=batch["embodiment"],
            actions=batch["actions"],
            action_mask=batch["action_mask"],
            noise=batch["noise"],
            tau=policy.flow.time(batch["chance"]),
            codes=batch.get("codes"),
            code_mask=batch.get("code_mask"),
        )
        assert out.hidden_states is not None
        return out, out.hidden_states[self.layer - 1][:, : self.gap]

    def _known_features(self, pixels: Tensor, features: tuple[Tensor, Tensor] | None) -> Tensor | None:
        """Features (B, V, P, W) of every camera, that of the tokenizer's camera taken from its pair."""
        if features is None:
            return None
        assert self.policy.context is not None
        others = [self.policy.context.features(pixels[:, view]) for view in range(1, pixels.shape[1])]
        views = [features[0], *others]
        return torch.stack(views, 1)

    def _align(
        self,
        parts: JointOutput,
        batch: dict[str, Any],
        hidden: Tensor,
        tau: Tensor | None,
        now: Tensor,
        future: Tensor,
        features: tuple[Tensor, Tensor],
    ) -> None:
        """Add w1 L_LARA and w2 L_LAM; the tokenizer's decoder runs only where its loss is wanted."""
        assert self.alignment is not None
        mask = batch["pair_mask"]
        latents, lam_loss = self._lam(now, future, features, mask)
        if self.detach_latents:
            latents = latents.detach()
        step = self.step if self.training else None  # what is watched goes on after `stop_step`
        aligned = self.alignment(hidden, latents, mask=mask, tau=tau, step=step)
        # Where it has no weight nothing may hang on it: DDP would wait for the projector's gradient.
        parts.losses["alignment"] = aligned.loss if self.options.w1 else aligned.loss.detach()
        parts.monitors |= {f"alignment_{name}": value for name, value in aligned.monitors.items()}
        if self.options.w1:
            parts.loss = parts.loss + self.options.w1 * aligned.loss
        if lam_loss is not None:
            parts.losses["lam"] = lam_loss
            parts.loss = parts.loss + self.options.w2 * lam_loss

    def _lam(
        self, now: Tensor, future: Tensor, features: tuple[Tensor, Tensor], mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """z (B, N, D), and L_LAM where it is trained."""
        assert self.lam is not None
        if self.mode != "frozen-lam" and self.options.w2:
            out = self.lam(now, future, features=features, pair_mask=mask)
            return out.latents, out.loss
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.mode != "frozen-lam"):
            encoded = self.lam.encode(frame_features=features[0], future_frame_features=features[1])
        assert encoded.latents is not None
        return encoded.latents, None

    def _align_unlabeled(self, parts: JointOutput, batch: dict[str, Any]) -> None:
        """Pairs without actions: L_LAM as for all others, and with `align_unlabeled` L_LARA at tau = 0, z detached."""
        assert self.lam is not None
        assert self.alignment is not None
        pair = batch["unlabeled"]
        now, future = self._pixel_values(pair)
        features = self._features(now, future)
        mask = torch.ones(len(pair), dtype=torch.bool, device=pair.device)
        latents, lam_loss = self._lam(now, future, features, mask)
        if lam_loss is not None:
            # As one batch: the mean over unlabeled pairs and those labelled ones that have a later frame.
            kept = sum_over_processes(batch["pair_mask"].sum().float()) / process_count()
            share = len(pair) / (len(pair) + kept)
            both = (1 - share) * parts.losses["lam"] + share * lam_loss
            parts.loss = parts.loss + self.options.w2 * (both - parts.losses["lam"])
            parts.losses["lam"] = both
        if not self.options.align_unlabeled:
            return
        hidden = self._imagine(now, features, batch)
        aligned = self.alignment(hidden, latents, step=self.step, unlabeled=True)
        parts.losses["alignment_unlabeled"] = aligned.loss
        parts.loss = parts.loss + self.options.w1 * self.options.align_unlabeled * aligned.loss

    def _imagine(self, now: Tensor, features: tuple[Tensor, Tensor], batch: dict[str, Any]) -> Tensor:
        """The tapped hidden state for frames without state and actions: pure noise at tau = 0, a mean state."""
        policy, count = self.policy, len(now)
        if policy.context is None:
            frames = batch["unlabeled"][:, :1]
            context = policy.encode_context(vision_language=policy.vision_language(frames, batch["unlabeled_text"]))
        else:
            known = features[0].unsqueeze(1) if self.shares_encoder else None
            context = policy.encode_context(
                pixel_values=now.unsqueeze(1), tasks=batch["unlabeled_task"], frame_features=known
            )
        state = torch.zeros(count, policy.config.max_state_dim, device=now.device)
        robot = torch.zeros(count, dtype=torch.long, device=now.device)
        out = policy(context, state=state, embodiment=robot)
        assert out.hidden_states is not None
        return out.hidden_states[self.layer - 1][:, : self.gap]

    def _pixel_values(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, 2, 3, S, S) -> what the tokenizer sees of both frames."""
        # In float32 even under bf16, as in stage 1: steadying samples between pixels.
        with torch.no_grad(), torch.autocast(pair.device.type, enabled=False):
            now, future = pair.unbind(1)
            future = self.processor.steady_future(now, future)
            return self.processor.normalize_frames(now), self.processor.normalize_frames(future)

    def _features(self, now: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        assert self.lam is not None
        with torch.no_grad():
            frame, later = self.lam.get_frame_features(torch.cat([now, future])).chunk(2)
        return frame, later

    def _shifted(self, images: Tensor, pair: Tensor | None, shift_B2: Tensor) -> tuple[Tensor, Tensor | None]:
        """Every frame of a sample moved alike, so that the pair keeps its motion and frames stay shared."""
        moved = [
            None if frames is None else shift_frames(frames.flatten(1, 2), shift_B2, self.shift).unflatten(1, (-1, 3))
            for frames in (images, pair)
        ]
        assert moved[0] is not None
        return moved[0], moved[1]


def differing_pixels(one: LatentActionProcessor, other: LatentActionProcessor) -> list[str]:
    """The settings by which two processors show the same frame differently."""
    names = ("size", "resample", "image_mean", "image_std")
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def _sees_alike(policy: FlowMatchingPolicy, lam: LatentActionModel, processor: LatentActionProcessor) -> bool:
    """Whether the policy looks through this tokenizer's own vision encoder, at the same pixels."""
    if policy.context is None or policy.processor is None or differing_pixels(policy.processor, processor):
        return False
    own, other = policy.context.vision_encoder.state_dict(), lam.vision_encoder.state_dict()
    return own.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in own.items())
