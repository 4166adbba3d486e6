"""Fresh interpreters for workers: their environment, and what they run first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import IO

# A worker ends with the driver, however that ends and whatever the worker is doing: on Linux the kernel kills it, also
# in a decoder that never returns. A closed pipe is noticed too late, after the unit.
_END_WITH_DRIVER = """
import ctypes, json, os, sys, threading, time
driver = int(sys.argv[3])
if sys.platform == "linux":
    PR_SET_PDEATHSIG, SIGKILL = 1, 9
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
if os.getppid() != driver:
    os._exit(1)
"""
# Where the kernel does not, the worker looks for its parent every second. Not in a server: fork takes one thread only.
_WATCH_DRIVER = """
def end_with_driver():
    while os.getppid() == driver:
        time.sleep(1)
    os._exit(1)
threading.Thread(target=end_with_driver, daemon=True).start()
"""
# Then it gets the driver's module path, where custom readers live, before it imports the rest.
_TAKE_PATH = "sys.path[:] = json.loads(sys.argv[2])\n"
IMPORT_WORKER = "from lara_tokenizer.encode.pool.worker import prepare\n"
_WORK = """
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
prepare(connection.recv_bytes())(connection)
"""
_SERVE = """
from lara_tokenizer.encode.pool.server import serve
serve(int(sys.argv[1]), prepare)
"""
# One thread per process: results do not depend on the number of cores, and processes do not compete for them.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# By default glibc returns memory to the kernel after each batch and requests it again for the next. Keeping it saves a
# tenth of the CPU time, and a long video peaks no higher than a short one.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20)}


def launch(descriptor: int, errors: IO[bytes], *, as_server: bool) -> subprocess.Popen[bytes]:
    """Start an interpreter that inherits a pipe: a worker, or a server that forks workers."""
    start = _SERVE if as_server else _WATCH_DRIVER + _WORK
    code = _END_WITH_DRIVER + _TAKE_PATH + IMPORT_WORKER + start
    return subprocess.Popen(
        # -P: never import from the working directory.
        [sys.executable, "-P", "-c", code, str(descriptor), json.dumps(sys.path), str(os.getpid())],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # ours may be the JSON of a command
        stderr=errors,
        env={**_KEEP_MEMORY, **os.environ, **_ONE_THREAD},
        process_group=0,  # Ctrl-C reaches the driver only, which stops its workers itself
    )
