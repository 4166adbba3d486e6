"""A frozen vision-language model as the policy's context: real model classes, random weights."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import tiny_vision_language
import torch
from lara_policy.context import VisionLanguageEncoder
from lara_policy.refine.setup import build_model, set_up


@pytest.fixture(scope="module", params=["smolvlm", "qwen2_vl"])
def folder(request, tmp_path_factory):
    if request.param == "smolvlm" and find_spec("num2words") is None:
        pytest.skip("transformers' SmolVLM processor needs num2words")
    return str(getattr(tiny_vision_language, request.param)(tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def joint(folder, labelled_squares, tiny_refinement, tmp_path_factory):
    policy = {"context": "vision_language", "vision_language_model": folder, "image_size": 64}
    recipe = tiny_refinement(policy=policy)
    episodes = labelled_squares(8, ("front", "side"), texts=("go", "stop now"))
    data = set_up(episodes, recipe, tmp_path_factory.mktemp("frames"))
    return build_model(data, recipe).train(), data.samples.batch(range(6))


def test_one_step_moves_the_adapter_and_not_the_model(joint):
    model, batch = joint
    out = model(**batch)
    out.loss.backward()
    eyes = model.policy.vision_language.model
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in eyes.parameters())
    assert not eyes.training
    assert model.policy.adapter.layers[0].mlp_in.weight.grad.abs().sum() > 0
    assert model.policy.adapter.norm.weight.grad.abs().sum() > 0
    assert not any(name.startswith("vision_language") for name in model.policy.state_dict())


def test_it_sees_every_camera_at_t_and_the_tokenizer_one_pair(joint):
    model, batch = joint
    assert batch["images"].shape == (6, 2, 3, 64, 64)
    assert batch["pair"].shape == (6, 2, 3, 32, 32)
    states, mask = model.policy.vision_language(batch["images"], batch["text"])
    assert states.shape[:2] == mask.shape
    one_camera, _ = model.policy.vision_language(batch["images"][:, :1], batch["text"])
    assert states.shape[1] > one_camera.shape[1]
    other = batch["images"].flip(1)
    assert not torch.allclose(states, model.policy.vision_language(other, batch["text"])[0])


def test_padding_is_masked(joint):
    model, batch = joint
    policy = model.policy.eval()
    states, mask = policy.vision_language(batch["images"], ["go", "stop now", "go", "go", "go", "go"])
    assert not mask[0].all()
    assert mask[1].all()
    wrong = torch.where(mask[..., None], states, 50.0)
    context, _ = policy.encode_context(vision_language=(states, mask))
    changed, _ = policy.encode_context(vision_language=(wrong, mask))
    assert torch.allclose(context[mask], changed[mask], atol=1e-5)
    inputs = {name: batch[name] for name in ("state", "embodiment", "actions", "action_mask", "noise")}
    tau = torch.full((6,), 0.5)
    first = policy((context, mask), **inputs, tau=tau).velocity
    assert torch.allclose(first, policy((changed, mask), **inputs, tau=tau).velocity, atol=1e-5)


def test_a_policy_saved_without_it_finds_it_again_by_name(joint, tmp_path):
    from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy

    model, batch = joint
    model.policy.eval().save_pretrained(tmp_path)
    loaded = FlowMatchingPolicy.from_pretrained(tmp_path).eval()
    frame = batch["images"][0, 0].permute(1, 2, 0).numpy()
    observation = {"images": {"front": frame, "side": frame}, "state": torch.zeros(2).numpy(), "task": "go"}
    again = model.policy.predict(observation, seed=3)
    assert np.allclose(loaded.predict(observation, seed=3), again, atol=1e-4)


def test_another_width_is_refused(folder):
    with pytest.raises(ValueError, match="hidden states of width 16, the policy was built for 2048"):
        VisionLanguageEncoder.load(folder, None, 2048)
    with pytest.raises(ValueError, match="needs vision_language_model"):
        VisionLanguageEncoder.load(None, None, 16)
