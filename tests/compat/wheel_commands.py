"""The README's commands, run one after the other at cut-down size: python wheel_commands.py LARA_TOK."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time

from document_commands import PAGES, Typed, commands_of

# Words of a command that needs what is not here: the Hub, shards, somebody else's checkpoint.
ABSENT = (
    "lerobot:user/name",
    "datasets:user/name",
    "oxe/bridge_dataset",
    "shards/{000..011}.tar",
    "laq_openx.pt",
    "lapa-laq",
)
# Options added to a command, or put in place of its own.
SMALLER = {
    "simulate": {"--episodes": "3"},
    "train": {"--steps": "4", "--batch-size": "4"},
    "refine": {"--steps": "4", "--batch-size": "4"},
    "rollout": {"--episodes": "1"},
}


def main(lara_tok: str) -> None:
    commands = commands_of(PAGES[0])
    # Demonstrations are made further down on the page than they are first used.
    commands.sort(key=lambda each: each.arguments[0] not in ("simulate",))
    failed = 0
    for each in commands:
        if set(ABSENT) & set(each.arguments):
            print(f"left out: lara-tok {shlex.join(each.arguments)}", flush=True)
            continue
        failed += not run([lara_tok, *smaller(each)])
    sys.exit(f"{failed} commands failed" if failed else 0)


def smaller(each: Typed) -> list[str]:
    """The arguments with the options of `SMALLER`."""
    words = list(each.arguments)
    for option, value in SMALLER.get(words[0], {}).items():
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    return words


def run(words: list[str]) -> bool:
    """Run a command; its output is printed if it fails."""
    begun = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    state = "ran" if done.returncode == 0 else f"failed with {done.returncode}"
    print(f"{state}, {time.monotonic() - begun:.0f} s: lara-tok {shlex.join(words[1:])}", flush=True)
    if done.returncode:
        print(done.stdout + done.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    main(sys.argv[1])
