"""The LARA loss: a policy's hidden state has to tell the latent action of what it is about to do (Eq. 6).

Knows neither policies nor tokenizers: two tensors come in, a loss and what to watch go out.

Shape suffixes: B pairs, T tokens of the policy, H its width, N latent tokens, D numbers of a latent token.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

TOKENS = ("last", "mean", "all")
PROJECTORS = ("linear", "mlp")


@dataclass(frozen=True, slots=True)
class AlignmentOptions:
    """How z and f(h) are compared, and what that may move. The defaults keep the codebook alive; the paper's differ.

    w1, w2: weights of L_LARA and L_LAM beside the action loss (Eq. 7). AdamW makes the tokenizer feel only their ratio.
    latent_gradient_scale: of the gradient into z; 1 as in the paper, 0 for one-way alignment: the policy then follows a
        z that trains on its own loss alone. detach_hidden: the reverse, no gradient into the policy.
    center: subtract the batch's mean from z and from f(h) first. Without it a constant z is the best z.
    per_token: the mean cosine of the N latent tokens instead of one cosine of the flattened N x D vector.
    token: which of the policy's action tokens is read: the last, their mean, or each of them (mean of the losses).
    projector: f, one linear layer or a two-layer MLP.
    tau_min: align only samples whose flow time tau (0 noise, 1 action) is at least this.
    stop_step: no alignment from this optimiser step on (HASTE).
    align_unlabeled: weight, beside w1, of aligning pairs without actions, at tau = 0 and with z detached.
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
            raise ValueError(f"stop_step {self.stop_step}: an optimiser step, 0 or more, or none.")

    @classmethod
    def paper_exact(cls, **changes: Any) -> AlignmentOptions:
        """Eq. 6 and 7 as printed: one cosine of the flattened vector, gradient into z, both weights 0.01."""
        return cls(**{"w1": 0.01, "w2": 0.01, "center": False, **changes})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all options."""
        return tuple(entry.name for entry in fields(cls))


@dataclass
class AlignmentOutput:
    """The loss, a scalar, and detached scalars to watch.

    monitors: `cosine`, of z and f(h) as they are; `centered_cosine`, after both batch means are taken off, which a
    constant cannot raise; `retrieval`, the share of pairs whose own z is the closest of the batch to f(h) by that
    cosine (1 / B by chance); `pairs`, how many took part. Empty where none did.
    """

    loss: Tensor
    monitors: dict[str, Tensor] = field(default_factory=dict)


class AlignmentProjector(nn.Sequential):
    """f: (..., H) -> (..., N * D), one linear layer as in the released code, or H -> H -> SiLU -> N * D."""

    def __init__(self, hidden_size: int, target_size: int, kind: str = "linear") -> None:
        layers: list[nn.Module] = [nn.Linear(hidden_size, target_size)]
        if kind == "mlp":
            layers = [nn.Linear(hidden_size, hidden_size), nn.SiLU(), *layers]
        super().__init__(*layers)
        self.hidden_size = hidden_size


class LaraAlignment(nn.Module):
    """1 - cos(z, f(h)): Eq. 6 plus one, so that 0 is perfect and the gradient is the paper's.

    With several processes the means and the count of pairs are those of all of them, and each process's loss is its
    share times their number, so that averaging gradients (DDP) gives what one process with the whole batch would get.

    >>> alignment = LaraAlignment(hidden_size=1536, num_latents=8, latent_dim=32)
    >>> alignment(torch.randn(4, 17, 1536), torch.randn(4, 8, 32)).loss.shape
    torch.Size([])

    hidden_size is the policy's width; num_latents and latent_dim are z's, 1 and E for a plain embedding (Eq. 5).
    """

    def __init__(
        self, hidden_size: int, num_latents: int, latent_dim: int, options: AlignmentOptions | None = None
    ) -> None:
        super().__init__()
        self.options = options or AlignmentOptions()
        self.num_latents, self.latent_dim = num_latents, latent_dim
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
        """Compare.

        Args:
            hidden: (B, T, H), the action tokens in their order, or (B, H).
            latents: (B, N, D), z before quantization, or (B, N * D).
            mask: bool (B,); False where there is no true future frame.
            tau: (B,), the flow time of each sample; needed where `tau_min` is set.
            step: the optimiser step, for `stop_step`.
            unlabeled: pairs without actions: z is detached, tau is 0 and `tau_min` does not apply.

        Raises:
            ValueError: Shapes that do not fit, with both sides named; tau_min without tau.
        """
        hidden_BTH, latents_BND = self._checked(hidden, latents)
        options = self.options
        if options.stop_step is not None and step is not None and step >= options.stop_step:
            return AlignmentOutput(hidden_BTH.new_zeros(()))
        mask_B = torch.ones(len(hidden_BTH), dtype=torch.bool, device=hidden_BTH.device) if mask is None else mask
        if options.tau_min > 0 and not unlabeled:
            if tau is None:
                raise ValueError(f"tau_min is {options.tau_min}: give tau, the flow time of each sample.")
            mask_B = mask_B & (tau >= options.tau_min)
        # In float32 even under autocast: a cosine of bfloat16 numbers has two digits.
        with torch.autocast(hidden_BTH.device.type, enabled=False):
            if options.detach_hidden:
                hidden_BTH = hidden_BTH.detach()
            kind = next(self.projector.parameters()).dtype
            predicted_BTND = self.projector(hidden_BTH.to(kind)).float()
            predicted_BTND = predicted_BTND.unflatten(-1, (self.num_latents, self.latent_dim))
            scale = 0.0 if unlabeled else options.latent_gradient_scale
            target_B1ND = scale_gradient(latents_BND.float(), scale).unsqueeze(1)
            # Put away before the cosine: what comes out of a masked pair must not reach a gradient, not even as NaN.
            kept_B111 = mask_B.view(-1, 1, 1, 1)
            predicted_BTND, target_B1ND = (
                torch.where(kept_B111, values, 0) for values in (predicted_BTND, target_B1ND)
            )
            return self._compare(predicted_BTND, target_B1ND, mask_B)

    def _compare(self, predicted_BTND: Tensor, target_B1ND: Tensor, mask_B: Tensor) -> AlignmentOutput:
        count = sum_over_processes(mask_B.sum().float()).clamp(min=1)
        predicted, target = predicted_BTND, target_B1ND
        if self.options.center:
            predicted, target = _centered(predicted, mask_B, count), _centered(target, mask_B, count)
        if not self.options.per_token:
            predicted, target = predicted.flatten(2), target.flatten(2)
        cosine_B = F.cosine_similarity(predicted, target, dim=-1).flatten(1).mean(1)
        # Every process's share of the mean over all, times their number: gradients are averaged over processes.
        loss = torch.where(mask_B, 1 - cosine_B, 0).sum() * processes() / count
        return AlignmentOutput(loss, _monitors(predicted_BTND[mask_B].mean(1), target_B1ND[mask_B, 0]))

    def _checked(self, hidden: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
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
    """The same values, with `scale` times the gradient; at 0 they are detached, so that not even a zero flows back."""
    if scale == 1:
        return values
    if scale == 0:
        return values.detach()
    return values.detach() + scale * (values - values.detach())


def _centered(values_BXND: Tensor, mask_B: Tensor, count: Tensor) -> Tensor:
    """Less the mean over the `count` kept pairs; masked ones are 0 before and after."""
    centered = values_BXND - sum_over_processes(values_BXND.sum(0)) / count
    return torch.where(mask_B.view(-1, 1, 1, 1), centered, 0)


@torch.no_grad()
def _monitors(predicted_BND: Tensor, target_BND: Tensor) -> dict[str, Tensor]:
    """Of this process's pairs."""
    if not len(target_BND):
        return {}
    predicted, target = predicted_BND.flatten(1), target_BND.flatten(1)
    centered, target_centered = predicted - predicted.mean(0), target - target.mean(0)
    own = F.cosine_similarity(centered, target_centered, dim=1)
    every = F.normalize(centered, dim=1) @ F.normalize(target_centered, dim=1).T
    found = every.argmax(1) == torch.arange(len(every), device=every.device)
    return {
        "cosine": F.cosine_similarity(predicted, target, dim=1).mean(),
        "centered_cosine": own.mean(),
        "retrieval": found.float().mean(),
        "pairs": torch.tensor(float(len(every)), device=every.device),
    }


def processes() -> int:
    """How many train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum over all processes, with its gradient: a mean over a whole batch is such a sum by such a count."""
    return _AllReduce.apply(values) if processes() > 1 else values


class _AllReduce(torch.autograd.Function):
    """The sum over processes; the gradient of a sum that every process uses is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient
