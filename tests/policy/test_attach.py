"""attach_lara: three lines give both losses, gradients where they belong, and nothing elsewhere."""

from __future__ import annotations

import copy

import pytest
import torch
from lara_policy.alignment import AlignmentOptions
from lara_policy.attach import attach_lara
from lara_policy.hidden_state_hook import Tap
from lara_policy.tap_presets import PRESETS, TapPreset
from tiny_policies import CHUNK, WIDTH, make_batch, make_policy
from torch.nn.parallel import DistributedDataParallel

from lara_tokenizer import LatentActionModel, LatentActionProcessor
from lara_tokenizer.model import SpaceTimeVaeConfig, SpaceTimeVaeModel

TAP = Tap("action_out_proj", "input")


@pytest.fixture(scope="module")
def frames():
    """(frame, future_frame), uint8 (5, 3, 40, 48) each."""
    random = torch.Generator().manual_seed(1)
    return tuple(torch.randint(0, 256, (5, 3, 40, 48), dtype=torch.uint8, generator=random) for _ in range(2))


def step(lara, policy, frames, **keywords):
    """The three lines, and a backward pass."""
    with lara.capture():
        loss, _ = policy.forward(make_batch())
    total = loss + lara(*frames, **keywords)
    total.backward()
    return loss, total


def has_gradient(module) -> bool:
    return any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())


def test_the_three_lines_train_policy_and_tokenizer(tiny_checkpoint, frames):
    policy = make_policy()
    optimizer = torch.optim.AdamW(policy.parameters())
    lara = attach_lara(policy, tiny_checkpoint, tap=TAP)
    optimizer.add_param_group({"params": lara.trainable_parameters()})
    loss, total = step(lara, policy, frames)
    parts, options = lara.losses, lara.options
    torch.testing.assert_close(total, loss + options.w1 * parts["lara"] + options.w2 * parts["lam"])
    assert {"reconstruction", "codebook", "commitment"} < set(parts)
    assert {"cosine", "centered_cosine", "perplexity"} <= set(lara.monitors)
    assert not any(value.requires_grad for value in (*parts.values(), *lara.monitors.values()))
    assert has_gradient(policy.layers[0])
    assert has_gradient(lara.alignment)
    assert has_gradient(lara.lam.inverse_dynamics)
    assert has_gradient(lara.lam.forward_dynamics)
    assert not has_gradient(lara.lam.vision_encoder)
    assert all(parameter.grad is not None for parameter in lara.trainable_parameters())
    before = lara.lam.vision_encoder.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in lara.lam.vision_encoder.state_dict().items())


def test_what_the_policy_feels_is_w1_times_the_alignment(tiny_checkpoint, frames):
    pulls = []
    for w1 in (0.0, 0.5, 1.0):
        policy = make_policy()
        torch.manual_seed(3)
        step(attach_lara(policy, tiny_checkpoint, tap=TAP, w1=w1), policy, frames)
        pulls.append(policy.embed.weight.grad.clone())
    plain = make_policy()
    plain.forward(make_batch())[0].backward()
    assert torch.equal(pulls[0], plain.embed.weight.grad)
    torch.testing.assert_close(pulls[2] - pulls[0], 2 * (pulls[1] - pulls[0]))


def test_frames_go_through_the_tokenizers_own_processor(tiny_checkpoint, frames):
    policy = make_policy()
    model = LatentActionModel.from_pretrained(tiny_checkpoint).eval()
    pixels = LatentActionProcessor.from_pretrained(tiny_checkpoint)(*frames)
    expected = model(**pixels).loss
    floats = [each.float() / 255 for each in frames]
    lists = [list(each.permute(0, 2, 3, 1).numpy()) for each in frames]
    for form in (frames, floats, lists):
        lara = attach_lara(policy, tiny_checkpoint, tap=TAP).eval()
        step(lara, policy, form)
        lara.detach()
        torch.testing.assert_close(lara.losses["lam"], expected)


def test_normalized_frames_are_refused(tiny_checkpoint, frames):
    policy = make_policy()
    with pytest.raises(ValueError, match="Undo any normalization first"):
        step(attach_lara(policy, tiny_checkpoint, tap=TAP), policy, [each.float() / 127 - 1 for each in frames])


def test_invalid_pairs_enter_neither_loss(tiny_checkpoint, frames):
    valid = torch.tensor([True, True, False, True, False])
    garbled = [torch.where(valid.view(-1, 1, 1, 1), each, 255 - each) for each in frames]
    results = []
    for pair in (frames, garbled):
        policy = make_policy()
        torch.manual_seed(3)
        lara = attach_lara(policy, tiny_checkpoint, tap=TAP).eval()  # batch norm of z would see all pairs
        step(lara, policy, pair, valid=valid)
        results.append([lara.losses["lara"], lara.losses["lam"], policy.embed.weight.grad])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
    policy = make_policy()
    lara = attach_lara(policy, tiny_checkpoint, tap=TAP)
    loss, total = step(lara, policy, frames, valid=torch.zeros(5, dtype=torch.bool))
    assert torch.equal(loss, total)


def test_frozen_tokenizer_gets_no_gradient_and_no_decoder_runs(tiny_checkpoint, frames, monkeypatch):
    policy = make_policy()
    lara = attach_lara(policy, tiny_checkpoint, tap=TAP, mode="frozen-lam")
    monkeypatch.setattr(lara.lam.forward_dynamics, "forward", lambda *_: pytest.fail("the decoder ran"))
    step(lara.train(), policy, frames)
    assert set(lara.losses) == {"lara"}
    assert not lara.lam.training
    assert has_gradient(policy.layers[0])
    assert not has_gradient(lara.lam)
    assert len(lara.trainable_parameters()) == len(list(lara.alignment.parameters()))


def test_without_w2_the_encoder_alone_trains(tiny_checkpoint, frames):
    policy = make_policy()
    lara = attach_lara(policy, tiny_checkpoint, tap=TAP, w2=0)
    step(lara, policy, frames)
    assert set(lara.losses) == {"lara"}
    assert has_gradient(lara.lam.inverse_dynamics)
    assert not has_gradient(lara.lam.forward_dynamics)
    assert all(parameter.grad is not None for parameter in lara.trainable_parameters())
    one_way = attach_lara(policy, tiny_checkpoint, tap=TAP, w2=0, latent_gradient_scale=0)
    assert len(one_way.trainable_parameters()) == len(list(one_way.alignment.parameters()))


def test_one_way_alignment_leaves_the_tokenizer_to_its_own_loss(tiny_checkpoint, frames):
    results = []
    for w1 in (0.0, 1.0):
        policy = make_policy()
        lara = attach_lara(policy, tiny_checkpoint, tap=TAP, w1=w1, latent_gradient_scale=0)
        step(lara, policy, frames)
        results.append([parameter.grad for parameter in lara.lam.parameters() if parameter.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_detached_hidden_state_may_come_from_a_frozen_policy(tiny_checkpoint, frames):
    policy = make_policy().requires_grad_(False)
    lara = attach_lara(policy, tiny_checkpoint, tap=TAP, detach_hidden=True)
    step(lara, policy, frames)
    assert has_gradient(lara.lam.inverse_dynamics)


def test_a_repeated_batch_meets_its_own_latents(tiny_checkpoint, frames):
    policy = make_policy()
    lara = attach_lara(policy, tiny_checkpoint, tap=Tap("action_out_proj", "input", repeat=2), w2=0)
    batch = {name: torch.cat([value, value]) for name, value in make_batch().items()}
    with lara.capture():
        policy.forward(batch)
    lara(*frames, valid=torch.tensor([True, False, True, True, True]))
    assert lara.monitors["pairs"] == 8
    with lara.capture():
        policy.forward(make_batch())
    with pytest.raises(ValueError, match=r"5 pairs of frames, but .* was captured for 5 samples \(2 per pair\)"):
        lara(*frames)


def test_evaluation_without_gradients_gives_the_same_losses(tiny_checkpoint, frames):
    policy = make_policy()
    lara = attach_lara(policy, tiny_checkpoint, tap=TAP).eval()
    step(lara, policy, frames)
    expected = dict(lara.losses)
    with torch.no_grad():
        with lara.capture():
            policy.forward(make_batch())
        lara(*frames)
    for name, value in lara.losses.items():
        torch.testing.assert_close(value, expected[name])


def test_ddp_around_both_gives_the_same_gradients(tiny_checkpoint, frames, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        results = []
        for wrap in (lambda module: module, DistributedDataParallel):
            policy = make_policy()
            torch.manual_seed(3)
            lara = attach_lara(policy, tiny_checkpoint, tap=TAP)
            wrapped, outer = wrap(lara), wrap(policy)
            with lara.capture():
                loss, _ = outer(make_batch())
            (loss + wrapped(*frames)).backward()
            results.append([parameter.grad for parameter in (*policy.parameters(), *lara.trainable_parameters())])
        for actual, expected in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected)
    finally:
        torch.distributed.destroy_process_group()


def test_refined_tokenizer_is_saved_whole_and_training_goes_on(tiny_checkpoint, frames, tmp_path):
    policy = make_policy()
    lara = attach_lara(policy, tiny_checkpoint, tap=TAP, w2=1.0).train()
    optimizer = torch.optim.AdamW([*policy.parameters(), *lara.trainable_parameters()], lr=1e-2)
    step(lara, policy, frames)
    optimizer.step()
    lara.save_pretrained(tmp_path)
    assert lara.training
    assert lara.lam.inverse_dynamics.training
    saved = LatentActionModel.from_pretrained(tmp_path).eval()
    pixels = LatentActionProcessor.from_pretrained(tmp_path)(*frames)
    assert (
        saved.config.freeze_vision_encoder
        == LatentActionModel.from_pretrained(tiny_checkpoint).config.freeze_vision_encoder
    )
    with torch.no_grad():
        torch.testing.assert_close(saved.encode(**pixels).latents, lara.lam.eval().encode(**pixels).latents)
    start = LatentActionModel.from_pretrained(tiny_checkpoint).eval()
    assert not torch.equal(saved.encode(**pixels).latents, start.encode(**pixels).latents)


def test_state_comes_back_from_a_state_dict(tiny_checkpoint, frames):
    policy = make_policy()
    first = attach_lara(policy, tiny_checkpoint, tap=TAP)
    second = attach_lara(policy, tiny_checkpoint, tap=TAP)
    second.load_state_dict(first.state_dict())
    assert not any(name.startswith("hook") for name in first.state_dict())
    step(first, policy, frames)
    step(second, policy, frames)
    assert torch.equal(first.losses["lara"], second.losses["lara"])


def test_a_model_of_another_family_is_refused_with_what_to_do_instead(tiny_processor, tmp_path):
    config = SpaceTimeVaeConfig(image_size=32, hidden_size=16, num_attention_heads=2, num_encoder_layers=1)
    other = SpaceTimeVaeModel(config)
    other.save_pretrained(tmp_path)
    match = "is a SpaceTimeVaeModel: only a LatentActionModel is trained together with a policy. Label with this one"
    for tokenizer in (other, tmp_path, str(tmp_path)):
        with pytest.raises(ValueError, match=match):
            attach_lara(make_policy(), tokenizer, processor=tiny_processor, tap=TAP)


def test_a_loaded_tokenizer_comes_with_its_processor(tiny_model, tiny_processor, frames):
    policy = make_policy()
    with pytest.raises(ValueError, match="needs its processor"):
        attach_lara(policy, copy.deepcopy(tiny_model), tap=TAP)
    lara = attach_lara(policy, copy.deepcopy(tiny_model), processor=tiny_processor, tap="action_out_proj:input")
    step(lara, policy, frames)


def test_presets_and_options_reach_their_places(tiny_checkpoint, monkeypatch):
    preset = TapPreset(("",), ("config.chunk_size",), blocks="layers", tokens="last")
    monkeypatch.setitem(PRESETS, "tiny", preset)
    policy = make_policy()
    policy.config = type("Config", (), {"chunk_size": CHUNK})()
    paper = AlignmentOptions.paper_exact()
    lara = attach_lara(policy, tiny_checkpoint, tap="tiny", layer="L-1", keep=2, options=paper, token="mean")
    assert lara.hook.tap == Tap("layers.1", tokens="last", chunk=CHUNK, keep=2)
    assert (lara.options.w2, lara.options.center, lara.options.token) == (0.01, False, "mean")
    assert lara.alignment.projector.hidden_size == WIDTH


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"mode": "frozen"}, "mode 'frozen': takes one of joint, frozen-lam"),
        ({"weight": 1}, "unknown option 'weight': there is w1, w2"),
        ({"align_unlabeled": 0.5}, "a policy whose flow time can be set"),
        ({"tap": "smolvl"}, r"unknown tap preset 'smolvl'.*Did you mean 'smolvla'\?"),
        ({"tap": "layers.9"}, "no module 'layers.9'. 'layers' holds 0 to 2"),
        ({"layer": 3}, "layer 3 goes with a preset"),
        (
            {"tap": Tap("layers.0.mlp.1")},
            r"width of the output of .layers.0.mlp.1. cannot be inferred. Give hidden_size",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_once(tiny_checkpoint, keywords, message):
    policy = make_policy()
    with pytest.raises(ValueError, match=message):
        attach_lara(policy, tiny_checkpoint, **{"tap": TAP, **keywords})
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in policy.modules())


def test_mistakes_of_a_step_are_explained(tiny_checkpoint, frames):
    policy = make_policy()
    lara = attach_lara(policy, tiny_checkpoint, tap=TAP)
    with pytest.raises(ValueError, match="run the policy's forward inside the `with` block"):
        lara(*frames)
    with pytest.raises(ValueError, match="3 pairs of frames, but the input of 'action_out_proj' was captured for 5"):
        step(lara, policy, [each[:3] for each in frames])
    with pytest.raises(ValueError, match=r"valid is torch.int64 of shape \(5,\): takes bool \(5,\)"):
        step(lara, policy, frames, valid=torch.ones(5, dtype=torch.long))
    wrong = attach_lara(policy, tiny_checkpoint, tap=TAP, hidden_size=WIDTH + 1)
    with pytest.raises(ValueError, match=rf"takes \(B, T, {WIDTH + 1}\).*hidden_size={WIDTH}"):
        step(wrong, policy, frames)
