"""A finished LeRobotDataset to the Hub, as LeRobot finds it there: a dataset repository with a tag of its version."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from lara_tokenizer.errors import first_line

_REPO = re.compile(r"[\w.-]+/[\w.-]+")


def check_push(repo_id: str | None) -> None:
    """Raises ValueError for what is no "user/name", and where nobody is logged in."""
    if repo_id is None:
        return
    if not _REPO.fullmatch(repo_id):
        raise ValueError(f"--push {repo_id!r}: takes a dataset repository of the Hub as user/name.")
    from huggingface_hub import get_token

    if get_token() is None:
        raise ValueError("--push needs an account: run `hf auth login`, or set HF_TOKEN.")


def push_dataset(folder: Path, repo_id: str, version: str) -> None:
    """Upload a dataset, and move its tag of LeRobot's format version, e.g. "v3.0", to what was uploaded.

    Raises ValueError where the Hub takes it not; the folder stays as it is, and the message says how to go on.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    api = HfApi()
    try:
        api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, repo_type="dataset", commit_message="Latent action labels"
        )
        with suppress(RevisionNotFoundError):  # the first upload has none
            api.delete_tag(repo_id, tag=version, repo_type="dataset")
        api.create_tag(repo_id, tag=version, repo_type="dataset")
    except Exception as error:  # the hub's errors share no base, and each means: not pushed
        raise ValueError(
            f"{folder} is complete, and was not pushed to {repo_id} ({first_line(error)}). Push it by: hf upload "
            f"{repo_id} {folder} --repo-type dataset && hf repos tag create {repo_id} {version} --repo-type dataset"
        ) from error
