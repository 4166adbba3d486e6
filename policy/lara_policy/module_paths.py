"""Modules by their path: finding them, how wide their states are, and which of them run."""

from __future__ import annotations

from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


def unwrap(policy: nn.Module) -> nn.Module:
    """The policy inside of DDP, FSDP, `torch.compile` or PEFT."""
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
    """Whether the path leads to a module."""
    try:
        unwrap(policy).get_submodule(path)
    except AttributeError:
        return False
    return True


def find_module(policy: nn.Module, path: str) -> nn.Module:
    """The module at a path such as "model.layers.3".

    Raises:
        ValueError: naming close paths, and what lies where the path ends.
    """
    root = unwrap(policy)
    if has_module(root, path):
        return root.get_submodule(path)
    reached, parent = "", root
    for part in path.split("."):
        longer = f"{reached}.{part}".lstrip(".")
        if not has_module(root, longer):
            break
        reached, parent = longer, root.get_submodule(longer)
    held = _shortened([name for name, _ in parent.named_children()])
    close = get_close_matches(path, [name for name, _ in root.named_modules() if name], n=3)
    raise ValueError(
        f"{type(root).__name__} has no module '{path}'. {f'{reached!r}' if reached else 'It'} holds {held}."
        f"{' Did you mean ' + ' or '.join(map(repr, close)) + '?' if close else ''}"
    )


def state_width(module: nn.Module, where: str) -> int | None:
    """H of what goes into ("input") or comes out of ("output") a module; None where its layers do not tell.

    A block that is no plain layer is taken for a residual one: as wide as its first norm.

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
    weight = getattr(module, "weight", None)  # RMS norms, of which every library has its own
    if isinstance(weight, torch.Tensor) and weight.ndim == 1:
        return len(weight)
    dim = getattr(module, "dim", None)
    return dim if isinstance(dim, int) and dim > 0 else None


def _shortened(names: list[str]) -> str:
    if not names:
        return "no modules"
    if all(name.isdecimal() for name in names):
        return f"{names[0]} to {names[-1]}"
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


class CallWatch:
    """Which modules around a tapped one are called in a forward, in their order: for the error where it is not.

    Many policies call the parts of a block one by one and never the block, so that a hook on it stays silent.
    """

    def __init__(self, policy: nn.Module, path: str) -> None:
        self.root, self.path = unwrap(policy), path
        self.calls: list[str] = []
        self._handles: list[RemovableHandle] = []

    def start(self) -> None:
        """Listen to everything under the tapped module's parent."""
        self.calls.clear()
        above = self.path.rpartition(".")[0]
        for name, module in self.root.get_submodule(above).named_modules(prefix=above):
            if name and name != above:
                self._handles.append(module.register_forward_pre_hook(partial(self._note, name)))

    def stop(self) -> None:
        """Listen no more."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def explain(self, where: str) -> str:
        """Why the tapped module gave nothing, and what to tap instead."""
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
            near = ", ".join(f"'{name}'" for name in dict.fromkeys(self.calls[:4]))
            return f"{text}. Near it these were: {near}. Tap one of them."
        return f"{text}, and nothing near it was. Does the policy's forward run inside the `with` block?"

    def _note(self, name: str, module: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling():  # a compiled graph would go on listening for ever
            self.calls.append(name)

    def _same_part_of_next_block(self, part: str) -> str | None:
        above, _, number = self.path.rpartition(".")
        if not number.isdecimal():
            return None
        twin = f"{above}.{int(number) + 1}{part[len(self.path) :]}".lstrip(".")
        return twin if has_module(self.root, twin) else None
