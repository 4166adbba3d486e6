"""Upload of a labelled dataset to the Hub: the files that the export wrote, and no others."""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from lara_tokenizer._files import summarize_names
from lara_tokenizer.errors import first_line
from lara_tokenizer.export.lerobot.files import list_files
from lara_tokenizer.export.lerobot.folder import read_info

_REPO = re.compile(r"[\w.-]+/[\w.-]+")


def check_push(repo_id: str | None) -> None:
    """Raises ValueError for a name other than "user/name", and where nobody is logged in."""
    if repo_id is None:
        return
    if not _REPO.fullmatch(repo_id):
        raise ValueError(f"--push {repo_id!r}: takes a dataset repository of the Hub as user/name.")
    from huggingface_hub import get_token

    if get_token() is None:
        raise ValueError("--push needs an account: run `hf auth login`, or set HF_TOKEN.")


def push_dataset(folder: Path, repo_id: str, names: Set[str]) -> list[str]:
    """Upload a dataset, and move the tag by which LeRobot finds its format version, e.g. "v3.0".

    Args:
        names: of the files that the export wrote. Others, and links, are not uploaded.

    Returns sentences for the user.

    Raises ValueError where the Hub refuses it; the folder stays as it is, and the message gives the next command.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    version = read_info(folder).version
    found = list_files(folder.resolve())
    links = {name for name in found.names if _is_below_link(folder, name)}
    others = sorted({*found.names, *found.left_out} - names | links)
    ignored = [glob.escape(name) for name in others]
    api = HfApi()
    try:
        api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            repo_type="dataset",
            commit_message="Latent action labels",
            ignore_patterns=ignored,
        )
        with suppress(RevisionNotFoundError):  # of a first upload
            api.delete_tag(repo_id, tag=version, repo_type="dataset")
        api.create_tag(repo_id, tag=version, repo_type="dataset")
    except Exception as error:  # the Hub's errors share no base class, and each means: not pushed
        without = "".join(f" --exclude {shlex.quote(pattern)}" for pattern in ignored)
        raise ValueError(
            f"{folder} is complete, and was not pushed to {repo_id} ({first_line(error)}). Push it by: hf upload "
            f"{repo_id} {folder} --repo-type dataset{without} && hf repos tag create {repo_id} {version} --repo-type "
            "dataset"
        ) from error
    notes = [f"not pushed, as this export did not write it: {summarize_names(others)}"] if others else []
    return [*notes, f"pushed to {repo_id}, tagged {version}"]


def _is_below_link(folder: Path, name: str) -> bool:
    """Whether a file is a link, or in a folder that is one: exports contain none."""
    path = folder / name
    return any(part.is_symlink() for part in (path, *path.parents) if part.is_relative_to(folder) and part != folder)
