"""Samples of a WebDataset tar, from its headers: consecutive members whose names agree up to the first dot."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lara_tokenizer.errors import first_line

_MAX_HEADER = 2**20  # of long names and of pax attributes; ordinary headers have 512 bytes


class Span(NamedTuple):
    """Position of a member's bytes in the tar."""

    offset: int
    size: int


class _Headers(io.FileIO):
    """A tar of which only headers are read: one that claims megabytes is refused, not allocated."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


@dataclass(slots=True)
class Sample:
    """Consecutive members with one key."""

    key: str
    members: dict[str, Span] = field(default_factory=dict)
    """By extension: everything after the first dot of the base name, in lower case."""
    unreadable: str = ""  # extension of a member without bytes of its own in the tar


class TarSamples:
    """Iterates over the samples of one tar; afterwards `note` describes what is wrong with it, "" for nothing.

    Reads headers only. A sample whose last member is cut off is left out. Raises OSError for a missing file.

    >>> [sample.key for sample in TarSamples("train-000000.tar")]  # doctest: +SKIP
    ['000000', '000001']
    """

    def __init__(self, path: str | Path) -> None:
        self.path = os.fspath(path)
        self.note = ""
        self._left_out = 0

    def __iter__(self) -> Iterator[Sample]:
        sample: Sample | None = None
        for name, span in self._members():
            key, extension = split_name(name)
            if not extension:
                continue
            # The same name twice in a row is two samples: some writers number the samples of each part from 0 again.
            if sample is None or sample.key != key or extension in sample.members:
                if sample is not None and self._is_whole(sample):
                    yield sample
                sample = Sample(key)
            if span is None:
                sample.unreadable = extension
            else:
                sample.members[extension] = span
        if sample is not None and not self._is_cut(sample) and self._is_whole(sample):
            yield sample

    def _is_whole(self, sample: Sample) -> bool:
        """Whether all members can be read. A video without some of its frames would be wrong, not just shorter."""
        if sample.unreadable:
            self._left_out += 1
            self.note = (
                f"{self._left_out} samples are left out, of which a member is sparse, or a link to nothing before it "
                f"({sample.key}.{sample.unreadable})"
            )
        return not sample.unreadable

    def _members(self) -> Iterator[tuple[str, Span | None]]:
        seen: dict[str, Span] = {}  # earlier members, which hard links refer to
        with _Headers(self.path) as file:
            try:
                yield from self._read_members(file, seen)
            except OSError:
                raise
            except Exception as error:
                # Damaged headers make tarfile raise many types: TarError, ValueError, RecursionError ...
                self.note = f"cut off or damaged ({first_line(error)}): what follows is left out"

    def _read_members(self, file: _Headers, seen: dict[str, Span]) -> Iterator[tuple[str, Span | None]]:
        # "r:" refuses compressed tars: those cannot be read from the middle.
        with tarfile.open(fileobj=file, mode="r:") as tar:
            end = 0
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all of them in memory
                if member.size < 0 or tar.offset <= end:
                    raise tarfile.ReadError(f"a member of {member.size} bytes")
                end = tar.offset
                if member.isdir():
                    continue
                span = None
                if member.isreg() and not member.issparse():
                    span = Span(member.offset_data, member.size)
                elif member.islnk():
                    span = seen.get(member.linkname)
                if span is not None:
                    seen[member.name] = span
                yield member.name, span
            self.note = self._end_note(tar.offset) or self.note

    def _end_note(self, offset: int) -> str:
        """A note unless the members are followed by a block of zeros, as in every complete tar."""
        with open(self.path, "rb") as file:
            file.seek(offset)
            block = file.read(512)
        if not block:
            return "it has no end mark: is it cut off?"
        return "" if not any(block) else f"damaged at byte {offset:,}: what follows is left out"

    def _is_cut(self, sample: Sample) -> bool:
        size = os.path.getsize(self.path)
        return any(span.offset + span.size > size for span in sample.members.values())


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member, by WebDataset's convention.

    >>> split_name("./kitchen/000012.top.MP4"), split_name("v1.0/a.mp4"), split_name("README")
    (('kitchen/000012', 'top.mp4'), ('v1.0/a', 'mp4'), ('README', ''))
    """
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower() if stem else ""
