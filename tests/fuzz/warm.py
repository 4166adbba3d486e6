"""`import_everything`: what a command imports, imported once; forked children have it at once."""

from __future__ import annotations

import gc
import os


def import_everything() -> None:
    """Import torch and the whole project, and set what keeps commands offline, quiet and on one thread."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "SVT_LOG": "0", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    import torch

    torch.set_num_threads(1)
    import lara_tokenizer.convert
    import lara_tokenizer.encode
    import lara_tokenizer.export
    import lara_tokenizer.train  # noqa: F401

    gc.collect()
    gc.freeze()  # a collection in a child would copy all pages of these objects
