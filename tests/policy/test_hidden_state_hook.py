"""The hidden-state hook: it captures the computed state once, with its graph, and leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from lara_policy.hidden_state_hook import HiddenStateHook, Tap, find_module
from tiny_policies import BLOCKS, CHUNK, WIDTH, make_batch, make_policy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

AFTER_FIRST = Tap("layers.0", tokens="last", chunk=CHUNK)


@pytest.fixture
def one_process(tmp_path):
    """A process group of one, as DDP wants."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def captured(policy, tap, forward=None):
    hook = HiddenStateHook(policy, tap)
    with hook:
        loss, _ = (forward or policy.forward)(make_batch())
    return hook.take(), loss, hook


def gradients(policy) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in policy.parameters() if parameter.grad is not None]


def test_output_of_a_block_is_the_input_of_the_next_ones_norm():
    for k in range(1, BLOCKS):
        out, _, _ = captured(make_policy(), Tap(f"layers.{k - 1}"))
        entering, _, _ = captured(make_policy(), Tap(f"layers.{k}.input_layernorm", "input"))
        assert torch.equal(out, entering)


def test_state_is_in_the_graph_of_the_policy():
    policy = make_policy()
    hidden, loss, _ = captured(policy, AFTER_FIRST)
    assert hidden.shape == (5, CHUNK, WIDTH)
    (loss + hidden[:, -1].square().sum()).backward()
    both = gradients(policy)
    policy.zero_grad()
    policy.forward(make_batch())[0].backward()
    changed = [not torch.equal(a, b) for a, b in zip(both, gradients(policy), strict=True)]
    names = [name for name, _ in policy.named_parameters()]
    assert all(change == name.startswith(("embed", "layers.0")) for name, change in zip(names, changed, strict=True))


@pytest.mark.parametrize(
    ("layout", "make"),
    [
        ("btd", lambda h: h),
        ("bdt", lambda h: h.transpose(1, 2)),
        ("tbd", lambda h: h.transpose(0, 1)),
        ("flat", lambda h: h.flatten(0, 1)),
    ],
)
def test_every_layout_gives_the_same_tokens(layout, make):
    hidden = torch.randn(2, 6, 4)
    assert torch.equal(Tap("x", layout=layout, chunk=6).select(make(hidden)), hidden)


def test_one_token_a_sample_is_a_chunk_of_one():
    assert Tap("x", layout="bd").select(torch.randn(2, 4)).shape == (2, 1, 4)


def test_first_last_and_kept_tokens():
    hidden = torch.arange(10.0).view(1, 10, 1)
    assert Tap("x", tokens="last", chunk=3).select(hidden).flatten().tolist() == [7, 8, 9]
    assert Tap("x", tokens="first", chunk=3).select(hidden).flatten().tolist() == [0, 1, 2]
    assert Tap("x", tokens="last", chunk=6, keep=2).select(hidden).flatten().tolist() == [4, 5]


def test_only_the_first_of_several_euler_steps_counts():
    policy, noise = make_policy(), make_batch()["noise"]
    hook = HiddenStateHook(policy, AFTER_FIRST)
    with hook:
        policy.sample(noise, steps=5)
    first = hook.take()
    with hook:
        policy.velocity(noise, torch.zeros(5))
    assert torch.equal(first, hook.take())


def test_the_state_is_as_it_was_even_if_the_policy_changes_it_in_place():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            y = self.layer(x)
            y += 1
            return y

    policy = InPlace()
    hook = HiddenStateHook(policy, Tap("layer"))
    with hook:
        out = policy(torch.zeros(2, 4, 3))
    assert torch.allclose(hook.take() + 1, out)


def test_unarmed_hook_and_removed_hook_leave_everything_bit_equal():
    policy, plain = make_policy(), make_policy()
    hook = HiddenStateHook(policy, AFTER_FIRST)
    with hook:
        armed = policy.forward(make_batch())[0]
    unarmed = policy.forward(make_batch())[0]
    hook.remove()
    assert torch.equal(armed, unarmed)
    assert torch.equal(policy.forward(make_batch())[0], plain.forward(make_batch())[0])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in policy.modules())


def test_a_hooked_policy_can_be_copied_between_steps():
    policy = make_policy()
    hidden, _, _ = captured(policy, AFTER_FIRST)
    assert torch.equal(copy.deepcopy(policy).forward(make_batch())[0], policy.forward(make_batch())[0])
    assert hidden.requires_grad


def test_checkpointing_without_reentrance_gives_the_gradients_of_none():
    results = []
    for habit in ("none", "plain"):
        policy = make_policy(checkpointing=habit)
        hidden, loss, _ = captured(policy, AFTER_FIRST)
        (loss + hidden.square().mean()).backward()
        results.append(gradients(policy))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpoint_is_refused_with_the_remedy():
    policy = make_policy(checkpointing="reentrant")
    with pytest.raises(ValueError, match=r"without a gradient: .* reentrant checkpoint.*use_reentrant=False"):
        captured(policy, Tap("layers.1.mlp"))
    with torch.no_grad():  # evaluation asks for no gradient
        hidden, _, _ = captured(policy, Tap("layers.1.mlp"))
    assert hidden.shape == (5, CHUNK + 1, WIDTH)


def test_a_frozen_policy_has_no_gradient_to_give():
    policy = make_policy().requires_grad_(False)
    with pytest.raises(ValueError, match="nothing before it is trainable"):
        captured(policy, AFTER_FIRST)
    hook = HiddenStateHook(policy, AFTER_FIRST, needs_grad=False)
    with hook:
        policy.forward(make_batch())
    assert not hook.take().requires_grad


def test_ddp_gives_the_state_and_gradients_of_the_plain_policy(one_process):
    plain, wrapped = make_policy(), DistributedDataParallel(make_policy())
    results = []
    for policy in (plain, wrapped):
        hidden, loss, _ = captured(policy, AFTER_FIRST, policy)
        (loss + hidden.square().mean()).backward()
        results.append([hidden, *gradients(policy)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_wrappers_are_unwrapped():
    policy = make_policy()
    peft = nn.ModuleDict({"base_model": policy})
    peft.get_base_model = lambda: policy
    for wrapped in (policy, peft, torch.compile(policy, backend="eager"), nn.ModuleDict({"module": policy})):
        assert find_module(wrapped, "layers.0") is policy.layers[0]


@pytest.mark.parametrize("method", [False, True])
def test_compiled_policy_gives_the_same_state_and_gradients(method):
    results = []
    for compiled in (False, True):
        policy = make_policy()
        hook = HiddenStateHook(policy, AFTER_FIRST)
        run = policy.forward
        if compiled:
            run = torch.compile(policy.velocity if method else policy, backend="aot_eager")
            if method:
                policy.velocity, run = run, policy.forward
        for _ in range(2):  # the second call runs the graph without the watch of the first
            policy.zero_grad()
            with hook:
                loss, _ = run(make_batch())
            hidden = hook.take()
            (loss + hidden.square().mean()).backward()
        results.append([hidden, *gradients(policy)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_a_block_that_is_never_called_names_its_parts_that_are():
    policy = make_policy(calls_blocks=False)
    with pytest.raises(
        ValueError,
        match=r"'layers.1' was never called.*input of 'layers.1.input_layernorm' for what enters it, "
        r"of 'layers.2.input_layernorm' for what leaves it",
    ):
        captured(policy, Tap("layers.1"))
    with pytest.raises(ValueError, match="or that of the norm behind the last block"):
        captured(policy, Tap(f"layers.{BLOCKS - 1}"))
    hidden, _, _ = captured(policy, Tap("layers.2.input_layernorm", "input"))
    expected, _, _ = captured(make_policy(), Tap("layers.1"))
    assert torch.equal(hidden, expected)


def test_a_leaf_that_is_never_called_names_its_neighbours():
    policy = make_policy()
    policy.unused = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"'unused' was never called.*Near it these were: 'embed', 'layers.0'"):
        captured(policy, Tap("unused"))


def test_a_forward_outside_the_block_is_an_error():
    hook = HiddenStateHook(make_policy(), AFTER_FIRST)
    with pytest.raises(ValueError, match="inside the `with` block"), hook:
        pass


def test_a_layer_that_does_not_exist_says_what_there_is():
    with pytest.raises(ValueError, match=r"no module 'layers.7'. 'layers' holds 0 to 2. Did you mean 'layers"):
        HiddenStateHook(make_policy(), Tap("layers.7"))
    with pytest.raises(ValueError, match=r"no module 'layer'. It holds embed, layers, norm, action_out_proj"):
        HiddenStateHook(make_policy(), Tap("layer"))


def test_too_few_tokens_name_both_numbers():
    with pytest.raises(ValueError, match=r"output of 'norm' has 5 tokens .* fewer than the chunk of 16 actions"):
        captured(make_policy(), Tap("norm", tokens="last", chunk=16))


def test_a_state_that_does_not_fit_the_layout_is_shown():
    with pytest.raises(ValueError, match=r"shape \(5, 5, 8\), which cannot be read as 'flat' with a chunk of 5"):
        captured(make_policy(), Tap("norm", layout="flat", chunk=5))


def test_a_module_without_a_tensor_is_refused():
    policy = nn.Sequential(nn.Identity())
    with (
        HiddenStateHook(policy, Tap("0", "input")),
        pytest.raises(ValueError, match="is no tensor of floats but a dict"),
    ):
        policy({"a": 1})


def test_the_state_is_handed_out_once():
    _, _, hook = captured(make_policy(), AFTER_FIRST)
    with pytest.raises(ValueError, match=r"no hidden state of the output of 'layers.0' was captured"):
        hook.take()


def test_an_exception_of_the_policy_is_its_own_and_disarms_the_hook():
    policy = make_policy()
    hook = HiddenStateHook(policy, AFTER_FIRST)
    with pytest.raises(KeyError), hook:
        policy.forward({})
    with hook:
        policy.forward(make_batch())
    assert hook.take().shape == (5, CHUNK, WIDTH)


def test_the_blocks_of_one_hook_do_not_nest():
    policy = make_policy()
    with HiddenStateHook(policy, AFTER_FIRST) as hook:
        policy.forward(make_batch())
        with pytest.raises(ValueError, match="armed already"):
            hook.__enter__()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"where": "side"}, "where 'side' of a tap: takes one of output, input"),
        ({"layout": "dbt"}, "layout 'dbt'"),
        ({"tokens": "middle"}, "tokens 'middle'"),
        ({"tokens": "last"}, "needs `chunk`"),
        ({"keep": 0}, "keep 0 of a tap: takes 1 or more"),
    ],
)
def test_a_tap_refuses_words_it_does_not_know(fields, message):
    with pytest.raises(ValueError, match=message):
        Tap("layers.0", **fields)
