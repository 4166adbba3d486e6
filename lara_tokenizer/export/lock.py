"""One run at a time: two that write the same files would spoil each other's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks; there the caller must take care
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(file: Path, what: str) -> Iterator[None]:
    """Hold `file`, which is there, for as long as the block runs; a kill lets it go.

    Raises OSError, naming `what`, where another process holds it, or the file is replaced or gone by now.
    """
    with file.open("rb") as stream:
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(f"{what} is being written by another process. Wait for it.") from None
        if not file.exists() or not os.path.samestat(os.fstat(stream.fileno()), file.stat()):
            raise OSError(f"{what} was just written by another process.")
        yield
