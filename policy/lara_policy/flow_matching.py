"""Flow matching for action chunks (Eq. 1 and 2): a straight path from noise at tau = 0 to the action at tau = 1.

Time runs the other way in pi0 and openpi, where tau = 1 is noise.

Shape suffixes: B samples, C steps of a chunk, A action dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lara_policy.distributed import process_count, sum_over_processes

TAU_BUCKETS = 1000  # the network sees int(1000 tau), as in the released policy

Velocity = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class FlowMatching:
    """Flow times, paths, the loss and the sampler.

    Attributes:
        alpha, cut: tau = (cut - u) / cut with u ~ Beta(alpha, 1), which favours noise; the released code's values.
        num_steps: Euler steps of `sample`.

    >>> flow = FlowMatching()
    >>> noise, action = torch.zeros(1, 16, 4), torch.ones(1, 16, 4)
    >>> flow.velocity(action, noise).unique()  # A - eps
    tensor([1.])
    """

    alpha: float = 1.5
    cut: float = 0.999
    num_steps: int = 4

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps {self.num_steps}: at least one Euler step.")

    def time(self, quantile: Tensor) -> Tensor:
        """tau in [0, 1] from a uniform quantile in [0, 1), by inverse transform: u = quantile^(1 / alpha)."""
        return ((self.cut - quantile ** (1 / self.alpha)) / self.cut).clamp(0, 1)

    def sample_time(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """Random tau (B,)."""
        return self.time(torch.rand(batch, device=device))

    def path(self, action_BCA: Tensor, noise_BCA: Tensor, tau_B: Tensor) -> Tensor:
        """A_tau = tau A + (1 - tau) eps (Eq. 1)."""
        tau_B11 = tau_B.view(-1, 1, 1)
        return tau_B11 * action_BCA + (1 - tau_B11) * noise_BCA

    def velocity(self, action_BCA: Tensor, noise_BCA: Tensor) -> Tensor:
        """The policy's regression target, d A_tau / d tau = A - eps (Eq. 2)."""
        return action_BCA - noise_BCA

    def loss(self, predicted_BCA: Tensor, action_BCA: Tensor, noise_BCA: Tensor, mask_BCA: Tensor) -> Tensor:
        """L_ACT (Eq. 2): mean squared error of the velocity over the entries of `mask_BCA`; 0 if there are none."""
        error_BCA = (predicted_BCA.float() - self.velocity(action_BCA, noise_BCA)).square()
        # `where`, not a product: a NaN in a padded entry must not reach the loss.
        # The count is of all processes: one may hold more padding than another (see distributed.py).
        count = sum_over_processes(mask_BCA.sum().float()).clamp(min=1)
        return torch.where(mask_BCA, error_BCA, 0).sum() * process_count() / count

    def sample(self, velocity: Velocity, noise_BCA: Tensor) -> Tensor:
        """From noise at tau = 0 to an action at tau = 1 in `num_steps` Euler steps along `velocity(A_tau, tau_B)`."""
        # Straight paths have a constant velocity, so that few steps are enough.
        action_BCA = noise_BCA
        for step in range(self.num_steps):
            tau_B = torch.full((len(noise_BCA),), step / self.num_steps, device=noise_BCA.device)
            action_BCA = action_BCA + velocity(action_BCA, tau_B) / self.num_steps
        return action_BCA


def sinusoid(tau_B: Tensor, size: int) -> Tensor:
    """Sinusoidal embedding of the flow time: float32 (B, size), size even.

    cos and sin of int(1000 tau) at geometric frequencies from 1 to 1/10,000.
    """
    half = size // 2
    exponents = torch.arange(half, device=tau_B.device, dtype=torch.float32) / half
    angles = (tau_B.float() * TAU_BUCKETS).floor().unsqueeze(1) * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], -1)
