"""Hand-written policies of a few hundred parameters, each with one trait of real ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK, ACTIONS, WIDTH, BLOCKS = 4, 3, 8, 3


class Block(nn.Module):
    """Residual, with the names that language models give to their parts."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, state: Tensor) -> Tensor:
        return state + self.mlp(self.input_layernorm(state))


class FlowPolicy(nn.Module):
    """A flow-matching policy over [state, actions]: `forward(batch)` gives (loss, logs), `sample` takes Euler steps."""

    def __init__(self, checkpointing: str = "none", calls_blocks: bool = True) -> None:
        super().__init__()
        self.checkpointing, self.calls_blocks = checkpointing, calls_blocks
        self.embed = nn.Linear(ACTIONS + 1, WIDTH)
        self.layers = nn.ModuleList([Block() for _ in range(BLOCKS)])
        self.norm = nn.LayerNorm(WIDTH)
        self.action_out_proj = nn.Linear(WIDTH, ACTIONS)

    def velocity(self, noisy: Tensor, tau: Tensor) -> Tensor:
        """(B, chunk, actions) at times (B,) -> velocities of that shape."""
        state = self.embed(torch.cat([noisy, tau.view(-1, 1, 1).expand(-1, CHUNK, 1)], 2))
        state = torch.cat([state[:, :1], state], 1)  # a token in front, as of the robot's state
        for block in self.layers:
            state = self.run_block(block, state)
        return self.action_out_proj(self.norm(state)[:, -CHUNK:])

    def run_block(self, block: nn.Module, state: Tensor) -> Tensor:
        """Call the block, or its parts one by one, or inside a checkpoint."""
        if not self.calls_blocks:
            return state + block.mlp(block.input_layernorm(state))
        if self.checkpointing != "none":
            return checkpoint(block, state, use_reentrant=self.checkpointing == "reentrant")
        return block(state)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        actions, noise, tau = batch["action"], batch["noise"], batch["tau"]
        mixed = torch.lerp(noise, actions, tau.view(-1, 1, 1))
        loss = (self.velocity(mixed, tau) - (actions - noise)).square().mean()
        return loss, {"loss": loss.item()}

    def sample(self, noise: Tensor, steps: int = 5) -> Tensor:
        """Actions from noise."""
        for step in range(steps):
            noise = noise + self.velocity(noise, noise.new_full((len(noise),), step / steps)) / steps
        return noise


def make_batch(size: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """One batch for `FlowPolicy`."""
    random = torch.Generator().manual_seed(seed)
    shape = (size, CHUNK, ACTIONS)
    return {
        "action": torch.randn(shape, generator=random),
        "noise": torch.randn(shape, generator=random),
        "tau": torch.rand(size, generator=random),
    }


def make_policy(seed: int = 0, **traits: str | bool) -> FlowPolicy:
    """A policy whose weights depend only on the seed, not on its traits."""
    torch.manual_seed(seed)
    return FlowPolicy(**traits)  # type: ignore[arg-type]
