"""Base class of the configurations of all latent action models, which load only files of their own family."""

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
