"""Options of a job, checked in milliseconds: without torch, and before the source, which may take minutes to list."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack, cast

from lara_tokenizer.checkpoint import folder_on_disk
from lara_tokenizer.checkpoint.settings import check_dtype, read_model_settings
from lara_tokenizer.data.load import LoadOptions
from lara_tokenizer.data.stride import Stride
from lara_tokenizer.encode.device import resolve_device
from lara_tokenizer.table.schema import OPTIONAL_COLUMNS
from lara_tokenizer.verdict.findings import stride_findings

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")


class RowKeywords(TypedDict, total=False):
    """The keywords of `encode_dataset` that decide rows, besides the model and its dtype."""

    strides: str | Sequence[str] | None
    every: str
    columns: str | Sequence[str]
    keep_tail: bool
    min_motion: float
    batch_size: int


class EncodeKeywords(RowKeywords, LoadOptions, total=False):
    """The keywords of `encode_dataset`, without those of its output, for functions that pass them on."""

    dtype: str | None
    device: str | None
    workers: int | None


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """Options on which the rows of a table depend, checked, with the sizes of the model.

    Raises ValueError naming the option, its value and what it takes.
    """

    strides: tuple[str, ...]
    """Sorted as text, as in the table."""
    num_latents: int
    codebook_dim: int
    codebook_size: int | None
    """None for a continuous bottleneck."""
    every: str = "1f"
    columns: tuple[str, ...] = ()
    keep_tail: bool = False
    min_motion: float = 0.0
    batch_size: int = 64
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.columns) - set(OPTIONAL_COLUMNS)):
            raise ValueError(
                f"column {unknown[0]!r}: unknown; the columns that can be added are {', '.join(OPTIONAL_COLUMNS)}"
            )
        if not 0 <= self.min_motion < 1:
            raise ValueError(
                f"min_motion {self.min_motion}: takes a mean change of the pixels, 0 (keep all) to 1; noise is 0.004"
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size}: takes at least 1")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: takes {', '.join(DTYPES)}")

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table."""
        from lara_tokenizer.table.schema import token_schema

        return token_schema(self.num_latents, self.codebook_dim, self.codebook_size, self.columns)

    @property
    def needs_signals(self) -> bool:
        """True if rows contain actions or text of the episode."""
        return bool({"actions", "text"} & set(self.columns))


class ModelSizes(Protocol):
    """Sizes of a model: those of a `LatentActionConfig` or a `Checkpoint`."""

    @property
    def num_latents(self) -> int: ...
    @property
    def codebook_dim(self) -> int: ...
    @property
    def codebook_size(self) -> int | None: ...
    @property
    def strides(self) -> Sequence[str]: ...


def resolve_options(sizes: ModelSizes, *, dtype: str = "float32", **keywords: Unpack[RowKeywords]) -> EncodeOptions:
    """Normalise the keywords of `encode_dataset`, and complete them by what the model determines.

    Raises ValueError for an option that is out of range. Logs a warning for a stride that the model was not trained on.

    >>> resolve_options(LatentActionConfig(), strides=["5f", "1f", "5f"]).strides  # doctest: +SKIP
    ('1f', '5f')
    """
    if unknown := keywords.keys() - RowKeywords.__annotations__.keys():
        raise TypeError(f"unexpected keyword {min(unknown)!r}; takes {', '.join(RowKeywords.__annotations__)}")
    requested, columns = keywords.get("strides"), keywords.get("columns", ())
    requested = [requested] if isinstance(requested, str) else requested or sizes.strides[:1]
    # A dict, as one stride may be given twice.
    strides = {Stride.parse(text).text: Stride.parse(text) for text in requested}
    options = EncodeOptions(
        strides=tuple(sorted(strides)),
        num_latents=sizes.num_latents,
        codebook_dim=sizes.codebook_dim,
        codebook_size=sizes.codebook_size,
        every=Stride.parse(keywords.get("every", "1f")).text,
        columns=tuple(sorted({columns} if isinstance(columns, str) else set(columns))),
        keep_tail=keywords.get("keep_tail", False),
        min_motion=float(keywords.get("min_motion", 0.0)),
        batch_size=keywords.get("batch_size", 64),
        dtype=dtype,
    )
    for finding in stride_findings(options.strides, sizes.strides):
        logger.warning(finding.sentence)
    return options


def split_keywords(keywords: EncodeKeywords) -> tuple[RowKeywords, LoadOptions]:
    """The keywords of `resolve_options` and, all that is left, of `load_episodes`, which refuses unknown ones."""
    rows = {name: value for name, value in keywords.items() if name in RowKeywords.__annotations__}
    own = EncodeKeywords.__annotations__.keys() - LoadOptions.__annotations__.keys()
    load = {name: value for name, value in keywords.items() if name not in own}
    return cast(RowKeywords, rows), cast(LoadOptions, load)


def check_options(
    model: Any, *, out: str | os.PathLike[str] | None = None, on_error: str = "skip", **keywords: Unpack[EncodeKeywords]
) -> None:
    """Raise ValueError for what is wrong whatever the source is: an option, or a model that is not what it should be.

    Arguments are those of `encode_dataset`. Whether a model on the Hub is one is known when it is downloaded.
    """
    if out is not None:
        from lara_tokenizer.table.write import OutputPath

        OutputPath.parse(out).check_parent()
    if on_error not in ("skip", "fail"):
        raise ValueError(f"on_error {on_error!r}: takes 'skip' or 'fail'")
    rows, _ = split_keywords(keywords)
    dtype, workers = keywords.get("dtype") or "float32", keywords.get("workers")
    resolve_options(_AnyModel(), dtype=dtype, **rows)
    if workers is not None and workers < 0:
        raise ValueError(f"workers {workers}: takes a number of processes, or 0 for this one only")
    if isinstance(model, (str, os.PathLike)) and (folder := folder_on_disk(model)) is not None:
        check_dtype(read_model_settings(folder).model_type, dtype)
    if keywords.get("device") is not None:
        resolve_device(keywords["device"])


@dataclass(frozen=True, slots=True)
class _AnyModel:
    """Sizes to check options with, before the model's own are known."""

    num_latents: int = 1
    codebook_dim: int = 1
    codebook_size: int | None = None
    strides: tuple[str, ...] = ()
