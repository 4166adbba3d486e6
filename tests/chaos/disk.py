"""A full disk: a small tmpfs where this process may mount one, and a limit on the size of a file."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial

from chaos.scenario import Case, Scenario

SIZES = (24, 64, 140, 300)  # KB
WORKS = ("encode", "univla", "webdataset", "lerobot", "moto")


def full_disks() -> Iterator[Scenario]:
    """Disks and files that end at several sizes, so that the end comes in each phase of a command."""
    for size in SIZES:
        yield Scenario("disk full", f"encode: files of up to {size} KB", partial(_small_files, size))
    if os.geteuid() == 0 and shutil.which("mount"):
        for name in WORKS:
            for size in SIZES[1:3] if name == "encode" else SIZES[1:2]:
                yield Scenario("disk full", f"{name}: a disk of {size} KB", partial(_small_disk, name, size))


def _small_files(size: int, case: Case) -> None:
    work = case.bench.works["encode"]
    limit = size * 1024
    case.finish(case.start(work, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))))
    case.check_partial(work)
    case.complete(work)


def _small_disk(name: str, size: int, case: Case) -> None:
    """The command on a full disk; then there is room, and it goes on."""
    work = case.bench.works[name]
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", case.folder], capture_output=True)
    if mounted.returncode:
        case.ends.append("no mount here")
        return
    try:
        done = case.finish(case.start(work))
        if done.code == 0:
            case.ends.append("it had room")
        case.check_partial(work)
        subprocess.run(["mount", "-o", "remount,size=64m", case.folder], check=True)
        case.complete(work)
    finally:
        subprocess.run(["umount", "-l", case.folder], check=True)
