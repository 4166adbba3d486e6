"""Tap presets: the modules of known policies that hold the hidden state of their action tokens.

Layers are counted in applied transformer blocks, from 1 to L. Policies that call their blocks are read at the output of
block k. Those of the pi0 family call the parts of a block one by one, so that a hook on the block never runs: they are
read at the input of the norm of the next block, which is the same tensor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from typing import Any

from torch import nn

from lara_policy.hidden_state_hook import Tap, find_module, has_module, unwrap

_LAYER = re.compile(r"L(?:-(\d+))?|(\d+)")


@dataclass(frozen=True, slots=True)
class TapPreset:
    """Module paths of one family of policies.

    Attributes:
        roots: prefixes of all paths: that of LeRobot's policy class, then of others; the first that fits is used.
        chunk: attribute paths of the number of action tokens, from the root or else the policy; the first that exists.
        blocks: the list of transformer blocks; None for networks without numbered depth (a U-Net).
        last: what "L" reads, the action head's input; by default the output of the last block.
        block_norm, end_norm: the norm at a block's entrance and the one after the last block, for policies that do not
            call their blocks.
        layer: the default layer.
        layout, tokens: see `Tap`.
    """

    roots: tuple[str, ...]
    chunk: tuple[str, ...]
    blocks: str | None = None
    last: str | None = None
    block_norm: str | None = None
    end_norm: str | None = None
    layer: str = "L"
    layout: str = "btd"
    tokens: str = "all"

    def site(self, layer: int, depth: int) -> str:
        """Path, from the root, of the state after `layer` of `depth` blocks."""
        if self.block_norm is None:
            return f"{self.blocks}.{layer - 1}"
        return f"{self.blocks}.{layer}.{self.block_norm}:input" if layer < depth else f"{self.end_norm}:input"


_PI0 = TapPreset(
    roots=("model.", ""),  # LeRobot; openpi's PI0Pytorch
    blocks="paligemma_with_expert.gemma_expert.model.layers",
    block_norm="input_layernorm",
    end_norm="paligemma_with_expert.gemma_expert.model.norm",
    last="action_out_proj:input",
    tokens="last",  # the first token is the robot's state
    chunk=("config.chunk_size", "config.action_horizon"),
)
_GROOT = TapPreset(
    roots=("_groot_model.", ""),  # LeRobot; Isaac-GR00T
    blocks="action_head.model.transformer_blocks",
    layer="L-2",
    tokens="last",  # state, in N1.5 also 32 future tokens, then actions
    chunk=("action_head.config.action_horizon", "action_head.action_horizon", "config.action_horizon"),
)

PRESETS: dict[str, TapPreset] = {
    "act": TapPreset(
        roots=("model.", ""),
        blocks="decoder.layers",
        last="decoder.norm",
        layout="tbd",
        chunk=("config.chunk_size",),
    ),
    "diffusion": TapPreset(roots=("diffusion.", ""), last="unet.final_conv.0", layout="bdt", chunk=("config.horizon",)),
    "groot_n1_5": _GROOT,
    "groot_n1_6": _GROOT,
    "groot_n1_7": _GROOT,
    "multi_task_dit": TapPreset(
        roots=("noise_predictor.", ""), blocks="transformer_blocks", layer="L-2", chunk=("config.horizon",)
    ),
    "pi0": _PI0,
    "pi05": _PI0,
    "smolvla": TapPreset(
        roots=("model.", ""),
        blocks="vlm_with_expert.lm_expert.layers",
        block_norm="input_layernorm",
        end_norm="vlm_with_expert.lm_expert.norm",
        last="action_out_proj:input",
        tokens="last",
        chunk=("config.chunk_size",),
    ),
    "xvla": TapPreset(
        roots=("model.", ""),
        blocks="transformer.blocks",
        layer="L-2",
        tokens="first",  # actions, then the images, the instruction and prompts
        chunk=("config.chunk_size", "chunk_size"),
    ),
}


def resolve_tap(policy: nn.Module, preset: str, layer: int | str | None = None, *, keep: int | None = None) -> Tap:
    """The tap of a preset in this policy.

    Args:
        policy: the policy; DDP and compiled ones are unwrapped.
        preset: one of `PRESETS`.
        layer: number of applied blocks, 1 to L; "L-2"; "L" for the action head's input, which some policies normalize;
            a module path, "model.norm" or "model.norm:input"; None for the preset's default.
        keep: read only the first `keep` action tokens of the chunk. By default as many as the policy has actions for,
            by its `config.action_delta_indices`.

    Raises:
        ValueError: an unknown preset or layer, a policy of another family, or no chunk size found.
    """
    policy, known = unwrap(policy), find_preset(preset)
    root = _root(policy, preset, known)
    layer = known.layer if layer is None else layer
    site = root + _site(policy, preset, known, root, layer) if is_layer(layer) else str(layer)
    chunk = _chunk(policy, preset, known, root)
    actions = getattr(getattr(policy, "config", None), "action_delta_indices", None)
    # Some action heads (GR00T's) predict a longer chunk than the policy has actions for.
    if keep is None and actions is not None and len(actions) < chunk:
        keep = len(actions)
    return Tap.at(site, layout=known.layout, tokens=known.tokens, chunk=chunk, keep=keep)


def is_layer(layer: int | str) -> bool:
    """True for a block's index, "L" or "L-k"; False for a module path."""
    return _LAYER.fullmatch(str(layer)) is not None


def resolve_layer(layer: int | str, num_layers: int) -> int:
    """The 1-based index of a block: "L" and "L-k" count from the last.

    Raises:
        ValueError: neither an index nor "L" or "L-k", or outside 1..num_layers.

    >>> resolve_layer("L-2", 16), resolve_layer("L", 16), resolve_layer(3, 16)
    (14, 16, 3)
    """
    match = _LAYER.fullmatch(str(layer))
    if match is None:
        raise ValueError(f"layer {layer!r}: takes a number from 1 to {num_layers}, 'L' or 'L-2'.")
    index = int(match[2]) if match[2] else num_layers - int(match[1] or 0)
    if not 1 <= index <= num_layers:
        raise ValueError(
            f"layer {layer!r}: the policy has {num_layers} blocks, so from 1 (or 'L-{num_layers - 1}') to 'L'."
        )
    return index


def find_preset(name: str) -> TapPreset:
    """The preset of that name. Raises ValueError, listing all names."""
    if name not in PRESETS:
        close = get_close_matches(name, PRESETS, n=1)
        raise ValueError(
            f"unknown tap preset {name!r}: there is {', '.join(PRESETS)}."
            f"{f' Did you mean {close[0]!r}?' if close else ''} For another policy give a Tap, or a module path."
        )
    return PRESETS[name]


def _root(policy: nn.Module, name: str, preset: TapPreset) -> str:
    anchor = preset.blocks or preset.last
    assert anchor is not None
    for root in preset.roots:
        if has_module(policy, root + anchor):
            return root
    paths = " or ".join(f"'{root}{anchor}'" for root in preset.roots)
    children = ", ".join(child for child, _ in policy.named_children())
    raise ValueError(
        f"the tap preset {name!r} looks for {paths}, but {type(policy).__name__} holds {children}. "
        "Is it another policy? Give its preset, a Tap, or a module path."
    )


def _site(policy: nn.Module, name: str, preset: TapPreset, root: str, layer: int | str) -> str:
    """Path, from the root, of the state at a layer."""
    if layer == "L" and preset.last is not None:
        return preset.last
    if preset.blocks is None:
        raise ValueError(f"layer {layer!r}: {name!r} has no numbered blocks. Take 'L', or a module path.")
    depth = len(list(find_module(policy, root + preset.blocks).children()))
    return preset.site(resolve_layer(layer, depth), depth)


def _chunk(policy: nn.Module, name: str, preset: TapPreset, root: str) -> int:
    inner: Any = policy.get_submodule(root.rstrip("."))
    for holder in (inner, policy):
        for path in preset.chunk:
            value = reduce(lambda value, part: getattr(value, part, None), path.split("."), holder)
            if isinstance(value, int):
                return value
    raise ValueError(
        f"the length of the action chunk of {type(policy).__name__} is in none of {', '.join(preset.chunk)}, where "
        f"{name!r} looks for it. Give a Tap of your own, with its chunk."
    )
