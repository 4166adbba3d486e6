"""`import_everything`: what a command imports, imported once; forked children have it at once."""

from __future__ import annotations

import gc
import os
from importlib import import_module

# The project imports much of itself, and all that is heavy, only where it is needed.
_MODULES = (
    "torch", "transformers", "transformers.models.vit_mae.modeling_vit_mae", "datasets", "pyarrow.parquet", "PIL.Image",
    "pydantic.type_adapter", "lara_tok.__main__", "lara_tokenizer.data.load", "lara_tokenizer.data.clip_list.dataset",
    "lara_tokenizer.data.lerobot.dataset", "lara_tokenizer.data.rlds.dataset", "lara_tokenizer.data.webdataset.dataset",
    "lara_tokenizer.data.huggingface.dataset", "lara_tokenizer.encode.dataset", "lara_tokenizer.encode.pool.worker",
    "lara_tokenizer.encode.verify", "lara_tokenizer.encode.preview", "lara_tokenizer.table.description",
    "lara_tokenizer.train.train", "lara_tokenizer.convert.convert", "lara_policy.refine.refine",
)  # fmt: skip


def import_everything() -> None:
    """Import torch and the whole project, and set what keeps commands offline, quiet and on one thread."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "SVT_LOG": "0", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    for name in _MODULES:
        import_module(name)
    import_module("torch").set_num_threads(1)
    gc.collect()
    gc.freeze()  # a collection in a child would copy all pages of these objects
