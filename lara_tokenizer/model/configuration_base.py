"""What the configs of all latent action models share: they load files of their own family only."""

from typing import Any

from transformers import PretrainedConfig


class LatentActionBaseConfig(PretrainedConfig):
    """Refuses the config of another family, which transformers would mix with this one's defaults."""

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As transformers' own, which models' and configs' from_pretrained call once.

        Raises ValueError for a checkpoint of another family.
        """
        found, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        model_type = found.get("model_type")
        if model_type is not None and model_type != cls.model_type:
            raise ValueError(
                f"{pretrained_model_name_or_path} is of model_type {model_type!r}; {cls.__name__} and its "
                f"model load {cls.model_type!r}. lara_tokenizer.load_model (or transformers.AutoModel) picks the class "
                "that fits."
            )
        return found, rest
