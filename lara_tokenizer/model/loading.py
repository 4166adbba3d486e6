"""`load_complete`: from_pretrained that refuses a checkpoint which does not hold exactly the model's weights."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from printing its report of weights that do not fit, which quotes names from the file."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def load_complete(load: Callable[..., Any], name: Any, *args: Any, **kwargs: Any) -> Any:
    """The result of transformers' `from_pretrained`, if every weight came from the checkpoint and is finite.

    transformers fills weights that a file lacks, or holds in another shape, with random numbers, leaves out those that
    the config has no place for, and logs either: codes of such a model look like any others. Pickles are not read.

    Args:
        load: the class's `from_pretrained`.
        name: the checkpoint; further arguments are those of `from_pretrained`. With output_loading_info=True the caller
            gets the report, and decides.

    Raises:
        ValueError: weights that are missing, unknown, of another shape, damaged or not finite.
    """
    if kwargs.get("output_loading_info"):
        return load(name, *args, **kwargs)
    lenient = kwargs.pop("ignore_mismatched_sizes", False)
    try:
        with quiet_loading():  # its report would come before the error that says the same
            model, report = load(
                name,
                *args,
                **{"use_safetensors": True, **kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True},
            )
    except (ValueError, OSError, ImportError) as error:
        if "\n" not in str(error).strip():
            raise
        kind = next(kind for kind in (OSError, ImportError, ValueError) if isinstance(error, kind))
        raise kind(" ".join(str(error).split())) from error
    except Exception as error:  # damaged files and sizes that do not fit raise errors of safetensors, torch and Python
        raise _damaged(name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    faults = [
        _fault(len(keys), words, keys)
        for words, keys in (
            ("missing", report["missing_keys"]),
            ("of another shape", () if lenient else report["mismatched_keys"]),
            ("that the config has no place for", report["unexpected_keys"]),
        )
        if keys
    ]
    if not faults and (broken := _not_finite(model)):
        faults = [_fault(len(broken), "with numbers that are not finite", broken)]
    if faults:
        raise _damaged(name, "; ".join(faults))
    return model


def _damaged(name: Any, reason: str) -> ValueError:
    return ValueError(
        f"model {str(name)!r}: its weights do not fit its config.json or are damaged: {reason}. Download or save it "
        "again, all files from one place."
    )


def _fault(count: int, words: str, keys: Iterable[Any]) -> str:
    # A key of another shape comes with both shapes.
    names = sorted(
        key if isinstance(key, str) else f"{key[0]} is {tuple(key[1])}, expected {tuple(key[2])}" for key in keys
    )
    more = f" and {count - 3} more" if count > 3 else ""
    return f"{count} {'tensor' if count == 1 else 'tensors'} {words} ({', '.join(names[:3])}{more})"


@torch.no_grad()
def _not_finite(model: PreTrainedModel) -> list[str]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return [
        name
        for name, tensor in tensors.items()
        # The sum first: it is finite unless a number is not (or float16 overflows), and needs no second tensor.
        if tensor.is_floating_point()
        and not tensor.is_meta
        and not tensor.sum(dtype=torch.float32).isfinite()
        and not tensor.isfinite().all()
    ]
