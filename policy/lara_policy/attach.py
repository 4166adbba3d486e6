"""The LARA loss for anybody's policy: a hook on its hidden state, a tokenizer beside it, and one loss to add (Eq. 7).

Shape suffixes: B pairs, T action tokens, H width of the policy, N latent tokens, D numbers of a latent token.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lara_policy.alignment import AlignmentOptions, LaraAlignment
from lara_policy.hidden_state_hook import HiddenStateHook, Tap, find_module, has_module, state_width
from lara_policy.tap_presets import PRESETS, find_preset, resolve_tap
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor, load_model

MODES = ("joint", "frozen-lam")


def attach_lara(
    policy: nn.Module,
    tokenizer: str | Path | LatentActionModel = "lara-lam",
    *,
    tap: str | Tap,
    layer: int | str | None = None,
    keep: int | None = None,
    mode: str = "joint",
    hidden_size: int | None = None,
    processor: LatentActionProcessor | None = None,
    options: AlignmentOptions | None = None,
    **changes: Any,
) -> LaraAttachment:
    """Attach the LARA loss to a policy, which stays as it is.

    ```
    lara = attach_lara(policy, "lara-lam", tap="smolvla", layer="L")
    optimizer.add_param_group({"params": lara.trainable_parameters()})
    with lara.capture():
        loss, logs = policy.forward(batch)
    loss = loss + lara(frame, future_frame, valid=~future_is_pad)  # w1 L_LARA + w2 L_LAM; parts in lara.losses
    ```

    Do it before the policy is compiled or wrapped (DDP, PEFT). With several processes wrap what comes back in DDP too.

    Args:
        policy: any module.
        tokenizer: "lara-lam", a folder or Hub id of a checkpoint, or a model (then `processor` is needed too).
        tap: a preset (`lara_policy.tap_presets.PRESETS`), a module path ("norm", "head:input") whose state is
            (B, T, H), or a `Tap`.
        layer, keep: with a preset, which depth and how many actions of the chunk; see `resolve_tap`.
        mode: "joint" trains tokenizer and policy together; "frozen-lam" the policy alone, and no decoder runs.
        hidden_size: H, where the tapped module does not tell.
        options: how z and the hidden state are compared, `AlignmentOptions`; `changes` are fields of it: w1, center, …

    Raises:
        ValueError: for a tap, mode or option that cannot be, see `resolve_tap`; for a tokenizer of another family.
    """
    options = _options(options, changes)
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: takes one of {', '.join(MODES)}.")
    place = _tap(policy, tap, layer, keep)
    width = hidden_size or state_width(find_module(policy, place.path), place.where)
    if width is None:
        raise ValueError(f"{place} does not tell how wide it is. Give hidden_size.")
    lam, processor = _tokenizer(tokenizer, processor)
    hook = HiddenStateHook(policy, place, needs_grad=not options.detach_hidden)
    attachment = LaraAttachment(hook, lam, processor, width, options, mode)
    anchor = next(policy.parameters(), None)
    return attachment if anchor is None else attachment.to(anchor.device)


class LaraAttachment(nn.Module):
    """What `attach_lara` gives: tokenizer and projector, and the hook on the policy (which is no part of it).

    `losses`: of the last call, detached: "lara" and "lam" before their weights, and the named terms of "lam".
    `monitors`: of the last call, detached: how well z is met (see `AlignmentOutput`), and the codes' perplexity.
    """

    def __init__(
        self,
        hook: HiddenStateHook,
        lam: LatentActionModel,
        processor: LatentActionProcessor,
        hidden_size: int,
        options: AlignmentOptions,
        mode: str = "joint",
    ) -> None:
        super().__init__()
        self.hook, self.processor, self.options, self.mode = hook, processor, options, mode
        self.lam = lam
        self.alignment = LaraAlignment(hidden_size, lam.config.num_latents, lam.config.codebook_dim, options)
        self.losses: dict[str, Tensor] = {}
        self.monitors: dict[str, Tensor] = {}
        self._encoder_was_frozen = lam.config.freeze_vision_encoder
        self._freeze()

    def capture(self) -> HiddenStateHook:
        """The context for one forward of the policy: its hidden state is kept for the next call of this module."""
        return self.hook

    def forward(
        self,
        frame: Any,
        future_frame: Any,
        *,
        valid: Tensor | None = None,
        tau: Tensor | None = None,
        step: int | None = None,
    ) -> Tensor:
        """w1 L_LARA + w2 L_LAM, a scalar, for the forward that was captured last.

        Args:
            frame, future_frame: of the captured batch, frame t and the frame at the end of its actions; whatever the
                tokenizer's processor takes: tensors (B, 3, H, W), uint8 or floats in 0..1, or lists of images.
            valid: bool (B,), False where the future frame lies past the episode's end; None for all true.
            tau: (B,), the flow time of each sample (0 noise, 1 action), where `tau_min` is set.
            step: the optimiser step, where `stop_step` is set.

        Raises:
            ValueError: where nothing was captured, or batch or width differ from what was.
        """
        hidden_BTH = self.hook.take()
        pixels = self.processor(frame, future_frame).to(hidden_BTH.device)
        now, future = pixels["pixel_values"], pixels["future_pixel_values"]
        valid = self._checked(hidden_BTH, len(now), valid)
        latents_BND, lam_loss = self._tokenize(now, future, valid)
        repeat = self.hook.tap.repeat
        aligned = self.alignment(
            hidden_BTH.float(),
            latents_BND.repeat(repeat, 1, 1),
            mask=None if valid is None else valid.repeat(repeat),
            tau=tau,
            step=step,
        )
        self.losses["lara"] = aligned.loss.detach()
        self.monitors |= aligned.monitors
        loss = self.options.w1 * aligned.loss
        return loss if lam_loss is None else loss + self.options.w2 * lam_loss

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Those of the projector and, in mode "joint", of the tokenizer without its vision encoder."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> LaraAttachment:
        """As for any module, but what is frozen stays in eval mode."""
        super().train(mode)
        (self.lam if self._lam_frozen else self.lam.vision_encoder).eval()
        return self

    def detach(self) -> None:
        """Take the hook off the policy."""
        self.hook.remove()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer as it is now, whole: `LatentActionModel.from_pretrained(folder)` reads it."""
        from lara_tokenizer.train.stage_one import save_checkpoint  # late: it brings the data readers along

        lam = copy.deepcopy(self.lam)  # saving folds and converts, and training goes on
        lam.config.freeze_vision_encoder = self._encoder_was_frozen
        save_checkpoint(lam, self.processor, folder)

    @property
    def _decodes(self) -> bool:
        return self.mode == "joint" and self.options.w2 > 0

    @property
    def _lam_frozen(self) -> bool:
        return not self._decodes and (self.mode == "frozen-lam" or self.options.latent_gradient_scale == 0)

    def _freeze(self) -> None:
        """Only what gets a gradient is left trainable: DDP waits for the others for ever."""
        self.lam.config.freeze_vision_encoder = True
        self.lam.freeze()
        if not self._decodes:
            self.lam.bottleneck.requires_grad_(False)
            self.lam.forward_dynamics.requires_grad_(False)
        if self._lam_frozen:
            self.lam.requires_grad_(False)
        self.train(self.training)

    def _tokenize(self, now: Tensor, future: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(z, L_LAM or None where the decoder does not run)."""
        self.losses, self.monitors = {}, {}
        if not self._decodes:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self._lam_frozen):
                latents_BND = self.lam.encode(now, future).latents
            assert latents_BND is not None
            return latents_BND, None
        out = self.lam(now, future, pair_mask=valid)
        self.losses = {"lam": out.loss.detach(), **{name: term.detach() for name, term in out.losses.items()}}
        self.monitors = {"perplexity": out.perplexity.detach()}
        return out.latents, out.loss

    def _checked(self, hidden_BTH: Tensor, pairs: int, valid: Tensor | None) -> Tensor | None:
        repeat = self.hook.tap.repeat
        if len(hidden_BTH) != pairs * repeat:
            raise ValueError(
                f"{pairs} pairs of frames, but {self.hook.tap} was captured for {len(hidden_BTH)} samples"
                f"{f' ({repeat} a pair)' if repeat > 1 else ''}. Give the frames of the captured batch, in its order."
            )
        if valid is None:
            return None
        if valid.shape != (pairs,) or valid.dtype != torch.bool:
            raise ValueError(
                f"valid is {valid.dtype} of shape {tuple(valid.shape)}: takes bool ({pairs},), one a pair."
            )
        return valid.to(hidden_BTH.device)


def _options(options: AlignmentOptions | None, changes: dict[str, Any]) -> AlignmentOptions:
    unknown = sorted(set(changes) - set(AlignmentOptions.names()))
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}: there is {', '.join(AlignmentOptions.names())}.")
    options = replace(options or AlignmentOptions(), **changes)
    if options.align_unlabeled:
        raise ValueError(
            "align_unlabeled needs a policy whose flow time can be set, which a hook cannot do: leave it at 0, or "
            "train with LaraTrainer."
        )
    return options


def _tokenizer(
    tokenizer: str | Path | LatentActionModel, processor: LatentActionProcessor | None
) -> tuple[LatentActionModel, LatentActionProcessor]:
    if isinstance(tokenizer, (str, Path)):
        return load_tokenizer(tokenizer), processor or LatentActionProcessor.from_pretrained(tokenizer)
    model = checked_tokenizer(tokenizer)
    if processor is None:
        raise ValueError("a tokenizer that is loaded already needs its processor: give processor=…")
    return model, processor


def load_tokenizer(name: str | Path) -> LatentActionModel:
    """The tokenizer of a folder, a Hub id or "lara-lam". Raises ValueError for a model of another family."""
    return checked_tokenizer(load_model(name), f"{name} is a ")


def checked_tokenizer(model: nn.Module, what: str = "tokenizer is a ") -> LatentActionModel:
    """The model itself. Raises ValueError for one of another family: those have no loss."""
    if not isinstance(model, LatentActionModel):
        raise ValueError(
            f"{what}{type(model).__name__}: only a LatentActionModel is trained together with a policy. Label with "
            "this one (lara-tok encode), and give a policy its codes: lara-tok refine --pretrain."
        )
    return model


def _tap(policy: nn.Module, tap: str | Tap, layer: int | str | None, keep: int | None) -> Tap:
    if isinstance(tap, str) and tap not in PRESETS and "." not in tap and not has_module(policy, tap.partition(":")[0]):
        find_preset(tap)  # says what there is
    if isinstance(tap, str) and tap in PRESETS:
        return resolve_tap(policy, tap, layer, keep=keep)
    if layer is not None:
        raise ValueError(f"layer {layer!r} goes with a preset ({', '.join(PRESETS)}); this tap says its module itself.")
    place = Tap.at(tap) if isinstance(tap, str) else tap
    return place if keep is None else replace(place, keep=keep)
