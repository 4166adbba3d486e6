"""The M-Former: queries that read the change between two frames (LARA A.1; Moto Sec. 3).

Shape suffixes: B batch, P tokens of a frame, N queries, H width, V width of the vision encoder, T = N + P + 1 + P.
"""

import torch
from torch import Tensor, nn

from .configuration_latent_action import LatentActionConfig
from .transformer import Transformer


class MFormer(nn.Module):
    """Transformer over [N queries | frame t | separator | frame t+C]; the outputs of the queries are returned."""

    def __init__(self, config: LatentActionConfig) -> None:
        super().__init__()
        self.num_latents = config.num_latents
        self.num_frame_tokens = config.num_frame_tokens
        width = config.hidden_size
        self.projection = nn.Linear(config.vision_config.hidden_size, width)
        self.queries = nn.Parameter(torch.empty(1, config.num_latents, width))
        self.separator = nn.Parameter(torch.empty(1, 1, width))
        length = config.num_latents + 2 * config.num_frame_tokens + 1
        # One position table for the whole sequence: the same patch has different positions in the two frames.
        self.positions = nn.Parameter(torch.empty(1, length, width))
        # Row 0: queries, frame t, separator. Row 1: frame t+C, unless both frames share row 0.
        self.segments = nn.Parameter(torch.empty(2, width))
        self.future_segment = 0 if config.segment_embedding == "shared" else 1
        self.transformer = Transformer(
            width,
            config.num_attention_heads,
            config.intermediate_size,
            config.num_m_former_layers,
            config.layer_norm_eps,
        )

    def forward(
        self, frame_BPV: Tensor, future_BPV: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features of both frames (B, P, V) -> queries (B, N, H) and, if requested, each layer's map (B, A, T, T)."""
        if frame_BPV.shape[1:] != (self.num_frame_tokens, self.projection.in_features):
            raise ValueError(
                f"frame features are {tuple(frame_BPV.shape)}, expected (batch, {self.num_frame_tokens}, "
                f"{self.projection.in_features}): tokens of a frame and width of config.vision_config."
            )
        batch = frame_BPV.shape[0]
        sequence_BTH = torch.cat(
            [
                self.queries.expand(batch, -1, -1),
                self.projection(frame_BPV),
                self.separator.expand(batch, -1, -1),
                self.projection(future_BPV),
            ],
            dim=1,
        )
        now, future = self.segments[0], self.segments[self.future_segment]
        past = self.num_latents + self.num_frame_tokens + 1
        offsets_TH = self.positions[0] + torch.cat([now.expand(past, -1), future.expand(self.num_frame_tokens, -1)])
        # Only the queries are used: the last layer computes no other rows, unless attention maps are requested.
        keep = None if output_attentions else self.num_latents
        hidden_BTH, attentions = self.transformer(sequence_BTH + offsets_TH, output_attentions, keep)
        return hidden_BTH[:, : self.num_latents], attentions
