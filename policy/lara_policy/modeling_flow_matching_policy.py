"""The flow-matching policy: images, an instruction and a state to a chunk of actions (LARA Sec. 3, Table S.1).

Shape suffixes: B samples, V cameras, C steps of a chunk, A and S padded widths of actions and states, H width,
X context tokens, N latent tokens, K codes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from lara_policy.configuration_flow_matching_policy import FlowMatchingPolicyConfig
from lara_policy.context import FrameContext, KeypointStem, VisionLanguageEncoder
from lara_policy.diffusion_transformer import ContextAdapter, DiffusionTransformer
from lara_policy.distributed import process_count, sum_over_processes
from lara_policy.embodiment import ActionDecoder, ActionEncoder, Embodiment, EmbodimentLinear, StateEncoder
from lara_policy.flow_matching import FlowMatching
from lara_tokenizer.checkpoint import check_weights, read_config, read_processor
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.model.loading import load_complete

_NO_POLICY = "Give the folder `policy` of a run of lara-tok refine."


@dataclass
class FlowMatchingPolicyOutput(ModelOutput):
    """The output of `FlowMatchingPolicy.forward`.

    Attributes:
        loss: scalar, the sum of `losses`.
        losses: {"action": L_ACT of Eq. 2} if actions were given, {"codes": cross-entropy} if codes were given.
        velocity: (B, C, A), the prediction, padded and standardized; None without actions.
        hidden_states: of the action tokens after each block, L tensors (B, C, H); the LARA loss reads one of them.
        tau: (B,), the flow times of the samples.
        code_logits: (B, N, K) with code queries; else None.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    velocity: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    tau: Tensor | None = None
    code_logits: Tensor | None = None


def check_policy_folder(folder: Path) -> None:
    """Raise ValueError, naming the file, for a folder whose config, weights or processor are damaged or do not fit."""
    config = read_config(folder, FlowMatchingPolicyConfig, (FlowMatchingPolicyConfig.model_type,), _NO_POLICY)
    check_weights(folder, config, FlowMatchingPolicy)
    read_processor(folder)


class FlowMatchingPolicy(PreTrainedModel):
    """A diffusion transformer over [code queries | state | actions] with cross-attention to images and text.

    >>> policy = FlowMatchingPolicy.from_pretrained("runs/lara/policy")              # doctest: +SKIP
    >>> policy.predict({"images": {"front": frame}, "state": state, "task": "open the drawer"}, seed=0).shape
    ... # doctest: +SKIP
    (16, 7)
    """

    config: FlowMatchingPolicyConfig
    config_class = FlowMatchingPolicyConfig
    base_model_prefix = "policy"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DiffusionTransformerBlock"]  # noqa: RUF012 (transformers reads this attribute)

    def __init__(self, config: FlowMatchingPolicyConfig) -> None:
        super().__init__(config)
        slots, hidden = max(len(config.embodiments), 1), config.hidden_size
        self.context: FrameContext | None = FrameContext(config) if config.context == "frames" else None
        self.adapter = ContextAdapter(
            config.context_size, config.num_adapter_layers, config.num_adapter_heads, config.dropout
        )
        self.state_encoder = StateEncoder(slots, config.max_state_dim, config.state_hidden_size, hidden)
        self.action_encoder = ActionEncoder(slots, config.max_action_dim, hidden)
        self.action_decoder = ActionDecoder(slots, config.output_size, config.max_action_dim)
        self.positions = nn.Parameter(torch.empty(config.horizon, hidden))
        self.transformer = DiffusionTransformer(
            hidden, config.num_layers, config.num_heads, config.context_size, config.output_size, config.dropout
        )
        self.code_queries = nn.Parameter(torch.empty(config.num_codes, hidden)) if config.num_codes else None
        self.code_head = nn.Linear(config.output_size, config.codebook_size) if config.num_codes else None
        self.flow = FlowMatching(num_steps=config.num_inference_steps)
        self.processor: LatentActionProcessor | None = None
        self.embodiment: str | None = None  # the robot that `predict` acts for, if the policy has several
        self._vision_language: VisionLanguageEncoder | None = None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize one module's own tensors.

        | tensor                                                       | initial value             |
        | linear and convolution weights, tasks                        | normal, initializer_range |
        | positions, cameras, code queries                             | normal, initializer_range |
        | convolutions of the stem                                     | Kaiming normal            |
        | embodiments' weights                                         | normal, 0.02              |
        | biases                                                       | 0                         |
        | layer and group norms                                        | 1 and 0                   |
        """
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, EmbodimentLinear):
            module.reset(0)
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)) and module.weight is not None:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, KeypointStem):
            for convolution in (layer for layer in module.modules() if isinstance(layer, nn.Conv2d)):
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        elif isinstance(module, FrameContext):
            nn.init.normal_(module.cameras, std=std)
        elif isinstance(module, FlowMatchingPolicy):
            nn.init.normal_(module.positions, std=std)
            if module.code_queries is not None:
                nn.init.normal_(module.code_queries, std=std)

    @classmethod
    def from_tokenizer(
        cls, lam: LatentActionModel, processor: LatentActionProcessor, config: FlowMatchingPolicyConfig
    ) -> FlowMatchingPolicy:
        """A fresh policy whose context is a tokenizer's frozen frame features; all else is `config`'s."""
        values = config.to_dict() | {
            "context": "frames",
            "vision_config": lam.config.vision_config,
            "patch_order": lam.config.patch_order,
            "image_size": lam.config.image_size,
        }
        policy = cls(FlowMatchingPolicyConfig(**values))
        assert policy.context is not None
        policy.context.vision_encoder.load_state_dict(lam.vision_encoder.state_dict())
        policy.processor = processor
        return policy

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> FlowMatchingPolicy:
        """Load from a folder or a Hub id, with the image processor.

        Raises ValueError for another kind of model, and for files that are damaged or do not fit together.
        """
        name = pretrained_model_name_or_path
        if os.path.isdir(name):
            check_policy_folder(Path(name))
        values, _ = FlowMatchingPolicyConfig.get_config_dict(name)
        if (kind := values.get("model_type")) != FlowMatchingPolicyConfig.model_type:
            raise ValueError(f"model {str(name)!r}: its model_type is {kind!r}. {_NO_POLICY}")
        loaded = load_complete(super().from_pretrained, name, *args, **kwargs)
        policy = loaded[0] if isinstance(loaded, tuple) else loaded
        policy.processor = LatentActionProcessor.from_pretrained(name)
        policy.freeze()
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save weights, config and the image processor."""
        assert self.processor is not None
        self.processor.save_pretrained(save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)

    def freeze(self) -> None:
        """Freeze the vision encoder, which transformers 5 makes trainable when it loads it."""
        if self.context is not None:
            self.context.vision_encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> FlowMatchingPolicy:
        """Set the mode of all modules except the frozen vision encoder, which stays in evaluation mode."""
        super().train(mode)
        if self.context is not None:
            self.context.vision_encoder.eval()
        return self

    @property
    def vision_language(self) -> VisionLanguageEncoder:
        """The frozen vision-language model, loaded on first use; not part of the checkpoint."""
        if self._vision_language is None:
            self._vision_language = VisionLanguageEncoder.load(
                self.config.vision_language_model, self.config.vision_language_layer, self.config.context_size
            )
        return self._vision_language.to(self.device)

    @property
    def embodiments(self) -> dict[str, Embodiment]:
        """The robots that the policy has weights for, in the order of their indices."""
        return {values["name"]: Embodiment.from_dict(values) for values in self.config.embodiments}

    def add_embodiment(self, embodiment: Embodiment) -> None:
        """Add a robot with fresh weights; all other weights carry over (Sec. 5.4).

        A known robot of that name keeps its weights and the statistics that they were trained with.

        Raises:
            ValueError: no free slot, actions or states too wide, or widths that differ from the known robot's.
        """
        config = self.config
        embodiment.check_fits(config.max_action_dim, config.max_state_dim)
        known = self.embodiments.get(embodiment.name)
        if known is not None:
            known.check_same_as(embodiment)
            return
        if len(config.embodiments) == config.max_embodiments:
            raise ValueError(f"embodiment {embodiment.name!r}: all {config.max_embodiments} slots are taken.")
        config.embodiments = [*config.embodiments, embodiment.to_dict()]
        for module in self.modules():
            if isinstance(module, EmbodimentLinear):
                module.grow(len(config.embodiments))

    def add_tasks(self, tasks: Sequence[str]) -> None:
        """Add fresh vectors for unknown instructions; nothing to do for a policy with a vision-language model."""
        new = [task for task in dict.fromkeys(tasks) if task not in self.config.tasks]
        if self.context is None or not new:
            return
        self.config.tasks = [*self.config.tasks, *new]
        self.context.grow_tasks(len(self.config.tasks), self.config.initializer_range)

    def embodiment_index(self, name: str) -> int:
        """Index of a robot's weights. Raises ValueError, listing the known robots."""
        names = [values["name"] for values in self.config.embodiments]
        if name not in names:
            raise ValueError(f"unknown embodiment {name!r}: the policy has {', '.join(map(repr, names)) or 'none'}.")
        return names.index(name)

    def task_index(self, text: str) -> int:
        """Index of an instruction's vector. Raises ValueError, listing the known instructions."""
        if text not in self.config.tasks:
            known = ", ".join(map(repr, self.config.tasks))
            raise ValueError(
                f"unknown task {text!r}: this policy has a learned vector for each of {known}. Train it on that task, "
                "or use a policy with a vision-language model."
            )
        return self.config.tasks.index(text)

    def encode_context(
        self,
        *,
        pixel_values: Tensor | None = None,
        tasks: Tensor | None = None,
        frame_features: Tensor | None = None,
        vision_language: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Context tokens (B, X, context_size) through the trained adapter, and their mask (B, X) or None.

        Args:
            pixel_values: ("frames") (B, V, 3, S, S), normalized.
            tasks: ("frames") int64 (B,).
            frame_features: ("frames") (B, V, P, W) if already computed.
            vision_language: ("vision_language") hidden states (B, X, context_size) and mask (B, X) from
                `self.vision_language`.
        """
        if self.context is None:
            if vision_language is None:
                raise ValueError("this policy reads a vision-language model: give its hidden states and mask.")
            tokens, mask = vision_language
            return self.adapter(tokens.to(self.positions.dtype), mask), mask
        if pixel_values is None or tasks is None:
            raise ValueError("this policy sees frames: give pixel_values and tasks.")
        return self.adapter(self.context(pixel_values, tasks, frame_features)), None

    def forward(
        self,
        context: tuple[Tensor, Tensor | None],
        *,
        state: Tensor,
        embodiment: Tensor,
        actions: Tensor | None = None,
        action_mask: Tensor | None = None,
        noise: Tensor | None = None,
        tau: Tensor | None = None,
        codes: Tensor | None = None,
        code_mask: Tensor | None = None,
    ) -> FlowMatchingPolicyOutput:
        """Losses of a batch: Eq. 2, and with `codes` their cross-entropy.

        Args:
            context: from `encode_context`.
            state: (B, S), standardized and padded.
            embodiment: int64 (B,).
            actions: (B, C, A), standardized and padded. None: no action loss, and pure noise in their place.
            action_mask: bool (B, C, A), false for padding. Fully padded steps are neither trained on nor attended to.
            noise, tau: (B, C, A) and (B,); random by default.
            codes, code_mask: int64 (B, N) and bool (B,), for a policy with code queries.
        """
        batch, device = len(state), state.device
        shape = (batch, self.config.horizon, self.config.max_action_dim)
        noise = torch.randn(shape, device=device) if noise is None else noise
        if actions is None:
            tau = torch.zeros(batch, device=device) if tau is None else tau
            noisy, step_mask = noise, None
        else:
            if action_mask is None or actions.shape != shape or action_mask.shape != shape:
                raise ValueError(f"actions of shape {tuple(actions.shape)} and their mask: this policy takes {shape}.")
            # Padded dimensions must not reach the noisy actions, not even as NaN.
            actions = torch.where(action_mask, actions, 0)
            tau = self.flow.sample_time(batch, device) if tau is None else tau
            noisy, step_mask = self.flow.path(actions, noise, tau), action_mask.any(-1)
        velocity, hidden_states, logits = self._transform(context, noisy, tau, state, embodiment, step_mask)
        losses: dict[str, Tensor] = {}
        if actions is not None and action_mask is not None:
            losses["action"] = self.flow.loss(velocity, actions, noise, action_mask)
        if codes is not None:
            if logits is None:
                raise ValueError("codes given, but this policy has no code queries: build it with num_codes.")
            losses["codes"] = _code_loss(logits, codes, code_mask)
        return FlowMatchingPolicyOutput(
            loss=torch.stack(list(losses.values())).sum() if losses else None,
            losses=losses,
            velocity=None if actions is None else velocity,
            hidden_states=hidden_states,
            tau=tau,
            code_logits=logits,
        )

    def _transform(
        self,
        context: tuple[Tensor, Tensor | None],
        noisy_BCA: Tensor,
        tau_B: Tensor,
        state_BS: Tensor,
        embodiment_B: Tensor,
        step_mask_BC: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
        """Velocity (B, C, A), hidden states of the action tokens after each block, code logits (B, N, K) or None."""
        # Tokens in the order [code queries | state | actions]: both ends can be sliced off by their lengths.
        context_BXH, context_mask_BX = context
        action_BCH = self.action_encoder(noisy_BCA.to(context_BXH.dtype), tau_B, embodiment_B) + self.positions
        parts = [self.state_encoder(state_BS.to(context_BXH.dtype), embodiment_B), action_BCH]
        if self.code_queries is not None:
            parts.insert(0, self.code_queries.expand(len(state_BS), -1, -1))
        tokens_BTH = torch.cat(parts, 1)
        mask = self._token_mask(tokens_BTH.shape[1], step_mask_BC)
        outputs_BTO, hidden_states = self.transformer(tokens_BTH, tau_B, context_BXH, context_mask_BX, mask)
        chunk = self.config.horizon
        velocity_BCA = self.action_decoder(outputs_BTO[:, -chunk:], embodiment_B)
        logits = None if self.code_head is None else self.code_head(outputs_BTO[:, : self.config.num_codes])
        return velocity_BCA, tuple(hidden[:, -chunk:] for hidden in hidden_states), logits

    def _token_mask(self, tokens: int, step_mask_BC: Tensor | None) -> Tensor | None:
        """The self-attention mask: no token attends to padded steps, and code queries attend only to each other.

        So the predicted codes do not depend on actions and state, which are absent in pre-training.
        """
        codes = self.config.num_codes
        if not codes and (step_mask_BC is None or bool(step_mask_BC.all())):
            return None
        batch = 1 if step_mask_BC is None else len(step_mask_BC)
        mask = torch.ones(batch, 1, tokens, tokens, dtype=torch.bool, device=self.positions.device)
        if step_mask_BC is not None:
            mask[:, 0, :, -self.config.horizon :] = step_mask_BC[:, None]
        mask[:, :, :codes, codes:] = False
        return mask

    @torch.no_grad()
    def sample_actions(
        self, context: tuple[Tensor, Tensor | None], state: Tensor, embodiment: Tensor, noise: Tensor
    ) -> Tensor:
        """Sample chunks (B, C, A), standardized and padded, from noise of that shape by Euler steps."""

        def velocity(noisy_BCA: Tensor, tau_B: Tensor) -> Tensor:
            return self._transform(context, noisy_BCA, tau_B, state, embodiment, None)[0].float()

        return self.flow.sample(velocity, noise)

    @torch.no_grad()
    def predict(self, observation: Mapping[str, Any], *, seed: int = 0, embodiment: str | None = None) -> np.ndarray:
        """Predict a chunk of actions, float32 (C, A) in raw units; equal seeds give equal actions.

        Args:
            observation: "images": {camera: uint8 (H, W, 3)}, "state": (S,), "task": an instruction.
            seed: of the initial noise.
            embodiment: the robot's name; optional if the policy has only one.

        Raises:
            ValueError: an unknown embodiment or task, a missing camera, a state of another width or with NaN.
        """
        robot = self._robot(embodiment)
        index = torch.tensor([self.embodiment_index(robot.name)], device=self.device)
        context = self._encode_observation(observation, robot)
        state = np.asarray(observation.get("state", ()), np.float64)
        if state.shape != (robot.state_dim,) or not np.isfinite(state).all():
            raise ValueError(
                f"state of shape {state.shape}{'' if np.isfinite(state).all() else ' with NaN or infinity in it'}: "
                f"embodiment {robot.name!r} has {robot.state_dim} finite numbers. Give them as (S,)."
            )
        padded = torch.from_numpy(robot.normalize_states(state[None], self.config.max_state_dim)).to(self.device)
        shape = (1, self.config.horizon, self.config.max_action_dim)
        # Drawn on the CPU: a seed gives the same noise on every device.
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device)
        actions = self.sample_actions(context, padded, index, noise)
        return robot.unnormalize_actions(actions[0].float().cpu().numpy())

    def _robot(self, embodiment: str | None) -> Embodiment:
        robots = self.embodiments
        embodiment = embodiment or self.embodiment
        if embodiment is None:
            if len(robots) != 1:
                known = f"name one of {', '.join(robots)}" if robots else "train it on some robot's actions first"
                raise ValueError(f"this policy has {len(robots)} embodiments: {known}.")
            embodiment = next(iter(robots))
        self.embodiment_index(embodiment)
        return robots[embodiment]

    def _encode_observation(self, observation: Mapping[str, Any], robot: Embodiment) -> tuple[Tensor, Tensor | None]:
        images = observation["images"]
        if missing := [camera for camera in robot.cameras if camera not in images]:
            raise ValueError(f"no image of camera {missing[0]!r}: this policy sees {', '.join(robot.cameras)}.")
        assert self.processor is not None
        frames = self.processor.resize_frames([images[camera] for camera in robot.cameras])
        if self.context is None:
            return self.encode_context(vision_language=self.vision_language(frames[None], [observation["task"]]))
        pixels = self.processor.normalize_frames(frames.to(self.device))[None]
        tasks = torch.tensor([self.task_index(observation["task"])], device=self.device)
        return self.encode_context(pixel_values=pixels, tasks=tasks)

    # The interface of rollout.RolloutPolicy.

    @property
    def horizon(self) -> int:
        """The chunk size C, actions per predicted chunk."""
        return self.config.horizon

    @property
    def executed_steps(self) -> int:
        """Actions of a chunk executed before the next prediction."""
        return self.config.executed_steps

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras of `embodiment`, or of the only one."""
        return self._robot(None).cameras

    @property
    def image_sizes(self) -> dict[str, tuple[int, int]]:
        """(height, width) of each camera as recorded."""
        return dict(self._robot(None).image_sizes)


def parameter_counts(policy: nn.Module) -> dict[str, int]:
    """Number of trainable and frozen parameters, and of each top-level module's.

    >>> parameter_counts(nn.Linear(2, 3))
    {'trainable': 9, 'frozen': 0, 'weight': 6, 'bias': 3}
    """
    counts = {"trainable": 0, "frozen": 0}
    for name, parameter in policy.named_parameters():
        counts["trainable" if parameter.requires_grad else "frozen"] += parameter.numel()
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def _code_loss(logits_BNK: Tensor, codes_BN: Tensor, mask_B: Tensor | None) -> Tensor:
    """Mean cross-entropy over positions and over the pairs of `mask_B`; 0 if there are none."""
    if codes_BN.shape != logits_BNK.shape[:2]:
        raise ValueError(f"codes of shape {tuple(codes_BN.shape)}: this policy predicts {tuple(logits_BNK.shape[:2])}.")
    valid_B = torch.ones(len(codes_BN), dtype=torch.bool, device=codes_BN.device) if mask_B is None else mask_B
    # A masked pair's codes are -1, which cross_entropy would refuse.
    targets = torch.where(valid_B[:, None], codes_BN, 0)
    loss_BN = F.cross_entropy(logits_BNK.float().transpose(1, 2), targets, reduction="none")
    count = sum_over_processes(valid_B.sum().float()).clamp(min=1) * codes_BN.shape[1]
    return torch.where(valid_B[:, None], loss_BN, 0).sum() * process_count() / count
