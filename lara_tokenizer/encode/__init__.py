"""Video to a token table: each frame is decoded and passes the vision encoder once, and a stopped job can be resumed.

The path of a frame from `lara-tok encode` to a row:

1. `cli/lara_tok/encode.py` parses the options and calls `encode_dataset(source, ...)`.
2. `data/load.py` resolves the source by the registry of formats in `data/sources.py` into a list of episodes, e.g. of
   `data/lerobot/dataset.py`, whose episodes are read by `data/lerobot/reader.py`.
3. `encode/dataset.py`, the driver, opens an `EncodeJob` (`job.py`: checkpoint, options, fingerprint) and a `Store`
   (`store.py`: what earlier runs of the job did), and puts the pending tasks into a `TaskQueue` (`tasks.py`).
4. An engine (`engines.py`) hands tasks to workers: in this process, or in worker processes (`pool.py`).
5. A worker (`worker.py`) answers a `PlanTask` by `plan.py`: the episode's pairs, cut into units of at most 1,024 first
   frames; and a `UnitTask` by `encode_unit(unit, frames, model, options)` in `encode.py`.
6. `frames.read(indices)` decodes by `data/video/reader.py`, `packets.py` and `gop_decoder.py` exactly the requested
   frames, uint8 (n, H, W, 3). The processor resizes them; `model_runner.py` encodes each frame once, then every pair;
   `camera_motion.py` marks pairs in which the whole image moves.
7. The store commits the unit's rows as Arrow bytes. When all are there, `table/write.py` writes them in the table's
   order (episode, camera, stride, frame) with the types of `table/schema.py`.

A plan records the state of the episode's files (`table/provenance.py`). A worker compares it before and after it reads,
the store when a run goes on and before the table is written.

Beside the driver, `estimate.py` predicts the time of a job, `verify.py` encodes a sample of a table again, and
`preview/` draws the frames that codes predict.

>>> from lara_tokenizer.encode import encode_dataset
>>> encode_dataset("videos/", "lara-lam", out="tokens.parquet", strides="0.6s")  # doctest: +SKIP

The names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lara_tokenizer._lazy import lazy

if TYPE_CHECKING:
    from lara_tokenizer.encode.dataset import EncodeSummary, encode_dataset
    from lara_tokenizer.encode.encode import encode_episode
    from lara_tokenizer.encode.estimate import EncodeEstimate, Progress, estimate_dataset
    from lara_tokenizer.encode.preview.draw import draw_predictions
    from lara_tokenizer.encode.verify import VerifyReport, verify_tokens

__all__ = [
    "EncodeEstimate",
    "EncodeSummary",
    "Progress",
    "VerifyReport",
    "draw_predictions",
    "encode_dataset",
    "encode_episode",
    "estimate_dataset",
    "verify_tokens",
]

_HOME = {
    "EncodeEstimate": "estimate",
    "EncodeSummary": "dataset",
    "Progress": "estimate",
    "VerifyReport": "verify",
    "draw_predictions": "preview.draw",
    "encode_dataset": "dataset",
    "encode_episode": "encode",
    "estimate_dataset": "estimate",
    "verify_tokens": "verify",
}

__getattr__, __dir__ = lazy(__name__, _HOME)
