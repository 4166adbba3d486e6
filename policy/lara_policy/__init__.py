"""Policies and the LARA loss: a flow-matching policy, joint training, the loss for existing policies, roll-outs.

>>> from lara_policy import FlowMatchingPolicy, LaraAlignment, attach_lara

The names below load on first use.

    alignment.py                        L_LARA (Eq. 6)
    flow_matching.py                    L_ACT (Eq. 1 and 2)
    modeling_flow_matching_policy.py    the policy; its parts are diffusion_transformer.py, context.py, embodiment.py
    attach.py                           L_LARA for an existing policy, read by hidden_state_hook.py and tap_presets.py
    refine/                             joint training; refine/model.py adds up Eq. 7
    rollout/, simulation/               evaluation in simulators, and demonstrations from them
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lara_tokenizer._lazy import lazy

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

__getattr__, __dir__ = lazy(__name__, _HOME)
