"""Flags that several of the server's commands have."""

from __future__ import annotations

from pathlib import Path

import click

DATA = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), default=Path("data"), show_default=True,
    help="Directory of the database and the server's own keys.",
)  # fmt: skip
STORE = click.option("--store", metavar="URL", help="sqlite:PATH; default: a file in the data directory.")
