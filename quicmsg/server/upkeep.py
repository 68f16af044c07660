"""What an operator does with a store's file: `quicmsg fsck`, `backup`, `restore`, `new-epoch`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from quicmsg.errors import QuicmsgError
from quicmsg.limits import STORE_DAMAGES_SHOWN
from quicmsg.server.options import DATA, STORE
from quicmsg.server.settings import Settings
from quicmsg.store import backup as copies
from quicmsg.store import check

T = TypeVar("T")
_SETTINGS = {"auto_envvar_prefix": "QUICMSG"}
_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.command("fsck", context_settings=_SETTINGS)
@DATA
@STORE
@click.option(
    "--accept", is_flag=True,
    help="Take what is damaged as it now is, and give it out again: if there is no backup.",
)  # fmt: skip
def fsck(data: Path, store: str | None, accept: bool) -> None:
    """Check everything that the server has stored; it may be running (not with --accept). Exit status 1:
    something is damaged."""

    def run(path: Path) -> list[check.Damage]:
        with check.reading(path) as connection:
            return check.whole(connection, _report)

    path, damages = _on_store(data, store, run)
    for damage in damages[:STORE_DAMAGES_SHOWN]:
        click.echo(f"damaged: {damage}")
    if len(damages) > STORE_DAMAGES_SHOWN:
        click.echo(f"... {len(damages)} in all")
    if damages and accept:
        _on_store(data, store, copies.accept)
        _, damages = _on_store(data, store, run)
        click.echo(f"{path}: accepted as it is; {len(damages)} damages are left")
        sys.exit(1 if damages else 0)
    if damages:
        otherwise = "Without a backup, quicmsg fsck --accept takes what is there as it is."
        if any(damage.in_pages for damage in damages):
            otherwise = (
                "It cannot be accepted as it is, since the pages are damaged in which all else is kept."
            )
        click.echo(
            f"quicmsg: {path} is damaged. Stop the server and put the newest good backup in its place "
            f"(quicmsg restore FILE); the damaged file is kept beside it. {otherwise} Check the disk, too.",
            err=True,
        )
        sys.exit(1)
    click.echo(f"{path}: nothing is damaged")


@click.command("backup", context_settings=_SETTINGS)
@_FILE
@DATA
@STORE
def backup(file: Path, data: Path, store: str | None) -> None:
    """Copy what the server has stored to FILE, which must not exist yet. The server may be running. The
    copy is checked before this says that it is there."""
    _on_store(data, store, lambda path: copies.backup(path, file, _report))
    click.echo(f"{file}: a checked backup")


@click.command("restore", context_settings=_SETTINGS)
@_FILE
@DATA
@STORE
def restore(file: Path, data: Path, store: str | None) -> None:
    """Put the backup FILE in place of what a stopped server has stored; that is kept under another name.

    The next start begins a new epoch: every client notices, fetches again, and shows nothing twice. What was
    stored after the backup is lost, unless a client has it in its outbox; codes that were used, and devices
    that were removed since then, are good again."""
    path, aside = _on_store(data, store, lambda path: copies.restore(file, path, _report))
    kept = f"; what was there is now {aside}" if aside is not None else ""
    click.echo(f"{path}: restored from {file}{kept}. The next start begins a new epoch")


@click.command("new-epoch", context_settings=_SETTINGS)
@DATA
@STORE
def new_epoch(data: Path, store: str | None) -> None:
    """Say that this store was put back from an older copy, if the server did not notice by itself. It must
    not be running; its next start begins a new epoch, and every client fetches again."""
    path, _ = _on_store(data, store, copies.begin_epoch)
    click.echo(f"{path}: the next start begins a new epoch")


def _on_store(data: Path, store: str | None, function: Callable[[Path], T]) -> tuple[Path, T]:
    try:
        path = Settings((), data, data, store).store_path()
        return path, function(path)
    except QuicmsgError as error:
        click.echo(f"quicmsg: {error}", err=True)
        sys.exit(error.exit_status)


def _report(text: str) -> None:
    click.echo(f"= {text}", err=True)
