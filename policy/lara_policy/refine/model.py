"""Joint training of policy and tokenizer: `LaraModel.forward` adds up L = L_ACT + w1 L_LARA + w2 L_LAM (Eq. 7).

One module holds both networks and the projector, so that one optimizer, one DDP wrapper and one checkpoint do.

Shape suffixes: B samples, V cameras, S side of the frames, P tokens of a frame, W feature width, T action tokens up to
the pair's later frame, H policy width, N latent tokens, D latent dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from lara_policy.alignment import AlignmentOptions, AlignmentOutput, LaraAlignment
from lara_policy.context import shift_samples
from lara_policy.distributed import process_count, sum_over_processes
from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy
from lara_policy.tap_presets import resolve_layer
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor

MODES = ("joint", "dit-only", "frozen-lam", "frozen-policy", "codes")
MODES_WITHOUT_TOKENIZER = ("dit-only", "codes")


@dataclass
class JointOutput:
    """The loss of a batch.

    Attributes:
        loss: scalar, the weighted sum of `losses` (Eq. 7).
        losses: the unweighted terms by name.
        monitors: detached scalars for the log.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    monitors: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def weighted(
        cls, terms: Mapping[str, Tensor], weights: Mapping[str, float], monitors: Mapping[str, Tensor] | None = None
    ) -> JointOutput:
        """Sum `weights[name] * terms[name]` in the order of `terms`."""
        # A term of weight 0 is logged, but nothing may depend on it: DDP would wait for its parameters' gradients.
        losses = {name: term if weights[name] else term.detach() for name, term in terms.items()}
        loss = sum(weights[name] * term for name, term in losses.items() if weights[name])
        assert isinstance(loss, Tensor)
        return cls(loss, losses, dict(monitors or {}))


class FramePairs(NamedTuple):
    """A batch of frame pairs, as the tokenizer sees them."""

    now: Tensor  # (B, 3, S, S), normalized
    future: Tensor  # (B, 3, S, S), normalized
    features: tuple[Tensor, Tensor]  # frozen features of both, (B, P, W) each
    mask: Tensor  # bool (B,), whether the later frame exists


class PolicyPass(NamedTuple):
    """The results of one forward of the policy."""

    losses: dict[str, Tensor]  # "action" (L_ACT), "codes"
    hidden: Tensor  # (B, T, H), the tapped hidden state of the action tokens
    tau: Tensor | None  # (B,), flow times


class LaraModel(nn.Module):
    """Policy, tokenizer and projector, with the loss of joint training.

    The tokenizer sees the policy's first camera. If the policy's context is this tokenizer's own frozen vision encoder,
    that encoder sees each frame once for both.

    Args:
        policy: the flow-matching policy.
        lam: the tokenizer; unused in modes without one.
        processor: the tokenizer's image processor.
        options: weights and form of the alignment.
        mode: "joint" trains policy and tokenizer; "dit-only" only the policy, without a tokenizer; "frozen-lam" the
            policy, aligned to a frozen tokenizer; "frozen-policy" the tokenizer, aligned to a frozen policy; "codes"
            the policy's prediction of a table's codes, without actions.
        layer: the block whose output predicts z, 1-based, or "L-2" (the paper's: the 14th of 16).
        stride_frames: frames from a pair's first frame to its second.
        shift: random shift augmentation in pixels, the same for all frames of a sample.
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
        stride_frames: int = 1,
        shift: int = 0,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode {mode!r}: takes one of {', '.join(MODES)}.")
        if mode not in MODES_WITHOUT_TOKENIZER and lam is None:
            without = ", ".join(MODES_WITHOUT_TOKENIZER)
            raise ValueError(f"mode {mode!r} needs a tokenizer; without one there are {without}.")
        self.policy = policy
        self.processor = processor
        self.options = options
        self.weights = {
            "action": 1.0,
            "codes": 1.0,
            "alignment": options.w1,
            "lam": options.w2,
            "alignment_unlabeled": options.w1 * options.align_unlabeled,
        }
        self.mode = mode
        self.layer = 1 if mode in MODES_WITHOUT_TOKENIZER else resolve_layer(layer, policy.config.num_layers)
        self.stride_frames = stride_frames
        self.shift = shift
        self.step = 0  # the optimizer step, set by the trainer
        # Set by the trainer while the tokenizer is not ready for the policy's gradient; for a whole run that is
        # `AlignmentOptions.latent_gradient_scale` 0.
        self.detach_latents = False
        self.lam = None if mode in MODES_WITHOUT_TOKENIZER else lam
        self.alignment: LaraAlignment | None = None
        if self.lam is not None:
            config = self.lam.config
            self.alignment = LaraAlignment(policy.config.hidden_size, config.num_latents, config.codebook_dim, options)
            self.lam.vision_encoder.requires_grad_(False)  # frozen in stages 2 and 3, always
            self.lam.config.freeze_vision_encoder = True
        self.shares_encoder = self.lam is not None and _share_encoder(policy, self.lam, processor)
        if mode == "frozen-lam" and self.lam is not None:
            self.lam.requires_grad_(False)
        if mode == "frozen-policy":
            policy.requires_grad_(False)

    def train(self, mode: bool = True) -> LaraModel:
        """Set the mode of all modules except frozen ones, which stay in evaluation mode."""
        super().train(mode)
        if self.lam is not None:
            self.lam.vision_encoder.eval()
            if self.mode == "frozen-lam":
                self.lam.eval()
        if self.mode == "frozen-policy":
            self.policy.eval()
        return self

    def forward(self, **batch: Any) -> JointOutput:
        """L = L_ACT + w1 L_LARA + w2 L_LAM (Eq. 7); terms and weights share their names with the log.

        `JointOutput.weighted` multiplies the terms by `weights` and sums them.

        Args:
            batch: from `PolicyDataset`; with "unlabeled", uint8 (U, 2, 3, S, S), from `UnlabeledPairs`, too. Without
                "shift" its frames are shifted already, with "steady" its pairs are stabilized (see `LoadedBatch`).
        """
        images, frames = self._augment(batch)
        pair = None if self.lam is None or frames is None else self._encode_pair(batch, frames, batch["pair_mask"])
        action = self._policy_forward(batch, images, pair)
        terms = dict(action.losses)  # L_ACT (Eq. 2), weight 1
        if pair is None:
            return JointOutput.weighted(terms, self.weights)
        latents, lam_loss = self._tokenizer_forward(pair)
        aligned = self._align(action, latents, pair.mask)
        terms["alignment"] = aligned.loss  # L_LARA (Eq. 6), weight w1
        if lam_loss is not None:
            terms["lam"] = lam_loss  # L_LAM (Eq. 3), weight w2
        terms |= self._unlabeled_terms(batch, lam_loss)
        monitors = {f"alignment_{name}": value for name, value in aligned.monitors.items()}
        return JointOutput.weighted(terms, self.weights, monitors)

    # --- The terms ----------------------------------------------------------------------------------------------------

    def _policy_forward(self, batch: dict[str, Any], images: Tensor, pair: FramePairs | None) -> PolicyPass:
        """L_ACT (with a table of codes also their cross-entropy), and the tapped hidden state."""
        policy = self.policy
        if policy.context is None:
            context = policy.encode_context(vision_language=policy.vision_language(images, batch["text"]))
        else:
            assert policy.processor is not None
            pixels = policy.processor.normalize_frames(rearrange(images, "b v c h w -> (b v) c h w"))
            pixels = rearrange(pixels, "(b v) c h w -> b v c h w", b=len(images))
            features = self._context_features(pixels, pair) if self.shares_encoder else None
            context = policy.encode_context(pixel_values=pixels, tasks=batch["task"], frame_features=features)
        out = policy(
            context,
            state=batch["state"],
            embodiment=batch["embodiment"],
            actions=batch["actions"],
            action_mask=batch["action_mask"],
            noise=batch["noise"],
            tau=policy.flow.time(batch["tau_quantile"]),
            codes=batch.get("codes"),
            code_mask=batch.get("code_mask"),
        )
        assert out.losses is not None
        losses = dict(out.losses)
        if self.mode == "frozen-policy":  # vectors of tasks that were added after freezing are trainable
            losses = {name: loss.detach() for name, loss in losses.items()}
        return PolicyPass(losses, self._tapped(out.hidden_states), out.tau)

    def _tokenizer_forward(self, pair: FramePairs) -> tuple[Tensor, Tensor | None]:
        """z (B, N, D), and L_LAM where it is trained; the decoder runs only then."""
        assert self.lam is not None
        if self.mode != "frozen-lam" and self.options.w2:
            out = self.lam(pair.now, pair.future, features=pair.features, pair_mask=pair.mask)
            return out.latents, out.loss
        features, future_features = pair.features
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.mode != "frozen-lam"):
            encoded = self.lam.encode(
                frame_features=features, future_frame_features=future_features, requires_grad=True
            )
        assert encoded.latents is not None
        return encoded.latents, None

    def _align(self, action: PolicyPass, latents: Tensor, mask: Tensor) -> AlignmentOutput:
        """L_LARA and its monitors."""
        assert self.alignment is not None
        if self.detach_latents:
            latents = latents.detach()
        # In evaluation without a step, so that the held-out alignment is still measured after `stop_step`.
        step = self.step if self.training else None
        return self.alignment(action.hidden, latents, mask=mask, tau=action.tau, step=step)

    def _unlabeled_terms(self, batch: dict[str, Any], lam_loss: Tensor | None) -> dict[str, Tensor]:
        """Terms of pairs without actions; {} without such pairs.

        "lam" is L_LAM over labelled and unlabeled pairs; "alignment_unlabeled" (with `align_unlabeled`) is L_LARA at
        tau = 0 with z detached.
        """
        if "unlabeled" not in batch:
            return {}
        frames = batch["unlabeled"]
        pair = self._encode_pair(batch, frames, torch.ones(len(frames), dtype=torch.bool, device=frames.device))
        latents, unlabeled_lam_loss = self._tokenizer_forward(pair)
        terms: dict[str, Tensor] = {}
        if lam_loss is not None and unlabeled_lam_loss is not None:
            # The mean over all pairs as if they were one batch, in which each pair counts the same.
            labelled = sum_over_processes(batch["pair_mask"].sum().float()) / process_count()
            share = len(frames) / (len(frames) + labelled)
            terms["lam"] = (1 - share) * lam_loss + share * unlabeled_lam_loss
        if self.options.align_unlabeled:
            assert self.alignment is not None
            hidden = self._unlabeled_hidden_state(pair, batch)
            terms["alignment_unlabeled"] = self.alignment(hidden, latents, step=self.step, unlabeled=True).loss
        return terms

    def _unlabeled_hidden_state(self, pair: FramePairs, batch: dict[str, Any]) -> Tensor:
        """The tapped hidden state without actions and state: pure noise at tau = 0, and a zero (mean) state."""
        policy, count = self.policy, len(pair.now)
        if policy.context is None:
            images = batch["unlabeled"][:, :1]
            context = policy.encode_context(vision_language=policy.vision_language(images, batch["unlabeled_text"]))
        else:
            features = pair.features[0].unsqueeze(1) if self.shares_encoder else None
            context = policy.encode_context(
                pixel_values=pair.now.unsqueeze(1), tasks=batch["unlabeled_task"], frame_features=features
            )
        state = torch.zeros(count, policy.config.max_state_dim, device=pair.now.device)
        robot = torch.zeros(count, dtype=torch.long, device=pair.now.device)
        return self._tapped(policy(context, state=state, embodiment=robot).hidden_states)

    def _tapped(self, hidden_states: tuple[Tensor, ...] | None) -> Tensor:
        """(B, T, H): the output of block `layer`, action tokens up to the pair's later frame."""
        assert hidden_states is not None
        return hidden_states[self.layer - 1][:, : self.stride_frames]

    # --- Frames -------------------------------------------------------------------------------------------------------

    def _augment(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """The batch's images (B, V, 3, S, S) and pair (B, 2, 3, S', S') or None; shifted while training."""
        images, pair = batch["images"], batch.get("pair")
        if not self.training or not self.shift or "shift" not in batch:
            return images, pair
        shift = batch["shift"]
        return shift_samples(images, shift, self.shift), None if pair is None else shift_samples(
            pair, shift, self.shift
        )

    def _encode_pair(self, batch: dict[str, Any], frames: Tensor, mask: Tensor) -> FramePairs:
        """Pixels and frozen features of uint8 frames (B, 2, 3, S, S) of a batch."""
        assert self.lam is not None
        now, future = self._pixel_values(frames, steady=batch.get("steady", False))
        with torch.no_grad():
            features, future_features = self.lam.get_frame_features(torch.cat([now, future])).chunk(2)
        return FramePairs(now, future, (features, future_features), mask)

    def _pixel_values(self, pair: Tensor, steady: bool = False) -> tuple[Tensor, Tensor]:
        """uint8 (B, 2, 3, S, S) -> both frames through the tokenizer's processor; `steady` ones are stabilized."""
        # float32 even under bf16, as in stage 1: motion compensation interpolates between pixels.
        with torch.no_grad(), torch.autocast(pair.device.type, enabled=False):
            now, future = pair.unbind(1)
            if not steady:
                future = self.processor.steady_future(now, future)
            return self.processor.normalize_frames(now), self.processor.normalize_frames(future)

    def _context_features(self, pixels: Tensor, pair: FramePairs | None) -> Tensor | None:
        """Features (B, V, P, W) of all cameras: the first camera's from the pair, the others' computed."""
        if pair is None:
            return None
        assert self.policy.context is not None
        others = [self.policy.context.features(pixels[:, view]) for view in range(1, pixels.shape[1])]
        return torch.stack([pair.features[0], *others], 1)


def differing_settings(one: LatentActionProcessor, other: LatentActionProcessor) -> list[str]:
    """Names of the settings by which two processors give different pixels for the same frame."""
    names = ("size", "resample", "image_mean", "image_std")
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def _share_encoder(policy: FlowMatchingPolicy, lam: LatentActionModel, processor: LatentActionProcessor) -> bool:
    """True if the policy's context is this tokenizer's vision encoder, on the same pixels."""
    if policy.context is None or policy.processor is None or differing_settings(policy.processor, processor):
        return False
    # By weights: a policy from another run may hold an encoder of the same architecture.
    own, other = policy.context.vision_encoder.state_dict(), lam.vision_encoder.state_dict()
    return own.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in own.items())
