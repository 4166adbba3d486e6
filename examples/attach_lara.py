"""Train a policy of your own with the LARA loss: L = L_ACT + w1 L_LARA + w2 L_LAM (Eq. 7).

    python examples/attach_lara.py

Here the policy is thirty lines of torch and its batches are drawn at random. For a LeRobot policy the three lines are
the same, with a preset for the hidden state: `attach_lara(policy, "lara-lam", tap="smolvla", layer="L")`.
"""

from __future__ import annotations

import torch
from lara_policy import attach_lara
from torch import Tensor, nn

CHUNK, ACTIONS, WIDTH = 8, 4, 64


class TinyFlowPolicy(nn.Module):
    """A flow-matching policy: `forward` returns the action loss; `head` reads the hidden state (B, CHUNK, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.embed = nn.Linear(ACTIONS + 1 + 8, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, ACTIONS)

    def forward(self, frame: Tensor, actions: Tensor) -> Tensor:
        # A straight path from noise at tau = 0 to the action at tau = 1; the target velocity is action - noise.
        noise, tau = torch.randn_like(actions), torch.rand(len(actions), 1, 1)
        noisy = torch.lerp(noise, actions, tau)
        seen = self.image(frame / 255)[:, None].expand(-1, CHUNK, -1)
        hidden = self.block(self.embed(torch.cat([noisy, tau.expand(-1, CHUNK, 1), seen], -1)))
        return (self.head(hidden) - (actions - noise)).square().mean()


def main(steps: int = 3) -> None:
    torch.manual_seed(0)
    policy = TinyFlowPolicy()
    lara = attach_lara(policy, "lara-lam", tap="head:input")  # the hidden state that enters `head`
    optimizer = torch.optim.AdamW([*policy.parameters(), *lara.trainable_parameters()], lr=1e-3)
    for step in range(steps):
        frame, future_frame = torch.randint(0, 256, (2, 16, 3, 96, 96), dtype=torch.uint8)
        actions = torch.randn(16, CHUNK, ACTIONS)
        with lara.capture():
            loss = policy(frame, actions)
        total = loss + lara(frame, future_frame)  # w1 L_LARA + w2 L_LAM
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        print(step, f"action {loss:.3f}", {name: round(float(value), 3) for name, value in lara.losses.items()})


if __name__ == "__main__":
    main()
