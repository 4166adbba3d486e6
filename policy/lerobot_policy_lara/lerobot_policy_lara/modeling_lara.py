"""A LeRobot policy that wraps another one and adds the LARA loss to its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lara_policy.attach import LaraAttachment, attach_lara
from lerobot.policies.factory import get_policy_class
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from lara_tokenizer.model import LatentActionConfig, LatentActionModel, LatentActionProcessor
from lerobot_policy_lara.configuration_lara import PRESET_OF_TYPE, LARAConfig
from lerobot_policy_lara.processor_lara import FRAME, FUTURE_FRAME, FUTURE_IS_PAD


class LARAPolicy(PreTrainedPolicy):
    """A base policy with tokenizer and projector (`lara`), trained by L_base + w1 L_LARA + w2 L_LAM (Eq. 7).

    Inference is the base's.
    """

    config_class = LARAConfig
    name = "lara"
    config: LARAConfig

    def __init__(self, config: LARAConfig, **kwargs: Any) -> None:
        super().__init__(config)
        config.validate_features()
        self.base = self._make_base(config, **kwargs)
        self.lara = self._attach(config)
        # A buffer, so that a resumed run continues to count.
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        config.remember(self.lara.lam.config.to_dict(), self.lara.processor.to_dict())

    def forward(self, batch: dict[str, Any], reduction: str = "mean") -> tuple[Tensor, dict[str, Any]]:
        """The loss of Eq. 7, and the base's log extended by loss_action, loss_lara, loss_lam and the monitors.

        Raises ValueError for a batch that did not pass this policy's pre-processor.
        """
        batch = dict(batch)
        if FRAME not in batch:
            raise ValueError(
                f"the batch has no {FRAME!r}: it has to come from the pre-processor of policy type 'lara' "
                "(make_lara_pre_post_processors), which removes the future frame from the observations."
            )
        frame, future_frame, is_pad = (batch.pop(name) for name in (FRAME, FUTURE_FRAME, FUTURE_IS_PAD))
        keywords = {} if reduction == "mean" else {"reduction": reduction}
        with self.lara.capture():
            loss, logs = self.base.forward(batch, **keywords)
        # Reading the counter synchronizes with the device: only if it is used.
        step = int(self.steps) if self.lara.options.stop_step is not None else None
        added = self.lara(frame, future_frame, valid=~is_pad, step=step)
        logs = {**(logs or {}), "loss_action": loss.mean().item()}
        logs |= {f"loss_{name}": value.item() for name, value in self.lara.losses.items() if name in ("lara", "lam")}
        logs |= {name: value.item() for name, value in self.lara.monitors.items()}
        return loss + added, logs

    def update(self) -> None:
        """Count a step; LeRobot calls this after each optimizer step."""
        self.steps += 1
        if hasattr(self.base, "update"):
            self.base.update()

    def get_optim_params(self) -> Any:
        """The base's parameter groups, in the form that its optimizer takes, and one for tokenizer and projector."""
        params, own = self.base.get_optim_params(), self.lara.trainable_parameters()
        if isinstance(
            params, dict
        ):  # by name, from which the base derives learning rates; ours match none of its rules
            return {**params, **{f"lara.{index}": parameter for index, parameter in enumerate(own)}}
        groups = list(params)
        if not groups or not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        group: dict[str, Any] = {"params": own}
        if self.config.tokenizer_lr is not None:
            group["lr"] = self.config.tokenizer_lr
        return [*groups, group]

    def reset(self) -> None:
        self.base.reset()

    def select_action(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        return self.base.select_action(batch, **kwargs)

    def predict_action_chunk(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        return self.base.predict_action_chunk(batch, **kwargs)

    def supports_rtc(self) -> bool:
        return self.base.supports_rtc()

    def save_base(self, folder: str | Path) -> None:
        """Write the base as a checkpoint of its own type."""
        self.base.config.pretrained_path = None
        self.base.save_pretrained(folder)

    @staticmethod
    def _make_base(config: LARAConfig, **kwargs: Any) -> PreTrainedPolicy:
        policy_class = get_policy_class(config.base.type)
        if config.base_path is not None and not config.built:
            return policy_class.from_pretrained(config.base_path, config=config.base, **kwargs)
        return policy_class(config.base, **kwargs)

    def _attach(self, config: LARAConfig) -> LaraAttachment:
        tokenizer: str | LatentActionModel = config.tokenizer
        processor = None
        if config.built:
            tokenizer = LatentActionModel(LatentActionConfig.from_dict(config.tokenizer_config))
            processor = LatentActionProcessor.from_dict(config.processor_config)
        return attach_lara(
            self.base,
            tokenizer,
            tap=config.tap or PRESET_OF_TYPE.get(config.base.type, config.base.type),
            layer=config.layer,
            keep=config.pair_tokens(),
            mode=config.mode,
            processor=processor,
            options=config.alignment,
        )
