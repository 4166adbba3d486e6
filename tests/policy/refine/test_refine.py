"""Joint training: gradients of each mode, the files of a run, resuming, collapse."""

from __future__ import annotations

import json
import logging
import sys

import numpy as np
import pytest
import torch
from lara_policy.alignment import AlignmentOptions
from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy
from lara_policy.refine import RefineOptions, RefineRecipe, refine
from lara_policy.refine.loading import LoadedBatch
from lara_policy.refine.model import LaraModel
from lara_policy.refine.monitor import JointCollapseError, JointCollapseMonitor, JointMonitor
from lara_policy.refine.setup import build_model, set_up
from lara_policy.refine.trainer import LaraTrainer, training_arguments
from safetensors.torch import load_file

from lara_tokenizer.model import LatentActionModel, LatentActionProcessor

BATCH = 8


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Bits are compared here, and threads may add the same numbers in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def a_check_at_every_log():
    """With batches as small as here, checks would be rarer than logs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lara_tokenizer.train.watch.monitor.CHECK_SHARE", 10.0)
        yield


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return tmp_path_factory.mktemp("frames")


@pytest.fixture(scope="module")
def joint(labelled_squares, tiny_refinement, frames):
    """joint(mode="joint", training={...}, policy={...}, alignment={...}) -> a fresh model and a batch for it."""

    def make(mode: str = "joint", training=None, policy=None, cameras=("front",), **alignment):
        torch.manual_seed(0)
        unlabeled = ["videos/"] if "align_unlabeled" in alignment else []
        recipe = tiny_refinement(training, policy, mode=mode, alignment=alignment, unlabeled=unlabeled)
        data = set_up(labelled_squares(8, cameras), recipe, frames / "-".join(cameras))
        return build_model(data, recipe).train(), data.samples.batch(range(BATCH)), data

    return make


def lam_gradients(model: LaraModel, batch: dict) -> list[torch.Tensor | None]:
    model.zero_grad()
    model(**batch).loss.backward()
    return [parameter.grad for parameter in model.lam.parameters()]


def test_samples_are_what_was_recorded(joint, labelled_squares):
    model, batch, data = joint(training={"shift": 0})
    episodes = {episode.id: episode for episode in labelled_squares(8)}
    draws = data.samples.mixture.draw(range(BATCH))
    policy, processor = model.policy, model.processor
    arm = policy.embodiments["robot"]
    seen_end = False
    for row in range(BATCH):
        name = data.demonstrations[draws.sequence[row]].episode
        reader, now = episodes[name].reader, draws.now[row]
        assert torch.equal(batch["images"][row], processor.resize_frames(reader.frames("front", [now])))
        there = now + data.stride_frames < len(reader.actions)
        assert batch["pair_mask"][row] == there
        if there:
            later = processor.resize_frames(reader.frames("front", [now + data.stride_frames]))
            assert torch.equal(batch["pair"][row, 1], later[0])
        chunk = reader.actions[now : now + 6]
        assert batch["action_mask"][row].sum() == chunk.size
        restored = arm.unnormalize_actions(batch["actions"][row].numpy())[: len(chunk)]
        assert np.allclose(restored, chunk, atol=1e-5)
        assert (batch["actions"][row, len(chunk) :] == 0).all()
        seen_end |= len(chunk) < 6
    assert seen_end


def test_without_alignment_the_tokenizer_feels_nothing_of_the_policy(joint):
    grads = {}
    for name, options in {
        "w1 = 0": {"w1": 0.0},
        "one-way": {"latent_gradient_scale": 0.0},
        "paper": {},
    }.items():
        model, batch, _ = joint(**options)
        grads[name] = lam_gradients(model, batch)
    lam_only, batch, _ = joint()
    now, future = lam_only._pixel_values(batch["pair"])
    (lam_only.options.w2 * lam_only.lam(now, future, pair_mask=batch["pair_mask"]).loss).backward()
    expected = [parameter.grad for parameter in lam_only.lam.parameters()]
    for name in ("w1 = 0", "one-way"):
        for own, other in zip(grads[name], expected, strict=True):
            assert (own is None and other is None) or torch.equal(own, other), name
    assert any(
        other is not None and not torch.equal(own, other) for own, other in zip(grads["paper"], expected, strict=True)
    )


def moved(model: LaraModel, batch: dict) -> dict[str, bool]:
    """Parts of the model, and whether each gets a gradient that is not 0."""
    model.zero_grad()
    model(**batch).loss.backward()
    has_gradient: dict[str, bool] = {}
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[: 2 if name.startswith(("lam", "policy.context")) else 1])
        has = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        has_gradient[part] = has_gradient.get(part, False) or has
    return has_gradient


def parts(policy: bool, encoder: bool, decoder: bool, codebook: bool) -> dict[str, bool]:
    """The result of `moved` with a trained projector."""
    return {
        "policy": policy,
        "policy.context": policy,
        "alignment": True,
        "lam.vision_encoder": False,
        "lam.inverse_dynamics": encoder,
        "lam.bottleneck": codebook,
        "lam.forward_dynamics": decoder,
    }


def test_each_mode_moves_exactly_its_parts(joint):
    for mode, weights, expected in (
        ("joint", {}, parts(policy=True, encoder=True, decoder=True, codebook=True)),
        ("joint", {"w2": 0.0}, parts(policy=True, encoder=True, decoder=False, codebook=False)),
        ("frozen-lam", {}, parts(policy=True, encoder=False, decoder=False, codebook=False)),
        ("frozen-policy", {}, parts(policy=False, encoder=True, decoder=True, codebook=True)),
    ):
        model, batch, _ = joint(mode=mode, **weights)
        assert moved(model, batch) == expected, (mode, weights)
    model, batch, _ = joint(mode="dit-only")
    assert moved(model, batch) == {"policy": True, "policy.context": True}
    assert "pair" not in batch
    model, batch, _ = joint(detach_hidden=True, w2=0.0)
    policy_only, plain, _ = joint(mode="dit-only")
    model.zero_grad()
    model(**batch).loss.backward()
    policy_only(**plain).loss.backward()
    for (name, own), other in zip(model.policy.named_parameters(), policy_only.policy.parameters(), strict=True):
        assert (own.grad is None and other.grad is None) or torch.equal(own.grad, other.grad), name


def count_calls(module: torch.nn.Module) -> list[int]:
    """Number of rows of each call of a module."""
    calls: list[int] = []
    module.register_forward_hook(
        lambda _, args, kwargs, out: calls.append(len((args or tuple(kwargs.values()))[0])), with_kwargs=True
    )
    return calls


def test_the_frozen_encoder_sees_each_frame_once_and_the_decoder_runs_only_if_weighted(joint):
    model, batch, _ = joint()
    assert model.shares_encoder
    own, policys = count_calls(model.lam.vision_encoder), count_calls(model.policy.context.vision_encoder)
    decoder = count_calls(model.lam.forward_dynamics)
    model(**batch)
    assert sum(own) + sum(policys) == 2 * BATCH  # frame t and frame t + C
    assert decoder == [BATCH]
    model, batch, _ = joint(w2=0.0)
    decoder = count_calls(model.lam.forward_dynamics)
    model(**batch)
    assert decoder == []
    model, batch, _ = joint(cameras=("front", "side"))
    own, policys = count_calls(model.lam.vision_encoder), count_calls(model.policy.context.vision_encoder)
    model(**batch)
    assert sum(own) + sum(policys) == 3 * BATCH  # and the other camera at t


def test_features_that_are_shared_are_those_that_would_be_computed(joint):
    losses = []
    for shares in (True, False):
        model, batch, _ = joint(training={"shift": 2})
        model.shares_encoder = shares
        losses.append(model(**batch).loss)
    assert torch.allclose(*losses)


def test_a_shift_moves_a_samples_frames_together(joint):
    model, batch, _ = joint(training={"shift": 3})
    images, pair = model._augment(batch)
    assert torch.equal(images[:, 0], pair[:, 0])
    assert not torch.equal(images, batch["images"])
    assert batch["shift"].abs().max() <= 3


def test_pairs_without_a_later_frame_change_nothing(joint):
    model, batch, _ = joint()
    assert not batch["pair_mask"].all()
    changed = batch["pair"].clone()
    changed[~batch["pair_mask"], 1] = 255
    first, second = model(**batch).losses, model(**{**batch, "pair": changed}).losses
    assert torch.allclose(first["alignment"], second["alignment"])
    assert torch.allclose(first["lam"], second["lam"])


@pytest.fixture(scope="module")
def run(tmp_path_factory, labelled_squares, tiny_refinement, frames):
    out = tmp_path_factory.mktemp("run")
    summary = refine(
        labelled_squares(10),
        tiny_refinement({"save_steps": 10, "gradient_cosine": True}),
        out=out,
        frames=frames / "run",
    )
    return out, summary


def test_a_run_leaves_a_policy_and_a_tokenizer_that_load_like_any_other(run):
    out, summary = run
    policy = FlowMatchingPolicy.from_pretrained(out / "policy").eval()
    lam = LatentActionModel.from_pretrained(out / "tokenizer").eval()
    processor = LatentActionProcessor.from_pretrained(out / "tokenizer")
    image = np.zeros((32, 32, 3), np.uint8)
    assert policy.predict({"images": {"front": image}, "state": np.zeros(2), "task": "go"}).shape == (6, 3)
    assert lam.encode(**processor(image, image)).codes.shape == (1, 4)
    refined = json.loads((out / "tokenizer" / "refined_by.json").read_text(encoding="utf-8"))
    assert refined["steps"] == summary["steps"] == 40
    assert list(refined["refined_from"]["weights_sha256"]) == ["model.safetensors"]
    assert RefineRecipe.parse(refined["recipe"]).mode == "joint"
    log = json.loads((out / "training_log.json").read_text(encoding="utf-8"))
    assert log["summary"]["episodes"] == 8


def test_every_part_of_the_loss_and_every_monitor_is_logged(run):
    text = (run[0] / "training_log.jsonl").read_text(encoding="utf-8")
    lines = [line for line in map(json.loads, text.splitlines()) if "loss" in line]
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    named = ("train_action", "train_alignment", "train_lam", "heldout_spread", "heldout_effective_rank")
    named += ("heldout_perplexity", "heldout_gain_over_copying", "heldout_mean_cosine", "heldout_gradient_cosine")
    assert all(name in line for name in (*named, "heldout_alignment_centered_cosine") for line in lines)
    assert run[1]["heldout_action"] < run[1]["start"]["action"]


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, labelled_squares, tiny_refinement, frames, run):
    recipe = tiny_refinement({"save_steps": 10, "gradient_cosine": True})

    def kill(phase, done, total, logs):
        if phase == "steps" and done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refine(labelled_squares(10), recipe, out=tmp_path, frames=frames / "run", progress=kill)
    with pytest.raises(ValueError, match="--resume"):
        refine(labelled_squares(10), recipe, out=tmp_path, frames=frames / "run")
    refine(labelled_squares(10), recipe, out=tmp_path, frames=frames / "run", resume=True)
    for part, load in (("policy", FlowMatchingPolicy), ("tokenizer", LatentActionModel)):
        whole, resumed = (load.from_pretrained(folder / part).state_dict() for folder in (run[0], tmp_path))
        assert all(torch.equal(value, resumed[name]) for name, value in whole.items()), part


def test_stage_3_adds_a_robot_and_a_task_and_keeps_all_else(tmp_path, labelled_squares, tiny_refinement, run, caplog):
    other = labelled_squares(6, dataset="hand", texts=("stop",), width=5)
    stage_2 = run[0] / "policy"
    standing_still = tiny_refinement({"steps": 1, "learning_rate": 0.0})
    with caplog.at_level(logging.WARNING):
        refine(other, standing_still, out=tmp_path / "out", policy=stage_2, frames=tmp_path / "f")
    assert "robot 'hand' is new to the policy and starts with fresh weights; the policy has 'robot'" in caplog.text
    policy = FlowMatchingPolicy.from_pretrained(tmp_path / "out" / "policy")
    assert list(policy.embodiments) == ["robot", "hand"]
    assert policy.embodiments["hand"].action_dim == 5
    assert policy.config.tasks == ["go", "stop"]
    before = FlowMatchingPolicy.from_pretrained(stage_2).state_dict()
    for name, value in policy.state_dict().items():
        assert torch.equal(value[: len(before[name])], before[name]), name
    for name, value in load_file(tmp_path / "out" / "policy" / "alignment.safetensors").items():
        assert torch.equal(value, load_file(stage_2 / "alignment.safetensors")[name]), name
    image = np.zeros((32, 32, 3), np.uint8)
    observation = {"images": {"front": image}, "state": np.zeros(2), "task": "stop"}
    assert policy.eval().predict(observation, embodiment="hand").shape == (6, 5)
    policy.embodiment = "robot"  # what a roll-out does
    assert policy.predict(observation).shape == (6, 3)
    assert policy.cameras == ("front",)


def test_a_resumed_run_remembers_that_the_tokenizer_was_not_ready(
    tmp_path, labelled_squares, tiny_refinement, frames, monkeypatch
):
    from lara_policy.refine import trainer

    ready = iter([False, True, True, True])  # at the start, then at each log
    module = sys.modules["lara_policy.refine.refine"]  # the package's name for it is the function
    monkeypatch.setattr(module, "is_ready", lambda *_: False)
    monkeypatch.setattr(trainer, "is_ready", lambda *_: next(ready))
    seen: list[bool] = []

    def kill(phase, done, total, logs):
        if phase == "steps" and done == 30:
            raise KeyboardInterrupt

    recipe = tiny_refinement({"save_steps": 25})
    with pytest.raises(KeyboardInterrupt):
        refine(labelled_squares(8), recipe, out=tmp_path, frames=frames / "ready", progress=kill)
    state = json.loads((tmp_path / "checkpoints" / "checkpoint-25" / "refine_state.json").read_text(encoding="utf-8"))
    assert state["detach_latents"] is False
    original = LaraModel.forward

    def watching(self, **batch):
        if self.training:
            seen.append(self.detach_latents)
        return original(self, **batch)

    monkeypatch.setattr(LaraModel, "forward", watching)
    refine(labelled_squares(8), recipe, out=tmp_path, frames=frames / "ready", resume=True)
    assert seen == [False] * 15


def test_two_datasets_with_cameras_of_other_names(tmp_path, labelled_squares, tiny_refinement):
    one = labelled_squares(4, ("front", "side"), dataset="a")
    two = labelled_squares(4, ("wrist", "top"), dataset="b")
    data = set_up([*one, *two], tiny_refinement(), tmp_path / "both")
    assert [robot.cameras for robot in data.policy.embodiments.values()] == [("front", "side"), ("wrist", "top")]
    assert data.samples.batch(range(4))["images"].shape[1] == 2
    with pytest.raises(ValueError, match="unequal numbers of cameras"):
        set_up([*one, *labelled_squares(4, dataset="c")], tiny_refinement(), tmp_path / "unequal")
    swapped = set_up(one, tiny_refinement(lam_camera="side"), tmp_path / "swapped")
    assert swapped.policy.embodiments["a"].cameras == ("side", "front")


def test_a_policy_that_sees_other_pixels_than_the_tokenizer_is_warned_of(
    tmp_path, labelled_squares, tiny_refinement, run, caplog
):
    import shutil

    shutil.copytree(run[0] / "policy", tmp_path / "policy")
    described = tmp_path / "policy" / "preprocessor_config.json"
    values = json.loads(described.read_text(encoding="utf-8")) | {"image_mean": [0.0, 0.0, 0.0]}
    described.write_text(json.dumps(values), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        data = set_up(labelled_squares(8), tiny_refinement(), tmp_path / "f", policy_from=tmp_path / "policy")
    assert "processor mismatch: image_mean of the policy [0.0, 0.0, 0.0], of the tokenizer [0.485" in caplog.text
    model = build_model(data, tiny_refinement())
    assert not model.shares_encoder


def test_unlabeled_video_enters_both_losses(tmp_path, labelled_squares, tiny_refinement, joint):
    model, batch, _ = joint(training={"unlabeled_batch": 4}, align_unlabeled=1.0)
    pair = batch["pair"][batch["pair_mask"]].flip(1)  # other pairs than the labelled ones
    extra = {"unlabeled": pair, "unlabeled_task": torch.zeros(len(pair), dtype=torch.long)}
    with_extra, without = model(**batch, **extra), model(**batch)
    assert with_extra.losses["alignment_unlabeled"] > 0
    assert not torch.equal(with_extra.losses["lam"], without.losses["lam"])
    weights = model.options
    expected = (
        with_extra.losses["action"]
        + weights.w1 * (with_extra.losses["alignment"] + with_extra.losses["alignment_unlabeled"])
        + weights.w2 * with_extra.losses["lam"]
    )
    assert torch.allclose(with_extra.loss, expected)
    share = len(pair) / (len(pair) + batch["pair_mask"].sum())
    now, future = model._pixel_values(pair)
    lam_only = model.lam(now, future).loss
    assert torch.allclose(with_extra.losses["lam"], (1 - share) * without.losses["lam"] + share * lam_only, atol=1e-6)


def test_what_loaders_prepare_is_what_the_model_would_make_itself(joint):
    model, _, data = joint(training={"shift": 3})
    model.processor.steady_pairs = True
    model.shift = 3
    try:
        own = data.samples.batch(range(BATCH))
        prepare = LoadedBatch(BATCH, 3, model.processor, None)
        loaded = prepare(dict(own), np.arange(BATCH))
        assert "shift" not in loaded
        images, pair = model._augment(own)
        assert torch.equal(loaded["images"], images)
        assert not torch.equal(images, own["images"])
        for made, expected in zip(
            model._pixel_values(loaded["pair"], steady=True), model._pixel_values(pair), strict=True
        ):
            assert torch.equal(made, expected)
        torch.manual_seed(0)
        expected_loss = model(**own).loss
        torch.manual_seed(0)
        assert torch.equal(model(**loaded).loss, expected_loss)
    finally:
        model.processor.steady_pairs = False


def test_the_unlabeled_pairs_of_a_batch_are_those_of_its_number(joint):
    _, batch, _ = joint()
    prepare = LoadedBatch(BATCH, 0, None, lambda number: {"unlabeled": number})
    assert [prepare(batch, BATCH * k + np.arange(BATCH))["unlabeled"] for k in (0, 1, 7)] == [0, 1, 7]


def test_the_optimizer_has_two_rates_and_decays_matrices_only(joint, tmp_path):
    model, _, data = joint(training={"lam_learning_rate": 5e-4, "weight_decay": 0.1})
    options = RefineOptions(learning_rate=1e-3, lam_learning_rate=5e-4, weight_decay=0.1)
    arguments = training_arguments(options, tmp_path)
    monitor = JointMonitor(data.heldout.batch(range(24)), model)
    trainer = LaraTrainer(model, arguments, options, data.samples, tmp_path, monitor=monitor)
    groups = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in trainer.create_optimizer().param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in groups, name
            continue
        rate = 5e-4 if name.startswith("lam.") else 1e-3
        decays = parameter.ndim >= 2 and not name.endswith("bias")
        assert groups[id(parameter)] == (rate, 0.1 if decays else 0.0), name


HEALTHY = {"spread": 0.9, "effective_rank": 20.0, "perplexity": 60.0, "gain_over_copying": 0.4, "mean_cosine": 0.05}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"spread": 0.2}, "z collapsed to one direction"),
        ({"spread": float("nan")}, "z collapsed to one direction"),
        ({"effective_rank": 9.0}, "z lost directions"),
        ({"perplexity": 14.0}, "codes died"),
        ({"gain_over_copying": -0.1}, "worse than copying"),
        ({"mean_cosine": 0.95}, "z of different pairs are nearly parallel"),
    ],
)
def test_each_collapse_stops_the_run_at_its_second_check(change, sentence, caplog):
    monitor = JointCollapseMonitor(HEALTHY)
    monitor.check(100, HEALTHY)
    monitor.check(200, HEALTHY | change)
    with pytest.raises(JointCollapseError, match=f"stopped at step 300.*{sentence}.*Lower w1"):
        monitor.check(300, HEALTHY | change)
    going_on = JointCollapseMonitor(HEALTHY, stop=False)
    with caplog.at_level(logging.WARNING):
        going_on.check(100, HEALTHY | change)
        going_on.check(200, HEALTHY | change)
    assert sentence in caplog.text


def test_conflicting_losses_are_warned_of_once(caplog):
    monitor = JointCollapseMonitor(HEALTHY)
    with caplog.at_level(logging.WARNING):
        for step in range(8):
            monitor.check(step, HEALTHY | {"gradient_cosine": -0.1})
    assert caplog.text.count("opposite directions") == 1


@pytest.mark.parametrize("w2", [0.0, 0.01, 1.0])
def test_collapsed_latents_raise_the_alarm_at_any_weight(tmp_path, labelled_squares, tiny_refinement, frames, w2):
    original = LatentActionModel.from_pretrained.__func__

    def dead(cls, *args, **kwargs):
        model = original(cls, *args, **kwargs)
        with torch.no_grad():  # one z for every pair
            model.inverse_dynamics.to_latents[-1].weight.mul_(1e-4)
            model.inverse_dynamics.to_latents[-1].bias.fill_(1.0)
            if model.inverse_dynamics.standardize is not None:
                model.inverse_dynamics.standardize = None
                model.config.standardize_latents = False
        return model

    recipe = tiny_refinement({"learning_rate": 1e-6}, alignment={"w2": w2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LatentActionModel, "from_pretrained", classmethod(dead))
        with pytest.raises(
            JointCollapseError, match=r"z of different pairs are nearly parallel|z collapsed to one direction"
        ):
            refine(labelled_squares(8), recipe, out=tmp_path, frames=frames / "dead")


@pytest.mark.parametrize(
    ("episodes", "recipe", "message"),
    [
        ({"bad": (2,)}, {}, "episode 'ep002': NaN or infinity in its actions at frame 3"),
        ({"width": 6}, {}, "actions of 6 numbers, the policy takes up to 5"),
        ({}, {"lam_camera": "back"}, "lam_camera 'back': the episodes have 'front'"),
        ({}, {"lam_stride": "7f"}, "is 7 frames, and the policy predicts 6 actions"),
        ({}, {"layer": "9"}, "layer '9': the policy has 4 blocks"),
        ({}, {"tokenizer": "/nowhere/lam"}, "/nowhere/lam"),
        ({}, {"policy": {"depth": 3}}, "unknown policy key 'depth'"),
    ],
)
def test_untrainable_data_and_recipes_are_refused_at_the_start(
    tmp_path, labelled_squares, tiny_refinement, episodes, recipe, message
):
    with pytest.raises(ValueError, match=message):
        refine(labelled_squares(8, **episodes), tiny_refinement(**recipe), out=tmp_path)


def test_a_stride_that_the_tokenizer_was_not_trained_on_warns_with_both(
    labelled_squares, tiny_refinement, frames, caplog
):
    with caplog.at_level(logging.WARNING):
        set_up(labelled_squares(8), tiny_refinement(lam_stride="3f"), frames / "stride")
    assert "pairs are 3 frames apart (3f), the tokenizer was trained on 0.5s, 5 frames here" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):  # the paper pre-trains at 5 and aligns at 16
        data = set_up(labelled_squares(8), tiny_refinement(paper_exact=True), frames / "stride")
    assert data.stride_frames == 6
    assert "stride" not in caplog.text


def test_a_recipe_with_unlabeled_pairs_must_name_their_source():
    with pytest.raises(ValueError, match="needs `unlabeled`"):
        RefineRecipe.parse({"training": {"unlabeled_batch": 4}})
    with pytest.raises(ValueError, match="needs pairs without actions"):
        RefineRecipe.parse({"alignment": {"align_unlabeled": 1.0}})
    for mode in ("dit-only", "codes"):
        with pytest.raises(ValueError, match="has no tokenizer that could learn"):
            RefineRecipe.parse({"mode": mode, "training": {"unlabeled_batch": 4}, "unlabeled": ["videos/"]})
    with pytest.raises(ValueError, match="shift -1: takes 0 or more"):
        RefineRecipe.parse({"training": {"shift": -1}})


def test_the_papers_alignment_is_one_key_of_a_recipe():
    recipe = RefineRecipe.parse({"paper_exact": True, "alignment": {"w2": 0.02}})
    assert recipe.alignment == AlignmentOptions.paper_exact(w2=0.02)
    with pytest.raises(ValueError, match="unknown alignment key 'w3'"):
        RefineRecipe.parse({"paper_exact": True, "alignment": {"w3": 0.02}})
