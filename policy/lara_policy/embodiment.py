"""Embodiments: a robot's widths, cameras and statistics, and the layers that have weights of their own for each robot.

Shape suffixes: B samples, T tokens, C steps of a chunk, I and O input and output widths, S state and A action width,
H policy width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lara_policy.flow_matching import sinusoid
from lara_tokenizer._parse import shown
from lara_tokenizer.data.statistics import ActionStatistics


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_size(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_number, value))


# Whether a value can be that of a field.
_FITS: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "cameras": lambda value: isinstance(value, list | tuple) and all(isinstance(name, str) for name in value),
    "image_sizes": lambda value: isinstance(value, Mapping) and all(map(_is_size, value.values())),
    "fps": lambda value: _is_number(value) and value >= 0,
    **dict.fromkeys(("action_mean", "action_std", "state_mean", "state_std"), _are_numbers),
}


@dataclass(frozen=True, slots=True)
class Embodiment:
    """One robot of a policy: JSON-serializable, saved in the policy's config.

    The statistics are those of its training data: (x - mean) / std, with std 1 for a constant component.

    Attributes:
        cameras: names of the images it sees, in order.
        image_sizes: (height, width) of each camera as recorded.
        fps: frame rate of its episodes.
    """

    name: str
    cameras: tuple[str, ...]
    image_sizes: Mapping[str, tuple[int, int]]
    fps: float
    action_mean: Sequence[float]
    action_std: Sequence[float]
    state_mean: Sequence[float]
    state_std: Sequence[float]

    @classmethod
    def measure(
        cls,
        name: str,
        *,
        actions: np.ndarray,
        states: np.ndarray | None,
        cameras: Sequence[str],
        image_sizes: Mapping[str, tuple[int, int]],
        fps: float,
    ) -> Embodiment:
        """Statistics of actions (n, A) and states (n, S). Raises ValueError, naming the robot, for NaN or infinity."""
        try:
            of_actions = ActionStatistics.of(actions)
            of_states = None if states is None else ActionStatistics.of(states)
        except ValueError as error:
            raise ValueError(f"embodiment {name!r}: {error}") from None
        return cls(
            name=name,
            cameras=tuple(cameras),
            image_sizes={camera: (size[0], size[1]) for camera, size in image_sizes.items()},
            fps=fps,
            action_mean=of_actions.mean.tolist(),
            action_std=of_actions.std.tolist(),
            state_mean=[] if of_states is None else of_states.mean.tolist(),
            state_std=[] if of_states is None else of_states.std.tolist(),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Embodiment:
        """The inverse of `to_dict`. Raises ValueError, naming the field, for anything else: a config may be edited."""
        fields = {entry.name for entry in dataclasses.fields(cls)}
        if not isinstance(values, Mapping) or values.keys() != fields:
            raise ValueError(f"an embodiment is {shown(values)}; it has {', '.join(sorted(fields))}.")
        for name, fits in _FITS.items():
            if not fits(values[name]):
                raise ValueError(f"embodiment {shown(values['name'])}: {name} is {shown(values[name])}.")
        for kind in ("action", "state"):
            means, deviations = values[f"{kind}_mean"], values[f"{kind}_std"]
            if len(means) != len(deviations) or min(deviations, default=1) <= 0:
                raise ValueError(f"embodiment {shown(values['name'])}: {kind}_std needs a positive number per mean.")
        sizes = {camera: tuple(size) for camera, size in values["image_sizes"].items()}
        return cls(**{**values, "cameras": tuple(values["cameras"]), "image_sizes": sizes})

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self) | {
            "cameras": list(self.cameras),
            "image_sizes": {camera: list(size) for camera, size in self.image_sizes.items()},
        }

    @property
    def action_dim(self) -> int:
        """Width of an action."""
        return len(self.action_mean)

    @property
    def state_dim(self) -> int:
        """Width of a state; 0 for data without states."""
        return len(self.state_mean)

    def check_fits(self, max_action_dim: int, max_state_dim: int) -> None:
        """Raises ValueError if an action or a state is wider than the policy's maximum."""
        for what, size, largest in (
            ("action", self.action_dim, max_action_dim),
            ("state", self.state_dim, max_state_dim),
        ):
            if size > largest:
                raise ValueError(
                    f"embodiment {self.name!r} has {what}s of {size} numbers, the policy takes up to {largest}: "
                    f"build it with max_{what}_dim={size}, or leave some out."
                )

    def check_same_as(self, other: Embodiment) -> None:
        """Raises ValueError if another robot of this name has other widths or cameras."""
        for what in ("action_dim", "state_dim", "cameras"):
            own, new = getattr(self, what), getattr(other, what)
            if own != new:
                raise ValueError(
                    f"embodiment {self.name!r} has {what} {own} in the policy and {new} in the data: give the data's "
                    "robot another name (`embodiments` of the recipe)."
                )

    def normalize_actions(self, actions: np.ndarray, width: int) -> np.ndarray:
        """Raw (..., A) -> standardized and zero-padded (..., width), float32."""
        return _pad((np.asarray(actions, np.float64) - self.action_mean) / np.asarray(self.action_std), width)

    def normalize_states(self, states: np.ndarray, width: int) -> np.ndarray:
        """Raw (..., S) -> standardized and zero-padded (..., width), float32."""
        return _pad((np.asarray(states, np.float64) - self.state_mean) / np.asarray(self.state_std), width)

    def unnormalize_actions(self, actions: np.ndarray) -> np.ndarray:
        """Padded and standardized (..., width) -> raw units (..., A), float32."""
        own = np.asarray(actions[..., : self.action_dim], np.float64)
        return (own * np.asarray(self.action_std) + self.action_mean).astype(np.float32)


def _pad(values: np.ndarray, width: int) -> np.ndarray:
    padded = np.zeros((*values.shape[:-1], width), np.float32)
    padded[..., : values.shape[-1]] = values
    return padded


class EmbodimentLinear(nn.Module):
    """A linear layer x W_e + b_e with its own W and b per embodiment: (B, T, I) -> (B, T, O)."""

    def __init__(self, num_embodiments: int, in_features: int, out_features: int) -> None:
        super().__init__()
        # Rows only for embodiments in use: at Table S.1 all 64 slots would be 631 M parameters.
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(num_embodiments, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(num_embodiments, out_features))
        self.reset(0)

    @torch.no_grad()
    def reset(self, first: int) -> None:
        """Initialize embodiments `first` and later: weights normal with deviation 0.02, biases 0."""
        nn.init.normal_(self.weight[first:], std=0.02)
        nn.init.zeros_(self.bias[first:])

    def grow(self, num_embodiments: int) -> None:
        """Append freshly initialized embodiments; the weights of the others stay."""
        count = len(self.weight)
        old_weight, old_bias = self.weight, self.bias
        self.weight = nn.Parameter(old_weight.new_empty(num_embodiments, self.in_features, self.out_features))
        self.bias = nn.Parameter(old_bias.new_empty(num_embodiments, self.out_features))
        with torch.no_grad():
            self.weight[:count], self.bias[:count] = old_weight, old_bias
        self.reset(count)

    def forward(self, values_BTI: Tensor, embodiment_B: Tensor) -> Tensor:
        if len(self.weight) == 1:  # one matrix for the whole batch: no gather of B copies
            return F.linear(values_BTI, self.weight[0].T, self.bias[0])
        return torch.baddbmm(self.bias[embodiment_B].unsqueeze(1), values_BTI, self.weight[embodiment_B])


class StateEncoder(nn.Module):
    """State (B, S) -> one token (B, 1, H): two layers and ReLU."""

    def __init__(self, num_embodiments: int, state_size: int, middle_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden = EmbodimentLinear(num_embodiments, state_size, middle_size)
        self.output = EmbodimentLinear(num_embodiments, middle_size, hidden_size)

    def forward(self, state_BS: Tensor, embodiment_B: Tensor) -> Tensor:
        return self.output(F.relu(self.hidden(state_BS.unsqueeze(1), embodiment_B)), embodiment_B)


class ActionEncoder(nn.Module):
    """Noisy actions (B, C, A) and their flow time (B,) -> tokens (B, C, H): linear, concatenate time, SiLU, linear."""

    def __init__(self, num_embodiments: int, action_size: int, hidden_size: int) -> None:
        super().__init__()
        self.action = EmbodimentLinear(num_embodiments, action_size, hidden_size)
        self.with_time = EmbodimentLinear(num_embodiments, 2 * hidden_size, hidden_size)
        self.output = EmbodimentLinear(num_embodiments, hidden_size, hidden_size)

    def forward(self, action_BCA: Tensor, tau_B: Tensor, embodiment_B: Tensor) -> Tensor:
        tokens_BCH = self.action(action_BCA, embodiment_B)
        time_BCH = sinusoid(tau_B, tokens_BCH.shape[-1]).to(tokens_BCH.dtype).unsqueeze(1).expand_as(tokens_BCH)
        mixed_BCH = F.silu(self.with_time(torch.cat([tokens_BCH, time_BCH], -1), embodiment_B))
        return self.output(mixed_BCH, embodiment_B)


class ActionDecoder(nn.Module):
    """Outputs of the transformer (B, C, O) -> velocities (B, C, A): two layers and ReLU."""

    def __init__(self, num_embodiments: int, in_size: int, action_size: int) -> None:
        super().__init__()
        self.hidden = EmbodimentLinear(num_embodiments, in_size, in_size)
        self.output = EmbodimentLinear(num_embodiments, in_size, action_size)

    def forward(self, tokens_BCO: Tensor, embodiment_B: Tensor) -> Tensor:
        return self.output(F.relu(self.hidden(tokens_BCO, embodiment_B)), embodiment_B)
