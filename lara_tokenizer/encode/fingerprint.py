"""On what the bytes of a table depend, as plain JSON: the table's metadata, and what a resumed job must agree with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from lara_tokenizer.checkpoint import Checkpoint
from lara_tokenizer.data import SourceFacts
from lara_tokenizer.encode.plan import Job
from lara_tokenizer.table.schema import FORMAT_VERSION

_VERSIONS = ("av", "numpy", "pyarrow", "torch")


def job_fingerprint(
    job: Job,
    checkpoint: Checkpoint,
    *,
    sources: Sequence[SourceFacts],
    load: Mapping[str, Any],
    device: str,
) -> dict[str, Any]:
    """Everything that decides the rows, and nothing else: no time, host, worker count or path.

    Args:
        sources: what the sources are; of folders only the last path component counts, never where they lie.
        load: the options of `load_episodes` that decide frames and times, as given; of "decoder" there is always one:
            "pyav", "decord", "torchcodec", or a reader's own name.
        device: its type, "cpu" or "cuda".
    """
    decoder = load["decoder"]
    packages = _VERSIONS if decoder in ("pyav", *_VERSIONS) else (*_VERSIONS, decoder)
    return {
        "format_version": FORMAT_VERSION,
        "model": checkpoint.identity(),
        "strides": list(job.strides),
        "every": job.every,
        "columns": list(job.columns),
        "keep_tail": job.keep_tail,
        "min_motion": job.min_motion,
        "batch_size": job.batch_size,
        "dtype": job.dtype,
        "device": device,
        "source": [{"name": each.name, "format": each.format, "revision": each.revision} for each in sources],
        "load": {name: value for name, value in load.items() if value not in (None, [])},
        "versions": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
