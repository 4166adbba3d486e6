"""Validation of `strides`, those of the frame pairs that a latent action model was trained on."""

from collections.abc import Sequence


def checked_strides(strides: str | Sequence[str]) -> list[str]:
    """Strides as a list. Raises ValueError for an empty list, or a stride without a unit.

    >>> checked_strides("0.5s")
    ['0.5s']
    """
    if not isinstance(strides, (str, list, tuple)):
        raise ValueError(f'strides is a {type(strides).__name__}. Name the gaps of pairs, e.g. ["0.5s"].')
    named = [strides] if isinstance(strides, str) else list(strides)
    if not named:
        raise ValueError('strides is empty. Name the gap of a pair, e.g. ["0.5s"].')
    if bare := [stride for stride in named if not _has_unit(stride)]:
        raise ValueError(
            f'strides holds {repr(bare[0])[:40]}, a gap without a unit. Write "5f" for frames, "0.5s" for seconds.'
        )
    return named


def _has_unit(stride: object) -> bool:
    return isinstance(stride, str) and stride.endswith(("f", "s")) and len(stride) <= 32
