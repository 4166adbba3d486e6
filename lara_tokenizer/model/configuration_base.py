"""Base class of the configurations of all latent action models: loading, and checks that several families share."""

import inspect
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from operator import attrgetter
from typing import Any

from transformers import AutoConfig, PretrainedConfig

LARGEST_SIZE = 2**20  # of any width, count or side: far above every model, and below what a matrix could be made of

MOST_LAYERS = 1024  # each is built before its size is known to fit into memory


class LatentActionBaseConfig(PretrainedConfig):
    """A config that refuses files of another family, whose fields transformers would mix with its own defaults."""

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the dict of a config file, as in transformers; called once by every from_pretrained.

        Raises ValueError for a checkpoint of another family.
        """
        config, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        model_type = config.get("model_type")
        if model_type is not None and model_type != cls.model_type:
            raise ValueError(
                f"{pretrained_model_name_or_path} is of model_type {model_type!r}; {cls.__name__} and its "
                f"model load {cls.model_type!r}. lara_tokenizer.load_model (or transformers.AutoModel) picks the class "
                "that fits."
            )
        return config, rest

    # The checks raise ValueError, naming the fields.

    def _check_positive(self, *names: str) -> None:
        for name in names:
            size = attrgetter(name)(self)
            is_whole = isinstance(size, Integral) and not isinstance(size, bool)
            if not is_whole:
                raise ValueError(f"{name} is {_short(size)}; it takes a whole number.")
            if size < 1:
                raise ValueError(f"{name} ({size}) must be at least 1.")
            largest = MOST_LAYERS if name.endswith("layers") else LARGEST_SIZE
            if size > largest:
                raise ValueError(f"{name} ({size}) must be at most {largest:,}.")

    def _check_codebook_sizes(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 2:
                raise ValueError(
                    f"{name} ({getattr(self, name)}) must be at least 2: a codebook of one code carries no information."
                )
            if getattr(self, name) > LARGEST_SIZE:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at most {LARGEST_SIZE:,}.")

    def _check_divides(self, small: str, large: str) -> None:
        divisor, size = attrgetter(small, large)(self)
        if size % divisor:
            raise ValueError(f"{small} ({divisor}) must divide {large} ({size}).")

    def _check_choices(self, choices: Mapping[str, Sequence[str]]) -> None:
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {_short(getattr(self, name))}; it takes {' or '.join(map(repr, allowed))}."
                )


def check_types(config: PretrainedConfig, *except_for: str) -> None:
    """Check a config's fields, but those named, against the type of their defaults: numbers, flags, texts.

    A config.json from elsewhere may hold anything, and comparing it with a number would be a TypeError.

    Raises ValueError, naming the field.
    """
    for name, parameter in inspect.signature(type(config).__init__).parameters.items():
        if name in except_for:
            continue
        value, default = getattr(config, name, None), parameter.default
        if isinstance(default, bool):
            fits, takes = isinstance(value, bool), "true or false"
        elif isinstance(default, int):
            fits, takes = isinstance(value, Integral) and not isinstance(value, bool), "a whole number"
        elif isinstance(default, float):
            fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
            takes = "a finite number"
        elif isinstance(default, str):
            fits, takes = isinstance(value, str), "a text"
        else:
            continue
        if not fits:
            raise ValueError(f"{name} is {_short(value)}; it takes {takes}.")


def vision_config_of(given: Mapping[str, Any], model_type: Any) -> PretrainedConfig:
    """The config of transformers' vision models from its fields. Raises ValueError for fields that it does not take."""
    try:
        return AutoConfig.for_model(model_type, **given)
    # The classes check their fields in many ways.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"vision_config ({_short(model_type)}) cannot be used: {reason}") from error


def _short(value: Any) -> str:
    """A field's value for a message, in few words however large it is."""
    return repr(value)[:60] if isinstance(value, (str, int, float)) else type(value).__name__
