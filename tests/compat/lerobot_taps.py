"""Taps on the real policy classes of LeRobot, tiny and randomly initialized: each reads the intended state.

    python lerobot_taps.py [preset...]

Runs where lerobot 0.6.1 and lara_tokenizer are installed. For every preset and every depth: the state has the action
tokens' shape, the gradient of the LARA loss reaches exactly the blocks before the tap, and the tokenizer; removing the
hook leaves the policy's loss as it was, to the last bit.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from lara_policy.attach import attach_lara
from lara_policy.hidden_state_hook import HiddenStateHook, Tap
from lara_policy.tap_presets import PRESETS, resolve_tap
from lerobot_tiny import BATCH, BUILDERS, CHUNK, DEPTH
from torch import Tensor, nn

# The module after the last block, whose input is the state after L blocks.
BEHIND_LAST_BLOCK = {
    "act": Tap("model.decoder.norm", "input", "tbd"),
    "groot_n1_7": Tap("_groot_model.action_head.model.norm_out", "input", tokens="last", chunk=12, keep=CHUNK),
    "multi_task_dit": Tap("noise_predictor.output_proj", "input"),
    "pi0": Tap("model.paligemma_with_expert.gemma_expert.model.norm", "input", tokens="last", chunk=CHUNK),
    "pi05": Tap("model.paligemma_with_expert.gemma_expert.model.norm", "input", tokens="last", chunk=CHUNK),
    "smolvla": Tap("model.vlm_with_expert.lm_expert.norm", "input"),
    "xvla": Tap("model.transformer.norm", "input"),
}


def frames() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    now, future = (torch.randint(0, 256, (BATCH, 3, 64, 64), dtype=torch.uint8, generator=random) for _ in range(2))
    return now, future


def loss_of(policy: nn.Module, batch: dict[str, Any]) -> Tensor:
    torch.manual_seed(5)
    return policy.forward(dict(batch))[0]


def state_at(policy: nn.Module, batch: dict[str, Any], tap: Tap) -> Tensor:
    hook = HiddenStateHook(policy, tap)
    with hook:
        loss_of(policy, batch)
    state = hook.take().detach()
    hook.remove()
    return state


def moved(module: nn.Module) -> bool:
    return any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in module.parameters())


def check_depth(name: str, policy: nn.Module, batch: dict[str, Any], layer: int | str, before: int | None) -> None:
    """The LARA loss alone, at one depth: its gradient reaches the first `before` blocks and no others."""
    torch.manual_seed(3)
    lara = attach_lara(policy, "lara-lam", tap=name, layer=layer).train()
    policy.zero_grad()
    with lara.capture():
        loss_of(policy, batch)
    hidden_BTH = lara.hook._hidden
    assert hidden_BTH is not None
    assert hidden_BTH.shape == (BATCH, CHUNK, lara.alignment.projector.hidden_size), hidden_BTH.shape
    lara(*frames(), valid=torch.tensor([True, False, True])).backward()
    assert all(moved(part) for part in (policy, lara.alignment, lara.lam.inverse_dynamics, lara.lam.forward_dynamics))
    assert not moved(lara.lam.vision_encoder), "the tokenizer's vision encoder is frozen"
    if before is not None:
        blocks = policy.get_submodule(f"{PRESETS[name].roots[0]}{PRESETS[name].blocks}")
        reached = [moved(block) for block in blocks]
        assert reached == [index < before for index in range(DEPTH)], (layer, reached)
    lara.detach()


def check(name: str, folder: Path) -> str:
    policy, batch = BUILDERS[name](folder)
    expected = loss_of(policy, batch)
    depths: list[tuple[int | str, int | None]] = [("L", None)]
    if name in BEHIND_LAST_BLOCK:
        depths = [("L", DEPTH), ("L-1", DEPTH - 1), *((layer, layer) for layer in range(1, DEPTH + 1))]
        ours = state_at(policy, batch, resolve_tap(policy, name, DEPTH))
        assert torch.equal(ours, state_at(policy, batch, BEHIND_LAST_BLOCK[name])), "the state after L blocks"
    for layer, before in depths:
        check_depth(name, policy, batch, layer, before)
    assert torch.equal(loss_of(policy, batch), expected), "a removed hook leaves a trace"
    tap = resolve_tap(policy, name)
    return f"{type(policy).__name__}: {tap}, {tap.tokens} {tap.chunk} tokens; {len(depths)} depths"


def check_checkpointing(folder: Path) -> str:
    """pi0.5 recomputes its blocks in backward: the hook fires again, and the gradients are those without."""
    found = []
    for checkpointing in (False, True):
        policy, batch = BUILDERS["pi05"](folder)
        if checkpointing:
            policy.model.gradient_checkpointing_enable()
        torch.manual_seed(3)
        lara = attach_lara(policy, "lara-lam", tap="pi05", layer=2, w1=1.0)
        with lara.capture():
            loss = loss_of(policy, batch)
        (loss + lara(*frames())).backward()
        found.append([parameter.grad for parameter in policy.parameters() if parameter.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    return "pi05: gradients with and without gradient checkpointing are equal to the last bit"


def main() -> None:
    logging.disable(logging.WARNING)
    torch.use_deterministic_algorithms(True)
    for name in sys.argv[1:] or BUILDERS:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}: {check(name, Path(folder))}", flush=True)
            if name == "pi05":
                print(check_checkpointing(Path(folder)), flush=True)
    print("not tested, for want of a tiny build: groot_n1_5 (LeRobot 0.4.4 alone), groot_n1_6 (Isaac-GR00T)")


if __name__ == "__main__":
    main()
