"""Forward hooks that read a policy's hidden state, and helpers for its modules by path. The policy stays unchanged.

Shape suffixes: B batch, T action tokens, H width of the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from traceback import walk_stack
from types import TracebackType
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lara_tokenizer._files import summarize_names

SIDES = ("output", "input")
LAYOUTS = {  # name -> axes as the module has them, in einops' notation
    "btd": "b t d",
    "bdt": "b d t",
    "tbd": "t b d",
    "flat": "(b t) d",
    "bd": "b d",
}
TOKENS = ("all", "first", "last")


@dataclass(frozen=True, slots=True)
class Tap:
    """The module at which a policy's hidden state of its action tokens is read, and the state's layout.

    Attributes:
        path: of the module, from the policy: "model.action_out_proj".
        where: the module's "input" (first argument) or "output" (the first, if there are several).
        layout: order of the axes: "btd", "bdt" (a convolution), "tbd"; "flat" is (B * T, H) and requires `chunk`; "bd"
            is one token.
        tokens: the action tokens are "all" of the sequence, or its "first" or "last" `chunk` ones.
            `AlignmentOptions.token` then pools them.
        chunk: number of action tokens.
        keep: read only the first `keep` of those, if the future frame is nearer than the end of the chunk.
        repeat: how many times the policy repeats the whole batch (as `Tensor.repeat` does), for as many noise levels.

    >>> Tap("blocks.13", tokens="last", chunk=16).select(torch.randn(4, 17, 32)).shape
    torch.Size([4, 16, 32])
    """

    path: str
    where: str = "output"
    layout: str = "btd"
    tokens: str = "all"
    chunk: int | None = None
    keep: int | None = None
    repeat: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (("where", SIDES), ("layout", LAYOUTS), ("tokens", TOKENS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} of a tap: takes one of {', '.join(allowed)}.")
        if self.chunk is None and (self.tokens != "all" or self.layout == "flat"):
            raise ValueError(
                f"a tap with tokens {self.tokens!r} and layout {self.layout!r} needs `chunk`, their count."
            )
        for name in ("chunk", "keep", "repeat"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} of a tap: takes 1 or more.")

    @classmethod
    def at(cls, site: str, **rest: Any) -> Tap:
        """A tap from one string: a module's path, then ":input" to read its input; `rest` are the other fields.

        >>> Tap.at("model.norm:input").where
        'input'
        """
        path, _, where = site.partition(":")
        return cls(path, where or "output", **rest)

    def __str__(self) -> str:
        return f"the {self.where} of '{self.path}'"

    def select(self, state: Tensor) -> Tensor:
        """The action tokens (B, T, H) of the module's input or output.

        Raises ValueError if the axes or the count of tokens do not match the tap.
        """
        axes = 2 if self.layout in ("flat", "bd") else 3
        if state.ndim != axes or (self.layout == "flat" and len(state) % (self.chunk or 1)):
            raise ValueError(
                f"{self} has shape {tuple(state.shape)}, which cannot be read as {self.layout!r}"
                f"{f' with a chunk of {self.chunk}' if self.layout == 'flat' else ''}. Layouts: {', '.join(LAYOUTS)}."
            )
        known_axes = {"t": self.chunk} if self.layout == "flat" else {}
        goal = "b 1 d" if self.layout == "bd" else "b t d"
        state_BTH = rearrange(state, f"{LAYOUTS[self.layout]} -> {goal}", **known_axes)
        length = state_BTH.shape[1]
        if self.chunk is not None:
            if length < self.chunk:
                raise ValueError(
                    f"{self} has {length} tokens (shape {tuple(state.shape)}, read as {self.layout!r}), fewer than the "
                    f"chunk of {self.chunk} actions. Tap another module, or set the tap's layout or chunk."
                )
            state_BTH = state_BTH[:, -self.chunk :] if self.tokens == "last" else state_BTH[:, : self.chunk]
        return state_BTH if self.keep is None else state_BTH[:, : self.keep]


class HiddenStateHook:
    """A hook that captures a module's input or output during one forward of a policy, with its autograd graph.

    `with hook:` arms it around one forward of the policy (`policy(...)`, `policy.forward(...)` or a wrapper: DDP,
    `torch.compile`). Only the first call inside counts: later ones are other integration steps, or a checkpoint's
    recomputation. `take()` then returns the state, once. Unarmed, the hook does nothing; `remove()` removes it.

    >>> policy = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 3))
    >>> hook = HiddenStateHook(policy, Tap("0"))
    >>> with hook:
    ...     action = policy(torch.randn(2, 5, 3))
    >>> hook.take().shape
    torch.Size([2, 5, 8])

    Args:
        policy: any module; DDP and compiled ones are unwrapped.
        tap: where to read.
        needs_grad: refuse a state without gradient while gradients are recorded.

    Raises:
        ValueError: at once for a path that does not exist; from the `with` block for a module that was never called, a
            state without gradient, or one that the tap does not fit.
    """

    def __init__(self, policy: nn.Module, tap: Tap, *, needs_grad: bool = True) -> None:
        self.tap = tap
        self.needs_grad = needs_grad
        self.module = find_module(policy, tap.path)
        self._armed = False
        self._called = False
        self._trains = False
        self._hidden: Tensor | None = None
        self._recorder = CallRecorder(policy, tap.path)
        self._verified = False
        if tap.where == "input":
            self._handle = self.module.register_forward_pre_hook(self._on_input, with_kwargs=True)
        else:
            self._handle = self.module.register_forward_hook(self._on_output)

    def __enter__(self) -> HiddenStateHook:
        if self._armed:
            raise ValueError(f"the hook on {self.tap} is armed already: `with` blocks of one hook cannot be nested.")
        self._hidden, self._called = None, False
        self._trains = self.needs_grad and torch.is_grad_enabled()
        if not self._verified:  # until a forward has called the module: recording every call is slow
            self._recorder.start()
        self._armed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._armed = False
        self._recorder.stop()
        self._verified = self._verified or self._called
        if kind is None and not self._called:
            # An error of the policy itself takes precedence.
            raise ValueError(self._recorder.explain(self.tap.where))

    def take(self) -> Tensor:
        """The hidden state (B, T, H) of the last armed forward; a second call raises ValueError."""
        if self._hidden is None:
            raise ValueError(
                f"no hidden state of {self.tap} was captured: run the policy's forward inside the `with` block of this "
                "hook first, once for each time that the state is used."
            )
        hidden_BTH, self._hidden = self._hidden, None
        return hidden_BTH

    def remove(self) -> None:
        """Remove the hook from the policy."""
        self._handle.remove()
        self._hidden = None

    def _on_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._armed and not self._called:
            self._capture(args[0] if args else next(iter(kwargs.values()), None))

    def _on_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._armed and not self._called:
            if isinstance(output, Mapping):
                output = next(iter(output.values()))
            self._capture(output[0] if isinstance(output, (tuple, list)) else output)

    def _capture(self, state: Any) -> None:
        self._called = True
        if not isinstance(state, Tensor) or not state.is_floating_point():
            kind = f"a tensor of {state.dtype}" if isinstance(state, Tensor) else f"a {type(state).__name__}"
            raise ValueError(f"{self.tap} is no tensor of floats but {kind}. Tap another module.")
        if self._trains and not state.requires_grad:
            raise ValueError(f"{self.tap} came without a gradient: {_why_no_gradient()}")
        # A copy: the policy may go on to add to this very tensor in place.
        self._hidden = self.tap.select(state).clone()


def _why_no_gradient() -> str:
    # A reentrant checkpoint runs its forward under no_grad, as frozen modules do: only the stack distinguishes them.
    if any(frame.f_code.co_qualname == "CheckpointFunction.forward" for frame, _ in walk_stack(None)):
        return (
            "it is computed inside a reentrant checkpoint, which hides it from autograd. Checkpoint with "
            "use_reentrant=False; in transformers, gradient_checkpointing_enable({'use_reentrant': False})."
        )
    if not torch.is_grad_enabled():
        return "the module runs under torch.no_grad(). Tap one that is trained."
    return "nothing before it is trainable. Unfreeze it, tap a later module, or set detach_hidden."


# --- Modules by path --------------------------------------------------------------------------------------------------


def unwrap(policy: nn.Module) -> nn.Module:
    """The policy inside DDP, FSDP, `torch.compile` or PEFT."""
    while True:
        children = dict(policy.named_children())
        inside = getattr(policy, "get_base_model", None)  # PEFT
        if inside is not None:
            policy = inside()
        elif list(children) in (["module"], ["_orig_mod"]):
            (policy,) = children.values()
        else:
            return policy


def has_module(policy: nn.Module, path: str) -> bool:
    """True if the policy has a module at `path`."""
    try:
        unwrap(policy).get_submodule(path)
    except AttributeError:
        return False
    return True


def find_module(policy: nn.Module, path: str) -> nn.Module:
    """The module at a path such as "model.layers.3".

    Raises:
        ValueError: with similar paths, and the children of the last module on the path that exists.
    """
    root = unwrap(policy)
    module, reached = root, ""
    for part in path.split(".") if path else ():
        child = getattr(module, part, None)
        if not isinstance(child, nn.Module):
            children = _summarize_children([name for name, _ in module.named_children()])
            close = get_close_matches(path, [name for name, _ in root.named_modules() if name], n=3)
            raise ValueError(
                f"{type(root).__name__} has no module '{path}'. {f'{reached!r}' if reached else 'It'} holds {children}."
                f"{' Did you mean ' + ' or '.join(map(repr, close)) + '?' if close else ''}"
            )
        module, reached = child, f"{reached}.{part}".lstrip(".")
    return module


def _summarize_children(names: list[str]) -> str:
    if not names:
        return "no modules"
    if all(name.isdecimal() for name in names):
        return f"{names[0]} to {names[-1]}"
    return summarize_names(names, 12)


def state_width(module: nn.Module, where: str) -> int | None:
    """Width H of a module's "input" or "output"; None if its layers do not determine it.

    A block that is no plain layer is assumed to be residual: as wide as its first norm.

    >>> state_width(nn.TransformerEncoderLayer(32, 2), "output")
    32
    """
    if isinstance(module, nn.Linear):
        return module.in_features if where == "input" else module.out_features
    if isinstance(module, nn.Conv1d):
        return module.in_channels if where == "input" else module.out_channels
    if isinstance(module, nn.Sequential):
        parts = list(module) if where == "input" else reversed(list(module))
        return next((width for part in parts if (width := state_width(part, where))), None)
    return next((width for part in module.modules() if (width := _norm_width(part))), None)


def _norm_width(module: nn.Module) -> int | None:
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1]
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if "Norm" not in type(module).__name__:
        return None
    weight = getattr(module, "weight", None)  # RMS norms: every library has a class of its own
    if isinstance(weight, torch.Tensor) and weight.ndim == 1:
        return len(weight)
    dim = getattr(module, "dim", None)
    return dim if isinstance(dim, int) and dim > 0 else None


class CallRecorder:
    """The modules around a tapped one that a forward calls, in order: for the error if the tapped one is not called.

    Many policies call the parts of a block one by one and never the block itself, so that its hook never runs.
    """

    def __init__(self, policy: nn.Module, path: str) -> None:
        self.root = unwrap(policy)
        self.path = path
        self.calls: list[str] = []
        self._handles: list[RemovableHandle] = []

    def start(self) -> None:
        """Record calls of every module under the tapped module's parent."""
        self.calls.clear()
        parent = self.path.rpartition(".")[0]
        for name, module in self.root.get_submodule(parent).named_modules(prefix=parent):
            if name and name != parent:
                self._handles.append(module.register_forward_pre_hook(partial(self._record, name)))

    def stop(self) -> None:
        """Stop recording."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def explain(self, where: str) -> str:
        """The message of the error: the reason for the missing state, and other modules to tap."""
        text = f"the module '{self.path}' was never called in this forward"
        inner = [name for name in self.calls if name.startswith(f"{self.path}.")]
        if inner:
            text += f", but parts of it were, one by one. Tap the input of '{inner[0]}' for what enters it"
            after = self._same_part_of_next_block(inner[0])
            if where == "output":
                text += (
                    f", of '{after}' for what leaves it"
                    if after
                    else ", or that of the norm behind the last block for what leaves it"
                )
            return text + "."
        if self.calls:
            nearby = ", ".join(f"'{name}'" for name in dict.fromkeys(self.calls[:4]))
            return f"{text}. Near it these were: {nearby}. Tap one of them."
        return f"{text}, and neither was anything near it. Run the policy's forward inside the `with` block."

    def _record(self, name: str, module: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling():  # else the hook would become part of the compiled graph
            self.calls.append(name)

    def _same_part_of_next_block(self, part: str) -> str | None:
        parent, _, index = self.path.rpartition(".")
        if not index.isdecimal():
            return None
        twin = f"{parent}.{int(index) + 1}{part[len(self.path) :]}".lstrip(".")
        return twin if has_module(self.root, twin) else None
