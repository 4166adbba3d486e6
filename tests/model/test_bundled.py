"""Search order of "lara-lam": a local folder, the installed wheel, the checkout, the Hub."""

from __future__ import annotations

import pytest

from lara_tokenizer.model import bundled
from lara_tokenizer.model.bundled import resolve_checkpoint


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """installed("checkpoints") writes a bundled checkpoint there, in a package in a folder of its own."""
    package = tmp_path / "site" / "lara_tokenizer"
    monkeypatch.setattr(bundled, "__file__", str(package / "model" / "bundled.py"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    folders = {"checkpoints": package / "checkpoints", "hub_configs": package.parent / "hub_configs"}

    def put(name):
        folder = folders[name] / "lara-lam"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        return str(folder)

    return put


@pytest.mark.parametrize("place", ["checkpoints", "hub_configs"])
def test_the_bundled_checkpoint_is_found_in_a_wheel_and_in_a_checkout(installed, place):
    folder = installed(place)
    assert resolve_checkpoint("lara-lam") == folder


def test_the_wheel_comes_before_the_checkout(installed):
    installed("hub_configs")
    in_the_wheel = installed("checkpoints")
    assert resolve_checkpoint("lara-lam") == in_the_wheel


def test_a_local_folder_of_that_name_wins(installed, tmp_path):
    installed("checkpoints")
    (tmp_path / "work" / "lara-lam").mkdir()
    assert resolve_checkpoint("lara-lam") == "lara-lam"


def test_without_a_bundled_checkpoint_the_name_goes_to_the_hub(installed):
    assert resolve_checkpoint("lara-lam") == "lara-lam"


def test_other_names_pass_unchanged(installed, tmp_path):
    installed("checkpoints")
    for name in ("someone/their-lam", "lara-lam-large", tmp_path):
        assert resolve_checkpoint(name) == name
