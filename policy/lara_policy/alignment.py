"""L_LARA, the alignment loss (Eq. 6): predict the latent action z from a policy's hidden state h and compare by cosine.

Independent of policies and tokenizers: two tensors in, a loss and monitored scalars out.

Shape suffixes: B pairs, T tokens of the policy, H policy width, N latent tokens, D latent dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lara_policy.distributed import process_count, sum_over_processes

TOKENS = ("last", "mean", "all")
PROJECTORS = ("linear", "mlp")


@dataclass(frozen=True, slots=True)
class AlignmentOptions:
    """Options of the LARA loss: weights, comparison of z with f(h), gradient flow.

    The defaults guard against collapse (`center`, and w2 = 10 w1); `paper_exact()` gives the paper's.

    Attributes:
        w1, w2: weights of L_LARA and L_LAM beside the action loss (Eq. 7). Under AdamW the tokenizer feels nearly only
            their ratio.
        latent_gradient_scale: factor on the gradient into z: 1 as in the paper; 0 for one-way alignment, where the
            tokenizer trains on L_LAM only. `LaraModel.detach_latents` does the same until the tokenizer is ready.
        detach_hidden: the reverse, no gradient into the policy.
        center: subtract the batch mean from z and from f(h) first. Without it a constant z minimizes the loss.
        per_token: mean cosine of the N latent tokens instead of one cosine of the flattened N x D vector.
        token: how the action tokens are pooled: the last, their mean, or each of them (mean of the losses). Which
            tokens of a policy are its action tokens is selected by `Tap.tokens`.
        projector: f, one linear layer or a two-layer MLP.
        tau_min: align only samples whose flow time tau (0 noise, 1 action) is at least this.
        stop_step: no alignment from this optimizer step on: early stopping, as in HASTE (arXiv 2505.16792).
        align_unlabeled: factor on w1 for pairs without actions, which are aligned at tau = 0 with z detached.
    """

    w1: float = 0.01
    w2: float = 0.1
    latent_gradient_scale: float = 1.0
    detach_hidden: bool = False
    center: bool = True
    per_token: bool = False
    token: str = "last"
    projector: str = "linear"
    tau_min: float = 0.0
    stop_step: int | None = None
    align_unlabeled: float = 0.0

    def __post_init__(self) -> None:
        for name in ("w1", "w2", "latent_gradient_scale", "align_unlabeled"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} {getattr(self, name)}: takes 0 (off) or more.")
        if self.token not in TOKENS:
            raise ValueError(f"token {self.token!r}: takes one of {', '.join(TOKENS)}.")
        if self.projector not in PROJECTORS:
            raise ValueError(f"projector {self.projector!r}: takes one of {', '.join(PROJECTORS)}.")
        if not 0 <= self.tau_min < 1:
            raise ValueError(f"tau_min {self.tau_min}: a flow time in [0, 1); 0 aligns all.")
        if self.stop_step is not None and self.stop_step < 0:
            raise ValueError(f"stop_step {self.stop_step}: an optimizer step, 0 or more, or none.")

    @classmethod
    def paper_exact(cls, **changes: Any) -> AlignmentOptions:
        """Eq. 6 and 7 as printed: one cosine of the flattened vector, gradient into z, both weights 0.01."""
        return cls(**{"w1": 0.01, "w2": 0.01, "center": False, **changes})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all options."""
        return tuple(entry.name for entry in fields(cls))


@dataclass
class AlignmentOutput:
    """The loss (a scalar) and detached scalars for the log.

    Attributes:
        monitors: `cosine` of z and f(h) as they are; `centered_cosine` after both batch means are subtracted, which a
            constant z cannot raise; `retrieval`, the share of pairs whose own z is the closest of the batch to f(h) by
            that cosine (1 / B by chance); `pairs`, the number of pairs that took part. Empty if none did.
    """

    loss: Tensor
    monitors: dict[str, Tensor] = field(default_factory=dict)


class AlignmentProjector(nn.Sequential):
    """The projector f: (..., H) -> (..., N * D), linear as in the released code, or H -> H -> SiLU -> N * D."""

    def __init__(self, hidden_size: int, target_size: int, kind: str = "linear") -> None:
        layers: list[nn.Module] = [nn.Linear(hidden_size, target_size)]
        if kind == "mlp":
            layers = [nn.Linear(hidden_size, hidden_size), nn.SiLU(), *layers]
        super().__init__(*layers)
        self.hidden_size = hidden_size


class LaraAlignment(nn.Module):
    """L_LARA = 1 - cos(z, f(h)): Eq. 6 plus one, so that 0 is perfect and the gradient is the paper's.

    Under DDP, means and pair counts are over all processes, and averaged gradients equal those of one process with the
    whole batch (see `distributed.py`).

    >>> alignment = LaraAlignment(hidden_size=1536, num_latents=8, latent_dim=32)
    >>> alignment(torch.randn(4, 17, 1536), torch.randn(4, 8, 32)).loss.shape
    torch.Size([])

    Args:
        hidden_size: width of the policy.
        num_latents, latent_dim: shape of z; 1 and E for a plain embedding (Eq. 5).
        options: see `AlignmentOptions`.
    """

    def __init__(
        self, hidden_size: int, num_latents: int, latent_dim: int, options: AlignmentOptions | None = None
    ) -> None:
        super().__init__()
        self.options = options or AlignmentOptions()
        self.num_latents = num_latents
        self.latent_dim = latent_dim
        self.projector = AlignmentProjector(hidden_size, num_latents * latent_dim, self.options.projector)

    def forward(
        self,
        hidden: Tensor,
        latents: Tensor,
        *,
        mask: Tensor | None = None,
        tau: Tensor | None = None,
        step: int | None = None,
        unlabeled: bool = False,
    ) -> AlignmentOutput:
        """The loss of a batch.

        Args:
            hidden: (B, T, H), the action tokens in their order, or (B, H).
            latents: (B, N, D), z before quantization, or (B, N * D).
            mask: bool (B,), False for pairs without a true future frame.
            tau: (B,), the flow time of each sample; required if `tau_min` is set.
            step: the optimizer step; without it `stop_step` has no effect.
            unlabeled: pairs without actions: z is detached, and `tau_min` does not apply (tau is 0).

        Raises:
            ValueError: shapes that do not fit (the message contains both), or tau_min without tau.
        """
        hidden_BTH, latents_BND = self._checked(hidden, latents)
        options = self.options
        if options.stop_step is not None and step is not None and step >= options.stop_step:
            # A constant: neither policy nor tokenizer gets a gradient from here on.
            return AlignmentOutput(hidden_BTH.new_zeros(()))
        mask_B = torch.ones(len(hidden_BTH), dtype=torch.bool, device=hidden_BTH.device) if mask is None else mask
        if options.tau_min > 0 and not unlabeled:
            if tau is None:
                raise ValueError(f"tau_min is {options.tau_min}: give tau, the flow time of each sample.")
            mask_B = mask_B & (tau >= options.tau_min)
        # float32 even under autocast: a cosine of bfloat16 numbers has two significant digits.
        with torch.autocast(hidden_BTH.device.type, enabled=False):
            if options.detach_hidden:
                hidden_BTH = hidden_BTH.detach()
            dtype = next(self.projector.parameters()).dtype
            predicted_BTND = self.projector(hidden_BTH.to(dtype)).float()
            predicted_BTND = predicted_BTND.unflatten(-1, (self.num_latents, self.latent_dim))
            scale = 0.0 if unlabeled else options.latent_gradient_scale
            target_B1ND = scale_gradient(latents_BND.float(), scale).unsqueeze(1)
            # Masked before the cosine: NaN * 0 is NaN, so a masked pair must not reach the gradient as a factor.
            valid_B111 = mask_B.view(-1, 1, 1, 1)
            predicted_BTND, target_B1ND = (
                torch.where(valid_B111, values, 0) for values in (predicted_BTND, target_B1ND)
            )
            return self._compare(predicted_BTND, target_B1ND, mask_B)

    def _compare(self, predicted_BTND: Tensor, target_B1ND: Tensor, mask_B: Tensor) -> AlignmentOutput:
        """1 - cosine, averaged over tokens and over the pairs of `mask_B`; masked rows are 0."""
        count = sum_over_processes(mask_B.sum().float()).clamp(min=1)
        predicted, target = predicted_BTND, target_B1ND
        if self.options.center:
            predicted, target = _centered(predicted, mask_B, count), _centered(target, mask_B, count)
        if not self.options.per_token:
            predicted, target = predicted.flatten(2), target.flatten(2)
        cosine_B = F.cosine_similarity(predicted, target, dim=-1).flatten(1).mean(1)
        # DDP divides gradients by the number of processes, and `count` is of all of them: see distributed.py.
        loss = torch.where(mask_B, 1 - cosine_B, 0).sum() * process_count() / count
        return AlignmentOutput(loss, _monitors(predicted_BTND[mask_B].mean(1), target_B1ND[mask_B, 0]))

    def _checked(self, hidden: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The token(s) of `hidden` that `options.token` selects, (B, T, H), and `latents` as (B, N, D)."""
        expected = self.projector.hidden_size
        if hidden.ndim not in (2, 3) or hidden.shape[-1] != expected:
            raise ValueError(
                f"hidden states of shape {tuple(hidden.shape)}: the projector takes (B, T, {expected}) or "
                f"(B, {expected}). Tap another module, or build the alignment with hidden_size={hidden.shape[-1]}."
            )
        if latents.flatten(1).shape[1] != self.num_latents * self.latent_dim:
            raise ValueError(
                f"latents of shape {tuple(latents.shape)}: the projector was built for z of (B, {self.num_latents}, "
                f"{self.latent_dim}). Give that tokenizer's z, or build the alignment for this one."
            )
        if len(hidden) != len(latents):
            raise ValueError(f"{len(hidden)} hidden states and {len(latents)} latents: they must be of the same pairs.")
        hidden_BTH = hidden.unsqueeze(1) if hidden.ndim == 2 else hidden
        if self.options.token == "last":
            hidden_BTH = hidden_BTH[:, -1:]
        elif self.options.token == "mean":
            hidden_BTH = hidden_BTH.mean(1, keepdim=True)
        return hidden_BTH, latents.reshape(len(latents), self.num_latents, self.latent_dim)


def scale_gradient(values: Tensor, scale: float) -> Tensor:
    """The same values with `scale` times the gradient; at 0 they are detached, so that no zero gradient flows back."""
    if scale == 1:
        return values
    if scale == 0:
        return values.detach()
    # The second term is 0 in the forward pass; in the backward pass it is the only one with a gradient.
    return values.detach() + scale * (values - values.detach())


def _centered(values_BXND: Tensor, mask_B: Tensor, count: Tensor) -> Tensor:
    """Subtract the mean over the `count` valid pairs; masked rows are 0 before and after."""
    centered = values_BXND - sum_over_processes(values_BXND.sum(0)) / count
    return torch.where(mask_B.view(-1, 1, 1, 1), centered, 0)


@torch.no_grad()
def _monitors(predicted_BND: Tensor, target_BND: Tensor) -> dict[str, Tensor]:
    """`AlignmentOutput.monitors` of this process's valid pairs."""
    if not len(target_BND):
        return {}
    # Means of this process's pairs, unlike in the loss: a monitor is not worth a synchronization.
    predicted, target = predicted_BND.flatten(1), target_BND.flatten(1)
    centered, target_centered = predicted - predicted.mean(0), target - target.mean(0)
    own = F.cosine_similarity(centered, target_centered, dim=1)
    similarity_BB = F.normalize(centered, dim=1) @ F.normalize(target_centered, dim=1).T
    is_closest = similarity_BB.argmax(1) == torch.arange(len(similarity_BB), device=similarity_BB.device)
    return {
        "cosine": F.cosine_similarity(predicted, target, dim=1).mean(),
        "centered_cosine": own.mean(),
        "retrieval": is_closest.float().mean(),
        "pairs": torch.tensor(float(len(similarity_BB)), device=similarity_BB.device),
    }
