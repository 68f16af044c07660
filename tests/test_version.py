"""The version stands in two places, since the package must be built without importing it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import quicmsg


def test_package_and_project_agree_on_the_version() -> None:
    """What `quicmsg.__version__` says is what was installed."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert project["version"] == quicmsg.__version__
