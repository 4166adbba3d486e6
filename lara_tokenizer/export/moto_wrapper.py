"""Train Moto-GPT on stored codes, from your own training script, without running a tokenizer.

Also `keep_patch_order`, for training with a tokenizer that `lara-tok convert --to moto` wrote, whose codes are then the
model's.

>>> from lara_tokenizer.export.moto_wrapper import stored_codes, with_stored_codes
>>> train, val = (with_stored_codes(part) for part in load_dataset(...))  # Moto's own   # doctest: +SKIP
>>> trainer = MotoGPT_Trainer(train_dataloader=DataLoader(train, ...), ...)              # doctest: +SKIP
>>> with stored_codes(trainer):                                                          # doctest: +SKIP
...     trainer.train()

Written against TencentARC/Moto at 4471f76: the datasets of common/data/datasets.py, and `calculate_loss` of
moto_gpt/src/trainers/moto_gpt_trainer.py. This file imports nothing of this package, nor torch or Moto, and runs under
Python 3.8: it may be copied beside Moto's own. Manifests of exports refer to it by its name.
"""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_TRIES = 1000  # samples without a label in a row, after which something must be wrong

# By process and folder: a process may open a database only once.
_TRANSACTIONS: dict[tuple[int, str], Any] = {}


def with_stored_codes(dataset: Any, lmdb_dir: str | Path | None = None) -> Any:
    """A dataset of Moto whose samples have `latent_motion_ids`; in a mixture, each member becomes one.

    Args:
        dataset: one of Moto's, on an export of `lara-tok export moto`.
        lmdb_dir: the folder that contains `train/` with its LMDB; None for datasets with an attribute of that name.
    """
    members = getattr(dataset, "datasets", None)
    if members is None:
        return StoredCodes(dataset, lmdb_dir)
    dataset.datasets = [with_stored_codes(member, lmdb_dir) for member in members]
    return dataset


class StoredCodes:
    """A dataset of Moto with the codes of its LMDB in each sample.

    A sample gains `latent_motion_ids`, int64 (t, N), for the pairs (s, s + d), (s + d, s + 2d), ...; without a label
    `latent_mask` becomes 0, and the codes are 0, which the loss then ignores.

    Raises ValueError for a dataset whose `skip_frame` is not that of the labels, or is drawn at random.
    """

    def __init__(self, dataset: Any, lmdb_dir: str | Path | None = None) -> None:
        self.dataset = dataset
        self._folder = Path(lmdb_dir or dataset.lmdb_dir) / dataset.split
        with _open(self._folder) as environment, environment.begin() as transaction:
            meta = pickle.loads(self._value(transaction, "latent_motion_meta"))
        self._width = meta["per_latent_motion_len"]
        if dataset.skip_frame != meta["skip_frame"] or dataset.max_skip_frame not in (None, dataset.skip_frame):
            raise ValueError(
                f"the dataset pairs frames {dataset.skip_frame} to {dataset.max_skip_frame or dataset.skip_frame} "
                f"apart, {self._folder} has codes of frames {meta['skip_frame']} apart. Set skip_frame, and no "
                "max_skip_frame (in a mixture Moto multiplies it for names that it knows)."
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        for _ in range(_TRIES):
            sample = self._labelled(index)
            # As Moto does, draw another sample where there would be nothing to learn.
            if getattr(self.dataset, "do_extract_action", False) or sample["latent_mask"].sum() > 0:
                return sample
            index = random.randrange(len(self))
        raise ValueError(f"{self._folder}: {_TRIES} samples in a row have no label")

    def _labelled(self, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        mask = sample["latent_mask"]
        first, stride = self._first_step(sample), self.dataset.skip_frame
        steps = [first + i * stride if mask[i] > 0 else None for i in range(len(mask))]
        valid = [step is not None and pickle.loads(self._read(f"latent_motion_valid_{step}")) for step in steps]
        codes = np.zeros((len(steps), self._width), np.int64)
        for pair in np.flatnonzero(valid):
            codes[pair] = pickle.loads(self._read(f"latent_motion_ids_{steps[pair]}"))
        sample["latent_mask"] = mask.new_tensor(valid)
        sample["latent_motion_ids"] = mask.new_tensor(codes.tolist()).long()
        return sample

    def _first_step(self, sample: dict[str, Any]) -> int:
        """The step of the sample's first frame in the LMDB."""
        if "start_local_step" in sample:  # JsonDataset_for_MotoGPT_Video; our index names each video's first step
            return self.dataset.videos[sample["idx"]][2] + sample["start_local_step"]
        return self.dataset.start_step + sample["idx"]

    def _read(self, key: str) -> bytes:
        return self._value(self._transaction(), key)

    def _transaction(self) -> Any:
        """The dataset's own transaction, which it opens in each worker process; else a shared one."""
        if hasattr(self.dataset, "open_lmdb"):
            if not hasattr(self.dataset, "txn"):
                self.dataset.open_lmdb()
            return self.dataset.txn
        key = (os.getpid(), str(self._folder))
        if key not in _TRANSACTIONS:
            _TRANSACTIONS[key] = _open(self._folder).begin()
        return _TRANSACTIONS[key]

    def _value(self, transaction: Any, key: str) -> bytes:
        value = transaction.get(key.encode())
        if value is None:
            raise ValueError(f"{self._folder} has no {key}: it was not written by `lara-tok export moto`.")
        return value


def _open(folder: Path) -> Any:
    import lmdb

    return lmdb.open(str(folder), readonly=True, create=False, lock=False)


@contextmanager
def stored_codes(trainer: Any) -> Iterator[Any]:
    """Let a `MotoGPT_Trainer` use the codes of the batch within the block, and tokenize batches without codes.

    The trainer's tokenizer, if it has one, still renders its images; without one there are none.
    """
    online, calculate_loss = trainer.latent_motion_tokenizer, trainer.calculate_loss
    stand_in = _CodesOfTheBatch(online)

    def with_codes(batch: dict[str, Any], *args: Any, **options: Any) -> Any:
        stand_in.codes = batch.get("latent_motion_ids")
        try:
            return calculate_loss(batch, *args, **options)
        finally:
            stand_in.codes = None

    changes = {"latent_motion_tokenizer": stand_in, "calculate_loss": with_codes}
    if online is None:
        changes["eval_latent_motion_gen"] = lambda folder: None
    before = {name: trainer.__dict__[name] for name in changes if name in trainer.__dict__}
    trainer.__dict__.update(changes)
    try:
        yield trainer
    finally:
        for name in changes:
            del trainer.__dict__[name]
        trainer.__dict__.update(before)


def keep_patch_order(tokenizer: Any) -> Any:
    """Stop the ViT-MAE of Moto's tokenizer from shuffling the patches of a frame; returns the tokenizer.

    transformers' ViTMAEModel draws an order of its patches on every call, even if it masks none. A model that was
    trained on patches in order gives other codes then: for `lara-lam`, nearly all of them.

    >>> tokenizer = keep_patch_order(load_model("lara-lam-for-moto"))  # Moto's own   # doctest: +SKIP
    """
    forward = tokenizer.image_encoder.forward
    config = tokenizer.image_encoder.config
    in_order = list(range((config.image_size // config.patch_size) ** 2))

    def ordered(pixel_values: Any, *args: Any, **options: Any) -> Any:
        noise = pixel_values.new_tensor(in_order).float().expand(len(pixel_values), -1)
        return forward(pixel_values, noise, *args, **options)

    tokenizer.image_encoder.forward = ordered
    return tokenizer


class _CodesOfTheBatch:
    """A replacement for the trainer's tokenizer that returns the codes of the batch."""

    def __init__(self, online: Any) -> None:
        self.online = online
        self.codes: Any = None  # (B, t, N), int64, of the current batch

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.codes is not None:
            return self.codes.flatten(0, 1)  # one row per pair, as the tokenizer returns them
        if self.online is None:
            raise ValueError(
                "the batch has no latent_motion_ids, and the trainer no tokenizer: see with_stored_codes()"
            )
        return self.online(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.online, name)
