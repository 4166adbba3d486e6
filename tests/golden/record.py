# ruff: noqa: T201  (a program: it prints)
"""Record digests of every output, to prove that a change of the code changes none of them.

    python tests/golden/record.py --tree OLD --work DIR --out DIR/before.json
    python tests/golden/record.py --tree NEW --work DIR --out DIR/after.json --resume-from DIR/before
    python tests/golden/compare.py DIR/before.json DIR/after.json

The tree under test is driven only through `lara-tok`. Inputs are made once, in DIR/inputs, and shared; the outputs of
a recording stay in DIR/<name of its JSON file>, where differing ones can be looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from digests import json_digests, tree_digests
from sections import SECTIONS

HERE = Path(__file__).resolve().parent


class Recording:
    """The outputs of one tree. Each belongs to a class:

    equal: must be the same in both recordings. close: numbers that agree to 1e-6. drift: numbers of the same runs,
    later, for information. free: prose, markup, public names.
    """

    def __init__(self, tree: Path, folder: Path, begun: Path) -> None:
        self.folder = folder
        self.begun = begun
        self.section = ""
        self.result: dict[str, Any] = {"tree": str(tree), "sections": {}, "errors": {}}
        self.result |= {"equal": {}, "close": {}, "drift": {}, "free": {}}
        paths = os.pathsep.join(str(tree / part) for part in ("", "policy", "cli"))
        # One thread: sums in another order have other roundings. A cache of its own: nothing is left from before.
        self.environment = os.environ | {
            "PYTHONPATH": paths,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(folder / "cache"),
            "COLUMNS": "100",
        }

    def _put(self, kind: str, key: str, value: Any) -> None:
        key = f"{self.section}/{key}"
        if self.result[kind].setdefault(key, value) != value:
            raise ValueError(f"{key} differs between runs that must agree")

    def python(self, *arguments: str) -> str:
        """The output of Python with the packages of the tree."""
        command = [sys.executable, *arguments]
        ran = subprocess.run(
            command, cwd=self.folder, env=self.environment, text=True, capture_output=True, check=False
        )
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"\n$ {' '.join(arguments)}\nexit {ran.returncode}\n{ran.stderr}{ran.stdout}\n")
        self.exit_code = ran.returncode
        if ran.returncode not in (0, 1) or (ran.returncode and "Traceback" in ran.stderr):
            raise RuntimeError(f"{' '.join(arguments)}: exit {ran.returncode}: {ran.stderr[-800:]}")
        return ran.stdout

    def command(self, line: str, key: str = "", output: str = "") -> str:
        """Run `lara-tok LINE` in the recording's folder.

        With `key`, its exit code and its output are recorded, which is JSON; `output` names a file or folder that it
        writes, to be recorded under that key too.
        """
        text = self.python("-m", "lara_tok", *line.split(), *(["--json"] if key else []))
        if key:
            self._put("equal", f"{key}/exit", self.exit_code)
            for kind, name, digest in json_digests(text.replace(f"{self.folder}/", ""), "stdout"):
                self._put(kind, f"{key}/{name}", digest)
        if output:
            self.tree(key, output)
        return text

    def tree(self, key: str, path: str) -> None:
        """Record a file, or all files of a folder."""
        digests = list(tree_digests(self.folder / path))
        if not digests:
            raise ValueError(f"{path}: no files")
        for kind, name, digest in digests:
            self._put(kind, f"{key}/{name}", digest)

    def equal(self, key: str, value: Any) -> None:
        self._put("equal", key, value)

    def agree(self, prefix: str, other: str) -> None:
        """Check that outputs under one prefix are those under another, as far as both were recorded."""
        digests = self.result["equal"]
        names = [key.removeprefix(prefix) for key in digests if key.startswith(prefix)]
        if differing := [
            name for name in names if digests.get(other + name, digests[prefix + name]) != digests[prefix + name]
        ]:
            raise ValueError(f"{prefix} and {other} differ: {', '.join(differing)}")

    def close(self, key: str, value: float) -> None:
        self._put("close", key, value)

    def drift(self, key: str, value: float) -> None:
        self._put("drift", key, value)

    def free(self, key: str, value: Any) -> None:
        self._put("free", key, value)

    def start_and_kill(self, line: str, is_due: Callable[[], bool]) -> None:
        """SIGKILL `lara-tok LINE` and its processes as soon as `is_due`. Raises ValueError where it ends before."""
        command = [sys.executable, "-m", "lara_tok", *line.split()]
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"\n$ {line} (to be killed)\n")
            log.flush()
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
            while process.poll() is None:
                if is_due():
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    break
                time.sleep(0.001)
        if process.returncode != -signal.SIGKILL:
            raise ValueError(f"{line}: ended with {process.returncode} before it could be killed")

    def check_tree(self, tree: Path) -> None:
        """Raises RuntimeError where the packages that run are not those of the tree."""
        packages = ("lara_tokenizer", "lara_policy", "lara_tok")
        text = f"import {', '.join(packages)}; print({', '.join(f'*{name}.__path__' for name in packages)})"
        files = self.python("-c", text)
        if any(not Path(file).is_relative_to(tree) for file in files.split()):
            raise RuntimeError(f"{tree} is recorded, but the packages are {files}")

    def run(self, sections: list[str], out: Path) -> None:
        """Record these sections; one that fails leaves an error, and the others go on. `out` is written after each."""
        for name in sections:
            self.section, start = name, time.monotonic()
            try:
                SECTIONS[name](self)
            except Exception as error:
                self.result["errors"][name] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
            seconds = time.monotonic() - start
            self.result["sections"][name] = round(seconds, 1)
            out.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON to write")
    parser.add_argument("--work", type=Path, required=True, help="folder of the inputs and of the recordings' outputs")
    parser.add_argument("--tree", type=Path, default=HERE.parents[1], help="root of the tree under test")
    parser.add_argument("--only", default="", help=f"some of {','.join(SECTIONS)}; the others stay as recorded")
    parser.add_argument("--resume-from", type=Path, help="outputs of an older recording, whose unfinished jobs go on")
    options = parser.parse_args()
    folder = (options.work / options.out.stem).resolve()
    chosen = [name for name in options.only.split(",") if name] or list(SECTIONS)
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"unknown section {', '.join(sorted(unknown))}")
    begun = options.resume_from.resolve() / "begin" if options.resume_from else folder / "begin"
    recording = Recording(options.tree.resolve(), folder, begun)
    for name in chosen:
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not (options.work / "inputs").exists():
        subprocess.run(
            [sys.executable, str(HERE / "inputs.py"), str(options.work.resolve() / "inputs")],
            env=recording.environment,
            check=True,
        )
    if options.only and options.out.exists():
        _keep(recording.result, json.loads(options.out.read_text(encoding="utf-8")), chosen)
    recording.check_tree(options.tree.resolve())
    recording.run(chosen, options.out)
    sys.exit(bool(recording.result["errors"]))


def _keep(result: dict[str, Any], earlier: dict[str, Any], chosen: list[str]) -> None:
    """Take over the sections of an earlier recording that are not recorded again."""
    for kind in ("sections", "errors", "equal", "close", "drift", "free"):
        result[kind] |= {key: value for key, value in earlier[kind].items() if key.split("/")[0] not in chosen}


if __name__ == "__main__":
    main()
