"""Base class of the configurations of all latent action models: loading, and checks that several families share."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from transformers import PretrainedConfig


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
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least 1.")

    def _check_codebook_sizes(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 2:
                raise ValueError(
                    f"{name} ({getattr(self, name)}) must be at least 2: a codebook of one code carries no information."
                )

    def _check_divides(self, small: str, large: str) -> None:
        divisor, size = attrgetter(small, large)(self)
        if size % divisor:
            raise ValueError(f"{small} ({divisor}) must divide {large} ({size}).")

    def _check_choices(self, choices: Mapping[str, Sequence[str]]) -> None:
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it takes {' or '.join(map(repr, allowed))}.")
