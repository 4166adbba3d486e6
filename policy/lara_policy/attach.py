"""`attach_lara`: the LARA loss for an existing policy, by a hook on its hidden state and a tokenizer beside it (Eq. 7).

Shape suffixes: B pairs, T action tokens, H policy width, N latent tokens, D latent dimension.
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
from lara_tokenizer._parse import read_json_object
from lara_tokenizer.checkpoint import checkpoint_folder, load_checkpoint
from lara_tokenizer.model import FAMILIES, LatentActionModel, LatentActionProcessor

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
    """Attach the LARA loss to a policy, which stays unchanged.

    ```
    lara = attach_lara(policy, "lara-lam", tap="smolvla", layer="L")
    optimizer.add_param_group({"params": lara.trainable_parameters()})
    with lara.capture():
        loss, logs = policy.forward(batch)
    loss = loss + lara(frame, future_frame, valid=~future_is_pad)  # w1 L_LARA + w2 L_LAM; parts in lara.losses
    ```

    Attach before the policy is compiled or wrapped (DDP, PEFT). With several processes wrap the result in DDP, too.

    Args:
        policy: any module.
        tokenizer: "lara-lam", a folder or Hub id of a checkpoint, or a model (then `processor` is required).
        tap: a preset (`lara_policy.tap_presets.PRESETS`), a module path ("norm", "head:input") whose state is
            (B, T, H), or a `Tap`.
        layer, keep: with a preset, the depth and the number of actions of the chunk; see `resolve_tap`.
        mode: "joint" trains tokenizer and policy together; "frozen-lam" only the policy, without running the decoder.
        hidden_size: H, if it cannot be inferred from the tapped module.
        processor: the tokenizer's image processor; by default that of its checkpoint.
        options: the comparison of z with the hidden state; `changes` are fields of it: w1, center, ...

    Raises:
        ValueError: an invalid tap, mode or option, see `resolve_tap`; a tokenizer of another family.
    """
    options = _options(options, changes)
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: takes one of {', '.join(MODES)}.")
    tap = _resolve_tap(policy, tap, layer, keep)
    width = hidden_size or state_width(find_module(policy, tap.path), tap.where)
    if width is None:
        raise ValueError(f"the width of {tap} cannot be inferred. Give hidden_size.")
    lam, processor = _tokenizer(tokenizer, processor)
    hook = HiddenStateHook(policy, tap, needs_grad=not options.detach_hidden)
    attachment = LaraAttachment(hook, lam, processor, width, options, mode)
    anchor = next(policy.parameters(), None)
    return attachment if anchor is None else attachment.to(anchor.device)


class LaraAttachment(nn.Module):
    """The result of `attach_lara`: tokenizer, projector, and the hook on the policy (which is no submodule).

    Attributes:
        losses: of the last call, detached: "lara" and "lam" before their weights, and the named terms of "lam".
        monitors: of the last call, detached: the alignment's (see `AlignmentOutput`), and the codes' perplexity.
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
        self.hook = hook
        self.processor = processor
        self.options = options
        self.mode = mode
        self.lam = lam
        self.alignment = LaraAlignment(hidden_size, lam.config.num_latents, lam.config.codebook_dim, options)
        self.losses: dict[str, Tensor] = {}
        self.monitors: dict[str, Tensor] = {}
        self._encoder_was_frozen = lam.config.freeze_vision_encoder
        self._freeze()

    def capture(self) -> HiddenStateHook:
        """Context manager around one forward of the policy: captures its hidden state for the next call."""
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
        """w1 L_LARA + w2 L_LAM, a scalar, for the last captured forward.

        Args:
            frame, future_frame: of the captured batch, frame t and the frame at the end of its actions; anything the
                tokenizer's processor takes: tensors (B, 3, H, W), uint8 or floats in 0..1, or lists of images.
            valid: bool (B,), False if the future frame is past the episode's end; None for all true.
            tau: (B,), the flow time of each sample (0 noise, 1 action); required if `tau_min` is set.
            step: the optimizer step; without it `stop_step` has no effect.

        Raises:
            ValueError: nothing was captured, or batch size or width differ from the captured ones.
        """
        hidden_BTH = self.hook.take()
        pixels = self.processor(frame, future_frame).to(hidden_BTH.device)
        now, future = pixels["pixel_values"], pixels["future_pixel_values"]
        valid = self._checked(hidden_BTH, len(now), valid)
        latents_BND, lam_loss = self._tokenize(now, future, valid)
        repeat = self.hook.tap.repeat
        # In float32: policies often run in bfloat16, whose cosines have two significant digits.
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
        """Parameters of the projector and, in mode "joint", of the tokenizer without its vision encoder."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> LaraAttachment:
        """Set the mode of all modules except frozen ones, which stay in evaluation mode."""
        super().train(mode)
        (self.lam if self._lam_frozen else self.lam.vision_encoder).eval()
        return self

    def detach(self) -> None:
        """Remove the hook from the policy."""
        self.hook.remove()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer's current state as a checkpoint that `LatentActionModel.from_pretrained` loads."""
        lam = copy.deepcopy(self.lam).eval().float()  # a copy: training goes on with the original's dtype and mode
        lam.config.freeze_vision_encoder = self._encoder_was_frozen
        if lam.config.standardize_latents:
            lam.fold_standardization()
        lam.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    @property
    def _decodes(self) -> bool:
        return self.mode == "joint" and self.options.w2 > 0

    @property
    def _lam_frozen(self) -> bool:
        return not self._decodes and (self.mode == "frozen-lam" or self.options.latent_gradient_scale == 0)

    def _freeze(self) -> None:
        """Freeze all parameters that get no gradient: DDP would wait for their gradients for ever."""
        self.lam.config.freeze_vision_encoder = True
        self.lam.freeze()
        # z before quantization is compared, so that without the decoder nothing reaches the codebook either.
        if not self._decodes:
            self.lam.bottleneck.requires_grad_(False)
            self.lam.forward_dynamics.requires_grad_(False)
        if self._lam_frozen:
            self.lam.requires_grad_(False)
        self.train(self.training)

    def _tokenize(self, now: Tensor, future: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """z (B, N, D), and L_LAM or None if the decoder does not run."""
        self.losses, self.monitors = {}, {}
        if not self._decodes:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self._lam_frozen):
                latents_BND = self.lam.encode(now, future, requires_grad=True).latents
            assert latents_BND is not None
            return latents_BND, None
        out = self.lam(now, future, pair_mask=valid)
        self.losses = {"lam": out.loss.detach(), **{name: term.detach() for name, term in out.losses.items()}}
        self.monitors = {"perplexity": out.perplexity.detach()}
        return out.latents, out.loss

    def _checked(self, hidden_BTH: Tensor, pairs: int, valid: Tensor | None) -> Tensor | None:
        """`valid` on the hidden state's device. Raises ValueError if it or the number of pairs does not fit."""
        repeat = self.hook.tap.repeat
        if len(hidden_BTH) != pairs * repeat:
            raise ValueError(
                f"{pairs} pairs of frames, but {self.hook.tap} was captured for {len(hidden_BTH)} samples"
                f"{f' ({repeat} per pair)' if repeat > 1 else ''}. Give the frames of the captured batch, in its order."
            )
        if valid is None:
            return None
        if valid.shape != (pairs,) or valid.dtype != torch.bool:
            raise ValueError(
                f"valid is {valid.dtype} of shape {tuple(valid.shape)}: takes bool ({pairs},), one per pair."
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
            "train with lara-tok refine."
        )
    return options


def _tokenizer(
    tokenizer: str | Path | LatentActionModel, processor: LatentActionProcessor | None
) -> tuple[LatentActionModel, LatentActionProcessor]:
    if isinstance(tokenizer, (str, Path)):
        return _load(tokenizer, processor)
    model = checked_tokenizer(tokenizer)
    if processor is None:
        raise ValueError("a loaded tokenizer needs its processor: give processor=...")
    return model, processor


def load_tokenizer(name: str | Path) -> LatentActionModel:
    """Load the tokenizer of a folder, a Hub id or "lara-lam". Raises ValueError for a model of another family."""
    return _load(name, None)[0]


def _load(name: str | Path, processor: LatentActionProcessor | None) -> tuple[LatentActionModel, LatentActionProcessor]:
    # By the config first: of another family nothing else need be whole.
    config = checkpoint_folder(name) / "config.json"
    model_type = read_json_object(config).get("model_type") if config.is_file() else None
    for family, model_class in FAMILIES.items():
        if family.model_type == model_type and model_class is not LatentActionModel:
            raise _other_family(f"{name} is a {model_class.__name__}")
    model, processor = load_checkpoint(name, processor)
    return checked_tokenizer(model, f"{name} is a "), processor


def _other_family(subject: str) -> ValueError:
    return ValueError(
        f"{subject}: only a LatentActionModel is trained together with a policy. Label with this one (lara-tok "
        "encode), and give a policy its codes: lara-tok refine --pretrain."
    )


def checked_tokenizer(model: nn.Module, subject: str = "tokenizer is a ") -> LatentActionModel:
    """The model unchanged. Raises ValueError for a model of another family: those have no training loss."""
    if not isinstance(model, LatentActionModel):
        raise _other_family(f"{subject}{type(model).__name__}")
    return model


def _resolve_tap(policy: nn.Module, tap: str | Tap, layer: int | str | None, keep: int | None) -> Tap:
    if isinstance(tap, str) and tap not in PRESETS and "." not in tap and not has_module(policy, tap.partition(":")[0]):
        find_preset(tap)  # raises, listing the presets
    if isinstance(tap, str) and tap in PRESETS:
        return resolve_tap(policy, tap, layer, keep=keep)
    if layer is not None:
        raise ValueError(f"layer {layer!r} goes with a preset ({', '.join(PRESETS)}); a tap names its module itself.")
    tap = Tap.at(tap) if isinstance(tap, str) else tap
    return tap if keep is None else replace(tap, keep=keep)
