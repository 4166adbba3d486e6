"""Worker processes, which may crash, hang or exhaust their memory without harm to the job.

- `process.py`: `WorkerProcess`, what the driver sees of one.
- `fork_server.py`: on Linux, a process that has loaded torch and the model once, and forks the workers.
- `server.py`: what runs in that process.

Workers never import the user's script, so a script needs no `if __name__ == "__main__"`. Tasks and messages go through
an inherited pipe (POSIX only).
"""

from lara_tokenizer.encode.pool.fork_server import ForkServer, can_fork
from lara_tokenizer.encode.pool.process import WorkerDied, WorkerLimits, WorkerProcess

__all__ = ["ForkServer", "WorkerDied", "WorkerLimits", "WorkerProcess", "can_fork"]
