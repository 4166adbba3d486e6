"""Losses that `lara-lam` was tried with and does not have: each is the library's trainer plus one term.

    zero-transition  z of a frame paired with itself must be short beside z of true pairs (CD-LAM, arXiv 2607.09185)
    feature-target   the predicted frame must also have the features of frame t+C. They are those of the vision encoder
                     of the bundled `lara-lam`, frozen: it was trained before, on the same episodes, and far longer
    few-labels       a line from z to the actions, at 5 % of the episodes (as LAOM, arXiv 2502.00379). It sees labels

Shape suffixes: B pairs, N latent tokens, D numbers of a token, C frames of the longest gap, A numbers of an action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lara_tokenizer.data import Episode
from lara_tokenizer.model import LatentActionConfig, LatentActionModel
from lara_tokenizer.train import trainer
from lara_tokenizer.train.actions import EpisodeActions
from lara_tokenizer.train.augment import augment_pairs, jitter_encoder_inputs, stabilize_pairs, to_unit_range
from lara_tokenizer.train.mixture import PairedSequence, find_pairs, split_sequences
from lara_tokenizer.train.pairs import PairDataset

ZERO_MARGIN, ZERO_WEIGHT = 0.05, 1.0  # CD-LAM's own margin
FEATURE_WEIGHT = 1.0
LABELLED_SHARE, LABELLED_BATCH, LABEL_WEIGHT = 0.05, 8, 1.0


def latents_of(model: LatentActionModel, now: Tensor, future: Tensor) -> Tensor:
    """z (B, N, D) past the bottleneck, whose counters of code use are those of the batch itself."""
    now_BPV, future_BPV = model.get_frame_features(torch.cat([now, future])).chunk(2)
    return model.inverse_dynamics(now_BPV, future_BPV)[0]


def zero_transition_loss(still_BND: Tensor, latents_BND: Tensor) -> Tensor:
    """Square of how far the length of z(o, o) lies above 5 % of the usual length of z, which gets no gradient."""
    usual = latents_BND.detach().float().flatten(1).square().sum(1).mean().sqrt()
    relative_B = still_BND.float().flatten(1).norm(dim=1) / usual.clamp(min=1e-8)
    return (relative_B - ZERO_MARGIN).relu().square().mean()


def feature_loss(teacher: LatentActionModel, reconstruction: Tensor, future: Tensor) -> Tensor:
    """Mean squared distance of the features of two pictures; the target gets no gradient."""
    with torch.no_grad():
        target_BPV = teacher.get_frame_features(future)
    return (teacher.get_frame_features(reconstruction).float() - target_BPV.float()).square().mean()


def frozen_teacher() -> LatentActionModel:
    """The bundled `lara-lam`, of which only the vision encoder is used."""
    return LatentActionModel.from_pretrained("lara-lam").eval().requires_grad_(False)


def label_loss(head: nn.Linear, latents_BND: Tensor, actions_BCA: Tensor, mask_BCA: Tensor) -> Tensor:
    """Mean squared error of the standardised actions, of those that are there."""
    with torch.autocast(latents_BND.device.type, enabled=False):
        error_BCA = (head(latents_BND.float().flatten(1)).view_as(actions_BCA) - actions_BCA).square()
        return (error_BCA * mask_BCA).sum() / mask_BCA.sum().clamp(min=1)


def labelled_pairs(
    frames: Any, streams: Sequence[PairedSequence], episodes: Sequence[Episode], seed: int
) -> PairDataset:
    """Pairs of 5 % of the streams' episodes, with actions. Those of other episodes are not read."""
    names = sorted({each.sequence.episode for each in streams})
    count = max(1, round(LABELLED_SHARE * len(names)))
    chosen = set(np.random.default_rng(seed).permutation(names)[:count].tolist())
    actions = EpisodeActions.read([episode for episode in episodes if episode.id in chosen])
    return PairDataset(frames, [each for each in streams if each.sequence.episode in chosen], seed, actions=actions)


class OneMoreLoss(trainer.LatentActionTrainer):
    """The library's trainer, which keeps the pairs of a step for a term of `extra_loss`."""

    def __init__(self, *args: Any, episodes: Sequence[Episode] = (), **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.shown: tuple[Tensor, Tensor] | None = None

    def _augment(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        self.shown = super()._augment(frames)
        return self.shown

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The recipe's loss and one term more."""
        loss, out = super().compute_loss(model, inputs, return_outputs=True)
        loss = loss + self.extra_loss(out)
        return (loss, out) if return_outputs else loss

    def extra_loss(self, out: Any) -> Tensor:
        """The term, weighted."""
        raise NotImplementedError


class ZeroTransition(OneMoreLoss):
    def extra_loss(self, out: Any) -> Tensor:
        """Of frame t as the inverse model sees it."""
        assert self.shown is not None
        now, _ = self._pixel_values(self.shown[1])
        return ZERO_WEIGHT * zero_transition_loss(latents_of(self.lam, now, now), out.latents)


class FeatureTarget(OneMoreLoss):
    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.teacher = frozen_teacher()

    def extra_loss(self, out: Any) -> Tensor:
        """Of frame t+C as the decoder is asked for it."""
        assert self.shown is not None
        _, future = self._pixel_values(self.shown[0])
        return FEATURE_WEIGHT * feature_loss(self.teacher, out.reconstruction, future)


class FewLabels(OneMoreLoss):
    def __init__(self, *args: Any, episodes: Sequence[Episode] = (), **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        found = find_pairs(self.pairs.frames.sequences, self.lam.config.strides)
        kept, _ = split_sequences(found, self.options.heldout_share, self.options.seed)  # the training's own split
        self.labelled = labelled_pairs(self.pairs.frames, kept, episodes, self.options.seed)
        size = self.labelled[0]["actions"].numel()
        self.head = nn.Linear(self.lam.config.num_latents * self.lam.config.codebook_dim, size)

    def create_optimizer(self, *args: Any) -> Any:
        """The model's, with the head, which is not saved."""
        optimizer = super().create_optimizer(*args)
        optimizer.add_param_group({"params": list(self.head.parameters())})
        return optimizer

    def extra_loss(self, out: Any) -> Tensor:
        """Of a small batch of its own, that time does not run backwards in."""
        first = self.state.global_step * LABELLED_BATCH
        batch = self.labelled.__getitems__(range(first, first + LABELLED_BATCH))
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            pairs = augment_pairs(to_unit_range(batch["frames"]), replace(self.augmentation, reverse=0.0))
            seen = stabilize_pairs(jitter_encoder_inputs(pairs, self.augmentation), self.processor)
        latents_BND = latents_of(self.lam, *self._pixel_values(seen))
        return LABEL_WEIGHT * label_loss(self.head, latents_BND, batch["actions"], batch["action_mask"])


LOSSES: dict[str, type[OneMoreLoss]] = {
    "zero-transition": ZeroTransition,
    "feature-target": FeatureTarget,
    "few-labels": FewLabels,
}


def use(name: str, episodes: Sequence[Episode]) -> None:
    """Train with this term from now on; `episodes` are those of the training."""
    trainer.LatentActionTrainer = partial(LOSSES[name], episodes=episodes)  # type: ignore[misc, assignment]


def extra_gflop_per_pair(name: str, config: LatentActionConfig, batch_size: int) -> float:
    """What the term costs a pair of the batch, forward and backward, beside what the recipe costs without it."""
    with torch.random.fork_rng():
        model = LatentActionModel(config).train()
    now, future = torch.zeros(2, 1, 3, config.image_size, config.image_size)
    latents = torch.ones(1, config.num_latents, config.codebook_dim)
    terms: dict[str, Callable[[], Tensor]] = {
        "zero-transition": lambda: zero_transition_loss(latents_of(model, now, now), latents),
        "feature-target": lambda: feature_loss(frozen_teacher(), now.requires_grad_(), future),
        "few-labels": lambda: latents_of(model, now, future).square().sum(),
    }
    with FlopCounterMode(display=False) as counter:
        terms[name]().backward()
    share = LABELLED_BATCH / batch_size if name == "few-labels" else 1.0
    return share * counter.get_total_flops() / 1e9
