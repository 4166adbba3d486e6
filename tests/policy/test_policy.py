"""The flow-matching policy: sizes of Table S.1, masked inputs, outputs, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from labelled_squares import TINY_POLICY
from lara_policy.configuration_flow_matching_policy import FlowMatchingPolicyConfig
from lara_policy.embodiment import Embodiment
from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy, parameter_counts
from lara_policy.tap_presets import resolve_layer

from lara_tokenizer.model import LatentActionModel, LatentActionProcessor

BATCH = 3


def robot(name: str = "arm", actions: int = 3, states: int = 2) -> Embodiment:
    rng = np.random.default_rng(len(name))
    return Embodiment.measure(
        name,
        actions=rng.normal(3, 5, (50, actions)),
        states=rng.normal(-2, 4, (50, states)),
        cameras=("front",),
        image_sizes={"front": (40, 48)},
        fps=10.0,
    )


def build(tiny_checkpoint, robots=None, **changes) -> FlowMatchingPolicy:
    torch.manual_seed(0)
    config = FlowMatchingPolicyConfig(
        **{
            **TINY_POLICY,
            "tasks": ["go", "stop"],
            "embodiments": [each.to_dict() for each in robots or [robot()]],
            "initializer_range": 0.2,
            **changes,
        }
    )
    lam, processor = (kind.from_pretrained(tiny_checkpoint) for kind in (LatentActionModel, LatentActionProcessor))
    return FlowMatchingPolicy.from_tokenizer(lam, processor, config).eval()


def inputs(policy: FlowMatchingPolicy, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    config = policy.config
    shape = (BATCH, config.horizon, config.max_action_dim)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, :, :3] = True
    mask[0, 4:] = False  # an episode's end
    return {
        "state": torch.randn(BATCH, config.max_state_dim, generator=generator),
        "embodiment": torch.zeros(BATCH, dtype=torch.long),
        "actions": torch.randn(shape, generator=generator),
        "action_mask": mask,
        "noise": torch.randn(shape, generator=generator),
        "tau": torch.rand(BATCH, generator=generator),
    }


def context(policy: FlowMatchingPolicy) -> tuple[torch.Tensor, torch.Tensor | None]:
    pixels = torch.randn(BATCH, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return policy.encode_context(pixel_values=pixels, tasks=torch.tensor([0, 1, 0]))


def test_table_s1_has_the_parameters_of_the_released_policy():
    robots = [robot(f"robot{index}").to_dict() for index in range(64)]
    vision = {"model_type": "vit_mae", "hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 1}
    with torch.device("meta"):
        counts = parameter_counts(
            FlowMatchingPolicy(FlowMatchingPolicyConfig(embodiments=robots, vision_config=vision))
        )
    millions = {part: round(counts[part] / 1e6, 1) for part in counts}
    assert millions["transformer"] == 550.4
    assert millions["action_encoder"] == 456.4
    assert millions["state_encoder"] == 105.0
    assert millions["action_decoder"] == 69.3
    assert millions["adapter"] == 201.4


def test_only_embodiments_in_use_have_weights(tiny_checkpoint):
    one, two = build(tiny_checkpoint), build(tiny_checkpoint, (robot(), robot("hand")))
    parts = ("state_encoder", "action_encoder", "action_decoder")
    assert [parameter_counts(two)[part] for part in parts] == [2 * parameter_counts(one)[part] for part in parts]
    assert parameter_counts(two)["transformer"] == parameter_counts(one)["transformer"]


def test_the_default_tap_is_the_fourteenth_of_sixteen_blocks(tiny_checkpoint):
    policy = build(tiny_checkpoint, num_layers=16)
    layer = resolve_layer("L-2", policy.config.num_layers)
    assert layer == 14
    given, seen = inputs(policy), context(policy)
    out = policy(seen, **given)
    # The same by hand, up to that block: [state | actions], cross-attention first.
    actions = torch.where(given["action_mask"], given["actions"], 0)
    noisy = policy.flow.path(actions, given["noise"], given["tau"])
    tokens = torch.cat(
        [
            policy.state_encoder(given["state"], given["embodiment"]),
            policy.action_encoder(noisy, given["tau"], given["embodiment"]) + policy.positions,
        ],
        1,
    )
    transformer = policy.transformer
    from lara_policy.flow_matching import sinusoid

    time = transformer.time_out(torch.nn.functional.silu(transformer.time_in(sinusoid(given["tau"], 256))))
    looks = torch.ones(BATCH, 1, 1, tokens.shape[1], dtype=torch.bool)
    looks[0, :, :, 5:] = False
    for index, block in enumerate(transformer.blocks[:14]):
        assert block.is_cross == (index % 2 == 0)
        normed = block.norm_attention(tokens, time)
        attended = block.attention(normed, seen[0]) if block.is_cross else block.attention(normed, normed, looks)
        tokens = tokens + attended
        inner = torch.nn.functional.gelu(block.mlp_in(block.norm_mlp(tokens)), approximate="tanh")
        tokens = tokens + block.mlp_out(inner)
    assert torch.allclose(out.hidden_states[layer - 1], tokens[:, 1:], atol=1e-5)


def test_padded_actions_change_nothing(tiny_checkpoint):
    policy = build(tiny_checkpoint)
    given = inputs(policy)
    changed = {**given, "actions": torch.where(given["action_mask"], given["actions"], float("nan"))}
    first, second = policy(context(policy), **given), policy(context(policy), **changed)
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.hidden_states[1], second.hidden_states[1])


def test_no_token_attends_to_steps_past_the_end(tiny_checkpoint):
    policy = build(tiny_checkpoint)
    given = inputs(policy)
    other = given["noise"].clone()
    other[0, 4:] = 9.0
    first, second = policy(context(policy), **given), policy(context(policy), **{**given, "noise": other})
    assert torch.allclose(first.hidden_states[-1][0, :4], second.hidden_states[-1][0, :4], atol=1e-6)
    assert torch.allclose(first.loss, second.loss)


def test_frozen_features_take_no_gradient_and_given_ones_are_the_same(tiny_checkpoint):
    policy = build(tiny_checkpoint, keypoint_stem=True).train()
    pixels, tasks = torch.randn(BATCH, 1, 3, 32, 32), torch.tensor([0, 1, 0])
    features = policy.context.features(pixels.flatten(0, 1)).unflatten(0, (BATCH, 1))
    seen = policy.encode_context(pixel_values=pixels, tasks=tasks)
    assert torch.equal(seen[0], policy.encode_context(pixel_values=pixels, tasks=tasks, frame_features=features)[0])
    policy(seen, **inputs(policy)).loss.backward()
    assert all(parameter.grad is None for parameter in policy.context.vision_encoder.parameters())
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    assert all(policy.get_parameter(name).grad is not None for name in trained)
    assert not policy.context.vision_encoder.training


def test_gradient_checkpointing_changes_no_number(tiny_checkpoint):
    losses = []
    for checkpointing in (False, True):
        policy = build(tiny_checkpoint, dropout=0.3).train()
        if checkpointing:
            policy.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(3)
        loss = policy(context(policy), **inputs(policy)).loss
        loss.backward()
        losses.append((loss.item(), policy.transformer.blocks[0].mlp_in.weight.grad.clone()))
    assert losses[0][0] == losses[1][0]
    assert torch.equal(losses[0][1], losses[1][1])


def test_predict_is_in_raw_units_and_decided_by_the_seed(tiny_checkpoint):
    policy = build(tiny_checkpoint)
    observation = {"images": {"front": np.zeros((40, 48, 3), np.uint8)}, "state": np.ones(2), "task": "go"}
    actions = policy.predict(observation, seed=5)
    assert actions.shape == (6, 3)
    assert np.array_equal(actions, policy.predict(observation, seed=5))
    assert not np.array_equal(actions, policy.predict(observation, seed=6))
    # With a velocity of 0 what comes out is the noise, in the robot's own units.
    torch.nn.init.zeros_(policy.action_decoder.output.weight)
    torch.nn.init.zeros_(policy.action_decoder.output.bias)
    noise = torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(5))[0, :, :3].numpy()
    arm = policy.embodiments["arm"]
    assert np.allclose(policy.predict(observation, seed=5), noise * arm.action_std + arm.action_mean, atol=1e-5)


def test_a_saved_policy_predicts_the_same(tiny_checkpoint, tmp_path):
    policy = build(tiny_checkpoint, keypoint_stem=True)
    policy.save_pretrained(tmp_path)
    loaded = FlowMatchingPolicy.from_pretrained(tmp_path).eval()
    observation = {"images": {"front": np.zeros((40, 48, 3), np.uint8)}, "state": np.ones(2), "task": "stop"}
    assert np.array_equal(policy.predict(observation, seed=1), loaded.predict(observation, seed=1))
    assert loaded.embodiments == policy.embodiments
    assert (loaded.cameras, loaded.image_sizes) == (("front",), {"front": (40, 48)})
    assert not any(parameter.requires_grad for parameter in loaded.context.vision_encoder.parameters())


def test_a_new_embodiment_and_task_start_fresh_and_leave_the_rest_alone(tiny_checkpoint):
    policy = build(tiny_checkpoint)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    given, seen = inputs(policy), context(policy)
    old = policy(seen, **given).velocity
    policy.add_embodiment(robot("hand", actions=5))
    policy.add_tasks(["go", "turn"])
    assert torch.equal(policy(context(policy), **given).velocity, old)
    for name, value in policy.state_dict().items():
        assert torch.equal(value[: len(before[name])], before[name]), name
    assert policy.embodiment_index("hand") == 1
    assert policy.config.tasks == ["go", "stop", "turn"]
    assert policy(context(policy), **{**given, "embodiment": torch.ones(BATCH, dtype=torch.long)}).loss.isfinite()


def test_code_queries_see_neither_actions_nor_state(tiny_checkpoint):
    policy = build(tiny_checkpoint, num_codes=4, codebook_size=16)
    given, seen = inputs(policy), context(policy)
    codes, mask = torch.randint(0, 16, (BATCH, 4)), torch.tensor([True, True, False])
    codes[2] = -1
    out = policy(seen, **given, codes=codes, code_mask=mask)
    logits = out.code_logits
    expected = torch.nn.functional.cross_entropy(logits[:2].flatten(0, 1), codes[:2].flatten())
    assert torch.allclose(out.losses["codes"], expected)
    other = inputs(policy, seed=9) | {"tau": given["tau"]}
    assert torch.allclose(policy(seen, **other).code_logits, logits, atol=1e-6)
    assert torch.allclose(out.loss, out.losses["action"] + out.losses["codes"])


def test_a_tokenizer_is_no_policy(tiny_checkpoint):
    with pytest.raises(ValueError, match="its model_type is 'latent_action'"):
        FlowMatchingPolicy.from_pretrained(tiny_checkpoint)


def test_what_does_not_fit_is_named(tiny_checkpoint):
    policy = build(tiny_checkpoint, max_embodiments=2)
    with pytest.raises(ValueError, match="unknown embodiment 'leg': the policy has 'arm'"):
        policy.embodiment_index("leg")
    with pytest.raises(ValueError, match="unknown task 'fly'"):
        policy.task_index("fly")
    with pytest.raises(ValueError, match="actions of 6 numbers, the policy takes up to 5"):
        policy.add_embodiment(robot("wide", actions=6))
    policy.add_embodiment(robot("hand"))
    with pytest.raises(ValueError, match="all 2 slots are taken"):
        policy.add_embodiment(robot("leg"))
    image = np.zeros((40, 48, 3), np.uint8)
    with pytest.raises(ValueError, match="name one of arm, hand"):
        policy.predict({"images": {"front": image}, "state": np.ones(2), "task": "go"})
    with pytest.raises(ValueError, match="no image of camera 'front'"):
        policy.predict({"images": {"back": image}, "state": np.ones(2), "task": "go"}, embodiment="arm")
    with pytest.raises(ValueError, match=r"state of shape \(3,\): embodiment 'arm' has 2 finite numbers"):
        policy.predict({"images": {"front": image}, "state": np.ones(3), "task": "go"}, embodiment="arm")
    with pytest.raises(ValueError, match="NaN or infinite"):
        Embodiment.measure("a", actions=np.full((3, 2), np.nan), states=None, cameras=(), image_sizes={}, fps=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, r"num_heads \(3\) must divide"),
        ({"executed_steps": 7}, "takes 1 to horizon"),
        ({"context": "sound"}, "takes one of frames, vision_language"),
        ({"horizon": 0}, "takes 1 to 1,048,576"),
    ],
)
def test_a_config_is_checked_at_birth(changes, message):
    with pytest.raises(ValueError, match=message):
        FlowMatchingPolicyConfig(**{**TINY_POLICY, **changes})


def test_layers_are_named_from_either_end():
    assert [resolve_layer(layer, 16) for layer in (1, "3", "L", "L-2", "L-15")] == [1, 3, 16, 14, 1]
    for wrong in (0, 17, "L-16", "last", "L+1"):
        with pytest.raises(ValueError, match="layer"):
            resolve_layer(wrong, 16)


ROBOT = {"name": "arm", "cameras": ["front"], "image_sizes": {"front": [32, 32]}, "fps": 10.0}
ROBOT |= {"action_mean": [0.0], "action_std": [1.0], "state_mean": [], "state_std": []}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hidden_size": "16"}, "hidden_size is '16'; it takes a whole number"),
        ({"hidden_size": 10**9}, "hidden_size 1000000000: takes 1 to 1,048,576"),
        ({"num_heads": 0}, "num_heads 0: takes 1 to"),
        ({"dropout": float("nan")}, "dropout is nan; it takes a finite number"),
        ({"tasks": [1]}, "tasks: takes a list of texts"),
        ({"vision_config": {"model_type": "nosuch"}}, "vision_config .* cannot be used"),
        ({"embodiments": [{"name": "arm"}]}, "an embodiment is {'name': 'arm'}; it has action_mean"),
        ({"embodiments": [{**ROBOT, "cameras": 5}]}, "embodiment 'arm': cameras is 5"),
        ({"embodiments": [{**ROBOT, "image_sizes": {"front": [0, 32]}}]}, "embodiment 'arm': image_sizes is"),
        ({"embodiments": [{**ROBOT, "fps": float("inf")}]}, "embodiment 'arm': fps is inf"),
        ({"embodiments": [{**ROBOT, "action_mean": "abc"}]}, "embodiment 'arm': action_mean is 'abc'"),
        ({"embodiments": [{**ROBOT, "action_std": [0.0]}]}, "action_std needs a positive number per mean"),
        ({"embodiments": [{**ROBOT, "action_std": [1.0, 1.0]}]}, "action_std needs a positive number per mean"),
    ],
)
def test_a_policy_s_config_that_cannot_be_names_the_field(changes, match):
    sizes = {"hidden_size": 16, "num_heads": 2, "context_size": 16, "num_adapter_heads": 2}
    with pytest.raises(ValueError, match=match):
        FlowMatchingPolicyConfig(**{**sizes, **changes})
    assert FlowMatchingPolicyConfig(**sizes, embodiments=[ROBOT]).embodiments == [ROBOT]
