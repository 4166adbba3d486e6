"""Policies beside latent actions: joint training by the LARA loss, the loss for other people's policies, roll-outs.

>>> from lara_policy import FlowMatchingPolicy, LaraAlignment, attach_lara

The names below load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lara_policy.alignment import AlignmentOptions, LaraAlignment
    from lara_policy.attach import attach_lara
    from lara_policy.configuration_flow_matching_policy import FlowMatchingPolicyConfig
    from lara_policy.flow_matching import FlowMatching
    from lara_policy.hidden_state_hook import HiddenStateHook, Tap
    from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy

_HOME = {
    "AlignmentOptions": "alignment",
    "FlowMatching": "flow_matching",
    "FlowMatchingPolicy": "modeling_flow_matching_policy",
    "FlowMatchingPolicyConfig": "configuration_flow_matching_policy",
    "HiddenStateHook": "hidden_state_hook",
    "LaraAlignment": "alignment",
    "Tap": "hidden_state_hook",
    "attach_lara": "attach",
}

__all__ = [
    "AlignmentOptions",
    "FlowMatching",
    "FlowMatchingPolicy",
    "FlowMatchingPolicyConfig",
    "HiddenStateHook",
    "LaraAlignment",
    "Tap",
    "attach_lara",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"lara_policy has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"lara_policy.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
