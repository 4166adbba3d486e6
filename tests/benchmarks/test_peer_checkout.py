"""Comparisons with other projects run the code of the commit that they name, or none."""

from __future__ import annotations

import subprocess

import pytest
from peer_checkout import Peer, check, digest


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "lam").mkdir()
    (tmp_path / "lam" / "model.py").write_text("depth = 16")
    (tmp_path / "README.md").write_text("not run")
    return tmp_path


def _peer(checkout, commit="0" * 40):
    return Peer("Them", commit, ("lam/*.py",), digest(checkout, ("lam/*.py",)))


def test_what_was_found_is_told(checkout, capsys):
    peer = _peer(checkout)
    (checkout / "README.md").write_text("changed")
    assert check(checkout, peer) == {"commit": "0" * 40, "sha256": peer.sha256}
    assert "lam/*.py are those of the commit" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["edited", "renamed", "added", "absent"])
def test_other_files_are_refused(checkout, change):
    peer, file = _peer(checkout), checkout / "lam" / "model.py"
    if change == "edited":
        file.write_text("depth = 24")
    elif change == "renamed":
        file.rename(file.with_name("other.py"))
    elif change == "added":
        file.with_name("other.py").touch()
    else:
        file.unlink()
    with pytest.raises(SystemExit, match=r"without \.git; .* is not Them at 0000"):
        check(checkout, peer)


def test_another_commit_is_refused_though_the_files_are_the_same(checkout):
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert check(checkout, _peer(checkout, head))["commit"] == head
    with pytest.raises(SystemExit, match=f"at {head}; "):
        check(checkout, _peer(checkout))
