"""Losses of the ablation that `lara-lam` does not use: each is the library's trainer plus one term.

    zero-transition  z of a frame paired with itself must be short relative to z of true pairs (CD-LAM, arXiv
                     2607.09185)
    feature-target   the predicted frame must also have the features of frame t+C. They are those of the vision encoder
                     of the bundled `lara-lam`, frozen: it was trained before, on the same episodes, and far longer
    few-labels       a linear map from z to the actions, in 5 % of the episodes (as LAOM, arXiv 2502.00379). It uses
                     labels
    direction        z of a pair and of the reversed pair must differ in every component; from the first release, which
                     had neither the normal flow target nor the initialization from the frame difference

Shape suffixes: B pairs, N latent tokens, D numbers of a token, C frames of the longest stride,
A components of an action.
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
DIRECTION_SPREAD, DIRECTION_WEIGHT = 0.9, 0.5  # z as a whole is standardized to 1


def latents_of(model: LatentActionModel, now: Tensor, future: Tensor) -> Tensor:
    """z (B, N, D) without the bottleneck, whose code counters must count each batch once."""
    now_BPV, future_BPV = model.get_frame_features(torch.cat([now, future])).chunk(2)
    return model.inverse_dynamics(now_BPV, future_BPV)[0]


def zero_transition_loss(still_BND: Tensor, latents_BND: Tensor) -> Tensor:
    """Squared excess of the length of z(o, o) over 5 % of the usual length of z, which gets no gradient."""
    # Without gradient: longer z of true pairs would satisfy the term, too.
    usual = latents_BND.detach().float().flatten(1).square().sum(1).mean().sqrt()
    relative_B = still_BND.float().flatten(1).norm(dim=1) / usual.clamp(min=1e-8)
    return (relative_B - ZERO_MARGIN).relu().square().mean()


def feature_loss(teacher: LatentActionModel, reconstruction: Tensor, future: Tensor) -> Tensor:
    """Mean squared distance of the features of two images; the target gets no gradient."""
    with torch.no_grad():
        target_BPV = teacher.get_frame_features(future)
    return (teacher.get_frame_features(reconstruction).float() - target_BPV.float()).square().mean()


def direction_loss(latents_BND: Tensor) -> Tensor:
    """Mean of max(0, 0.9 - spread of (z(a, b) - z(b, a)) / sqrt(2)), for pairs and then their reversals.

    Appearance is the same in both directions of a pair, motion is not.
    """
    forward_BND, backward_BND = latents_BND.float().chunk(2)
    # The epsilon keeps the root's gradient finite where z is equal in both directions.
    spread_ND = ((forward_BND - backward_BND).square().mean(0) / 2 + 1e-6).sqrt()
    return (DIRECTION_SPREAD - spread_ND).clamp(min=0).mean()


def frozen_teacher() -> LatentActionModel:
    """The bundled `lara-lam`, of which only the vision encoder is used."""
    return LatentActionModel.from_pretrained("lara-lam").eval().requires_grad_(False)


def label_loss(head: nn.Linear, latents_BND: Tensor, actions_BCA: Tensor, mask_BCA: Tensor) -> Tensor:
    """Mean squared error of the standardized actions that exist, by `mask_BCA`."""
    with torch.autocast(latents_BND.device.type, enabled=False):
        error_BCA = (head(latents_BND.float().flatten(1)).view_as(actions_BCA) - actions_BCA).square()
        return (error_BCA * mask_BCA).sum() / mask_BCA.sum().clamp(min=1)


def labelled_pairs(
    frames: Any, sequences: Sequence[PairedSequence], episodes: Sequence[Episode], seed: int
) -> PairDataset:
    """Pairs of 5 % of the episodes, with actions. Actions of other episodes are not read."""
    names = sorted({each.sequence.episode for each in sequences})
    count = max(1, round(LABELLED_SHARE * len(names)))
    labelled = set(np.random.default_rng(seed).permutation(names)[:count].tolist())
    actions = EpisodeActions.read([episode for episode in episodes if episode.id in labelled])
    return PairDataset(frames, [each for each in sequences if each.sequence.episode in labelled], seed, actions=actions)


class OneMoreLoss(trainer.LatentActionTrainer):
    """The library's trainer plus the term `extra_loss`, for which it keeps the pairs of a step."""

    def __init__(self, *args: Any, episodes: Sequence[Episode] = (), **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        # Pairs as the decoder and as the inverse model get them.
        self.shown: tuple[Tensor, Tensor] | None = None

    def _augment(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        self.shown = super()._augment(frames)
        return self.shown

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The recipe's loss plus the extra term."""
        loss, out = super().compute_loss(model, inputs, return_outputs=True)
        loss = loss + self.extra_loss(out)
        return (loss, out) if return_outputs else loss

    def extra_loss(self, out: Any) -> Tensor:
        """The weighted term."""
        raise NotImplementedError


class ZeroTransition(OneMoreLoss):
    """Trainer with the zero-transition term."""

    def extra_loss(self, out: Any) -> Tensor:
        """The term of frame t as the inverse model sees it."""
        assert self.shown is not None
        now, _ = self._pixel_values(self.shown[1])
        return ZERO_WEIGHT * zero_transition_loss(latents_of(self.lam, now, now), out.latents)


class FeatureTarget(OneMoreLoss):
    """Trainer with the feature target."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.teacher = frozen_teacher()  # not a part of the model: neither trained nor saved

    def extra_loss(self, out: Any) -> Tensor:
        """The term of frame t+C as the decoder must predict it."""
        assert self.shown is not None
        _, future = self._pixel_values(self.shown[0])
        return FEATURE_WEIGHT * feature_loss(self.teacher, out.reconstruction, future)


class FewLabels(OneMoreLoss):
    """Trainer with a linear head that predicts the actions of few episodes."""

    def __init__(self, *args: Any, episodes: Sequence[Episode] = (), **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        pairs = find_pairs(self.pairs.frames.sequences, self.lam.config.strides)
        training, _ = split_sequences(pairs, self.options.heldout_share, self.options.seed)  # the training's own split
        self.labelled = labelled_pairs(self.pairs.frames, training, episodes, self.options.seed)
        size = self.labelled[0]["actions"].numel()
        self.head = nn.Linear(self.lam.config.num_latents * self.lam.config.codebook_dim, size)

    def create_optimizer(self, *args: Any) -> Any:
        """The model's optimizer, with the head, which is not saved."""
        optimizer = super().create_optimizer(*args)
        optimizer.add_param_group({"params": list(self.head.parameters())})
        return optimizer

    def extra_loss(self, out: Any) -> Tensor:
        """The term of a small batch of its own, in which no pair is reversed in time."""
        first = self.state.global_step * LABELLED_BATCH  # the sequence of pairs goes on after a restart
        batch = self.labelled.__getitems__(range(first, first + LABELLED_BATCH))
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            # A reversed pair has no actions.
            pairs = augment_pairs(to_unit_range(batch["frames"]), replace(self.augmentation, reverse=0.0))
            seen = stabilize_pairs(jitter_encoder_inputs(pairs, self.augmentation), self.processor)
        latents_BND = latents_of(self.lam, *self._pixel_values(seen))
        return LABEL_WEIGHT * label_loss(self.head, latents_BND, batch["actions"], batch["action_mask"])


class Direction(OneMoreLoss):
    """Trainer on both directions of every pair, with the direction term."""

    def _pixel_values(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        now, future = super()._pixel_values(pairs)
        # One batch, of which `direction_loss` finds the halves again.
        return torch.cat([now, future]), torch.cat([future, now])

    def extra_loss(self, out: Any) -> Tensor:
        """The term of the batch's latents."""
        return DIRECTION_WEIGHT * direction_loss(out.latents)


LOSSES: dict[str, type[OneMoreLoss]] = {
    "no-flow-target": Direction,
    "first-release": Direction,
    "zero-transition": ZeroTransition,
    "feature-target": FeatureTarget,
    "few-labels": FewLabels,
}


def use(name: str, episodes: Sequence[Episode]) -> None:
    """Train with this term from here on; `episodes` are those of the training."""
    # The training looks the class up in its module.
    trainer.LatentActionTrainer = partial(LOSSES[name], episodes=episodes)  # type: ignore[misc, assignment]


def extra_gflop_per_pair(name: str, config: LatentActionConfig, batch_size: int) -> float:
    """10^9 operations that the term adds per pair of the batch, forward and backward."""
    with torch.random.fork_rng():  # the weights drawn here must not change those of the training
        model = LatentActionModel(config).train()
    now, future = torch.zeros(2, 1, 3, config.image_size, config.image_size)
    latents = torch.ones(1, config.num_latents, config.codebook_dim)
    # The direction term needs the reversed pair, which costs as much as the pair itself.
    reversed_pair: Callable[[], Tensor] = lambda: model(now, future).loss  # noqa: E731
    terms: dict[str, Callable[[], Tensor]] = {
        **dict.fromkeys(("no-flow-target", "first-release"), reversed_pair),
        "zero-transition": lambda: zero_transition_loss(latents_of(model, now, now), latents),
        # The image has a gradient, so that the backward pass through the teacher counts.
        "feature-target": lambda: feature_loss(frozen_teacher(), now.requires_grad_(), future),
        "few-labels": lambda: latents_of(model, now, future).square().sum(),
    }
    with FlopCounterMode(display=False) as counter:
        terms[name]().backward()
    share = LABELLED_BATCH / batch_size if name == "few-labels" else 1.0
    return share * counter.get_total_flops() / 1e9
