"""`python -m quicmsg.server`, also `quicmsg serve`: run a server until SIGTERM or Ctrl+C."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import sys
import time
from pathlib import Path

import click

from quicmsg.config import check_open_files, format_address, parse_address
from quicmsg.errors import QuicmsgError
from quicmsg.limits import DEFAULT_PORT, INVITE_CODE_LIFETIME
from quicmsg.server import Server, make_code
from quicmsg.server.options import DATA, STORE
from quicmsg.server.settings import Settings
from quicmsg.store import MakeCode, check
from quicmsg.store.sqlite import SqliteStore


@click.command("serve", context_settings={"auto_envvar_prefix": "QUICMSG", "show_default": True})
@click.option(
    "--listen", multiple=True, metavar="HOST:PORT", default=[f"127.0.0.1:{DEFAULT_PORT}"],
    help="Address to listen at (UDP); may be given several times. 0.0.0.0 and [::] are all addresses.",
)  # fmt: skip
@DATA
@click.option(
    "--certs", type=click.Path(path_type=Path, file_okay=False), default=Path("certs"),
    help="Directory of the certificates; the first start makes a development CA there (ca.pem).",
)  # fmt: skip
@STORE
@click.option(
    "--name", "names", multiple=True, metavar="HOST",
    help="A further name or address by which clients reach this server (goes into the certificate).",
)  # fmt: skip
@click.option(
    "--hint", default="", metavar="TEXT",
    help="What the ready line says about connecting (in a container: how it looks from outside).",
)  # fmt: skip
@click.option("--invite-only", is_flag=True, help="New users need a code from `quicmsg invite`.")
@click.option("-v", "--verbose", count=True, help="More on stderr; -vv says even more.")
def serve(
    listen: tuple[str, ...],
    data: Path,
    certs: Path,
    store: str | None,
    names: tuple[str, ...],
    hint: str,
    invite_only: bool,
    verbose: int,
) -> None:
    """Run a server. Prints one line on stdout when it is ready; stops on SIGTERM and Ctrl+C."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose + 1, 2)]
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname).1s %(name)s %(message)s"
    )
    # aioquic warns about each packet that breaks the rules: any stranger could flood the log with it.
    logging.getLogger("quic").setLevel(logging.ERROR)
    try:
        addresses = tuple(parse_address(text) for text in listen)
        settings = Settings(addresses, data, certs, store, names, invite_only, hint)
        status = _run(settings)
    except QuicmsgError as error:
        click.echo(f"quicmsg: {error}", err=True)
        status = error.exit_status
    sys.exit(status)


@click.command("invite", context_settings={"auto_envvar_prefix": "QUICMSG"})
@DATA
@STORE
def invite(data: Path, store: str | None) -> None:
    """Print a one-time code with which a new user can sign in to an invite-only server (which must not
    be running on the same data directory)."""
    try:
        path = Settings((), data, data, store).store_path()
        check.refuse_missing(path)  # a new database would know a code that no server knows
        database = SqliteStore(path, epoch_source=_draw_epoch)
        code = make_code()
        expires = time.time_ns() // 1_000_000 + int(INVITE_CODE_LIFETIME * 1000)
        database.execute([MakeCode("invite", "", code, expires)])
        database.close()
    except QuicmsgError as error:
        click.echo(f"quicmsg: {error}", err=True)
        sys.exit(error.exit_status)
    click.echo(code)


def _draw_epoch() -> int:
    return secrets.randbits(62) + 1


def _run(settings: Settings) -> int:
    check_open_files()
    factory = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await Server.start(settings)
    if settings.invite_only:
        click.echo(f"invite code for one new user: {await server.make_invite()}", err=True)
    click.echo(ready_line(server))
    sys.stdout.flush()
    server.failed.add_done_callback(lambda _: stop.set())
    await stop.wait()
    if not server.failed.done():
        await server.stop()
    if server.failed.done():  # also in its last moments: what was not stored was never called stored
        error = server.failed.result()
        click.echo(f"quicmsg: the store failed, nothing more is accepted: {error}", err=True)
        await server.stop(0)
        return error.exit_status
    return 0


def ready_line(server: Server) -> str:
    """The one line on stdout: where it listens, and how to connect."""
    where = ", ".join(format_address(*address) for address in server.addresses)
    host, port = server.addresses[0]
    near = format_address("localhost" if host in ("0.0.0.0", "::") else host, port)
    ca = server.certificate.ca_file
    trust = f" --ca {ca}" if ca is not None else ""
    hint = server.settings.hint or f"python -m quicmsg.client --server {near}{trust} --user NAME"
    return f"quicmsg ready on {where} - connect: {hint}"


if __name__ == "__main__":
    serve()
