"""Two processes with half the batch each take the steps that one takes with the whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_processes.py")
BATCH = 12


def losses(tokenizer: Path, folder: Path, processes: int, w1: float) -> list[float]:
    folder.mkdir()
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    ran = subprocess.run(
        [sys.executable, *launch, str(SCRIPT), str(tokenizer), str(folder), str(BATCH), str(w1)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads((folder / "losses.json").read_text(encoding="utf-8"))


def test_two_processes_train_as_one(tiny_checkpoint, tmp_path):
    one, two = (losses(tiny_checkpoint, tmp_path / str(processes), processes, 1.0) for processes in (1, 2))
    assert len(one) == 20
    assert one[-1] != one[0]
    assert two == pytest.approx(one, rel=1e-4)
    assert (tmp_path / "2" / "run" / "policy" / "config.json").is_file()


def test_two_processes_train_where_the_alignment_has_no_weight(tiny_checkpoint, tmp_path):
    assert len(losses(tiny_checkpoint, tmp_path / "2", 2, 0.0)) == 20
