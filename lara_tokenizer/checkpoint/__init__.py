"""Checkpoints on disk: which one it is (`Checkpoint.open`, without torch), and whether it can be loaded.

- `settings.py`: the contents of a checkpoint's files, read without torch.
- `checkpoint.py`: `Checkpoint`, its folder, sizes and hashes.
- `check.py`: a config, weights and a processor that fit together, and loading them.

>>> Checkpoint.open("lara-lam").num_latents  # doctest: +SKIP
8
"""

from lara_tokenizer.checkpoint.check import check_weights, load_checkpoint, read_config, read_processor
from lara_tokenizer.checkpoint.checkpoint import Checkpoint, checkpoint_folder, folder_on_disk
from lara_tokenizer.checkpoint.settings import processor_frame_settings, processor_sha256

__all__ = [
    "Checkpoint",
    "check_weights",
    "checkpoint_folder",
    "folder_on_disk",
    "load_checkpoint",
    "processor_frame_settings",
    "processor_sha256",
    "read_config",
    "read_processor",
]
