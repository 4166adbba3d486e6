"""Tap presets: the module of each depth, in skeletons with the module names of the real policies."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from lara_policy.hidden_state_hook import Tap, state_width
from lara_policy.tap_presets import PRESETS, resolve_tap
from torch import nn


def tree(paths: dict[str, nn.Module], **config) -> nn.Module:
    """A module with these modules at these paths, and a `config`."""
    root = nn.Module()
    for path, module in paths.items():
        parent = root
        *above, name = path.split(".")
        for part in above:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        parent.add_module(name, module)
    root.config = SimpleNamespace(**config)
    return root


def blocks(count: int) -> nn.ModuleList:
    block = {"input_layernorm": nn.LayerNorm(6), "mlp": nn.Linear(6, 6)}
    return nn.ModuleList([nn.ModuleDict(block) for _ in range(count)])


def pi0(root: str = "model.", **config) -> nn.Module:
    expert = f"{root}paligemma_with_expert.gemma_expert.model."
    paths = {f"{expert}layers": blocks(4), f"{expert}norm": nn.LayerNorm(6), f"{root}action_out_proj": nn.Linear(6, 2)}
    return tree(paths, **(config or {"chunk_size": 10}))


def groot(root: str = "_groot_model.") -> nn.Module:
    policy = tree({f"{root}action_head.model.transformer_blocks": blocks(5)}, chunk_size=7)
    policy.get_submodule(f"{root}action_head").config = SimpleNamespace(action_horizon=16)
    return policy


def smolvla() -> nn.Module:
    expert = "model.vlm_with_expert.lm_expert."
    return tree(
        {f"{expert}layers": blocks(3), f"{expert}norm": nn.LayerNorm(6), "model.action_out_proj": nn.Linear(6, 2)},
        chunk_size=50,
    )


EXPERT = "model.paligemma_with_expert.gemma_expert.model."
DIT = "_groot_model.action_head.model.transformer_blocks."


@pytest.mark.parametrize(
    ("preset", "policy", "layer", "site"),
    [
        ("pi0", pi0(), None, "model.action_out_proj:input"),
        ("pi05", pi0(), "L", "model.action_out_proj:input"),
        ("pi05", pi0(), 4, f"{EXPERT}norm:input"),
        ("pi05", pi0(), "L-1", f"{EXPERT}layers.3.input_layernorm:input"),
        ("pi05", pi0(), 1, f"{EXPERT}layers.1.input_layernorm:input"),
        ("pi05", pi0(), "2", f"{EXPERT}layers.2.input_layernorm:input"),
        ("pi05", pi0(root="", action_horizon=10), "L", "action_out_proj:input"),
        ("smolvla", smolvla(), "L", "model.action_out_proj:input"),
        ("smolvla", smolvla(), 3, "model.vlm_with_expert.lm_expert.norm:input"),
        ("groot_n1_7", groot(), None, f"{DIT}2"),
        ("groot_n1_5", groot(), "L-2", f"{DIT}2"),
        ("groot_n1_6", groot(root=""), "L", "action_head.model.transformer_blocks.4"),
        ("groot_n1_6", groot(), 1, f"{DIT}0"),
        ("groot_n1_6", groot(), f"{DIT}3.mlp:input", f"{DIT}3.mlp:input"),
    ],
)
def test_a_depth_leads_to_its_module(preset, policy, layer, site):
    tap = resolve_tap(policy, preset, layer)
    assert f"{tap.path}:{tap.where}".removesuffix(":output") == site


def test_presets_without_blocks_or_with_other_layouts():
    unet = tree({"diffusion.unet.final_conv": nn.Sequential(nn.GroupNorm(2, 6))}, horizon=16)
    assert resolve_tap(unet, "diffusion") == Tap("diffusion.unet.final_conv.0", layout="bdt", chunk=16)
    with pytest.raises(ValueError, match=r"'L-2': 'diffusion' has no numbered blocks. Take 'L', or a module path"):
        resolve_tap(unet, "diffusion", "L-2")
    act = tree({"model.decoder.layers": blocks(2), "model.decoder.norm": nn.LayerNorm(6)}, chunk_size=8)
    assert resolve_tap(act, "act") == Tap("model.decoder.norm", layout="tbd", chunk=8)
    assert resolve_tap(act, "act", 1).path == "model.decoder.layers.0"
    xvla = tree({"model.transformer.blocks": blocks(24)}, chunk_size=30)
    assert resolve_tap(xvla, "xvla") == Tap("model.transformer.blocks.21", tokens="first", chunk=30)
    dit = tree({"noise_predictor.transformer_blocks": blocks(6)}, horizon=32)
    assert resolve_tap(dit, "multi_task_dit") == Tap("noise_predictor.transformer_blocks.3", chunk=32)


def test_tokens_beyond_the_policys_own_actions_are_left_out():
    policy = groot()
    assert resolve_tap(policy, "groot_n1_7").keep is None
    policy.config.action_delta_indices = list(range(7))
    tap = resolve_tap(policy, "groot_n1_7")
    assert (tap.tokens, tap.chunk, tap.keep) == ("last", 16, 7)
    assert resolve_tap(policy, "groot_n1_7", keep=3).keep == 3


@pytest.mark.parametrize("layer", [0, 6, "L-5", "9"])
def test_a_depth_out_of_range_names_the_range(layer):
    with pytest.raises(ValueError, match=r"the policy has 5 blocks"):
        resolve_tap(groot(), "groot_n1_7", layer)


def test_unknown_presets_wrong_policies_and_missing_chunks_are_refused():
    with pytest.raises(ValueError, match=r"unknown tap preset 'smolvlm': there is act, diffusion.*mean 'smolvla'\?"):
        resolve_tap(groot(), "smolvlm")
    with pytest.raises(
        ValueError, match=r"'act' looks for 'model.decoder.layers' or 'decoder.layers', but Module holds"
    ):
        resolve_tap(groot(), "act")
    with pytest.raises(ValueError, match=r"chunk of Module is in none of config.chunk_size, config.action_horizon"):
        resolve_tap(pi0(n_steps=3), "pi0")


def test_widths_are_read_off_the_tapped_module():
    assert state_width(pi0().get_submodule("model.action_out_proj"), "input") == 6
    assert state_width(groot().get_submodule(f"{DIT}0"), "output") == 6
    assert state_width(nn.Sequential(nn.Conv1d(3, 12, 1), nn.GroupNorm(2, 12), nn.Mish()), "output") == 12
    assert state_width(nn.Sequential(nn.Conv1d(3, 12, 1), nn.Mish()), "input") == 3
    assert state_width(nn.RMSNorm(9), "input") == 9
    assert state_width(nn.GELU(), "output") is None


def test_every_preset_is_one_of_a_known_shape():
    for name, preset in PRESETS.items():
        assert preset.blocks or preset.last, name
        assert not preset.block_norm or preset.end_norm, name
