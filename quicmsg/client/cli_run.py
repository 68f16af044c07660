"""Running a command: event loop, signals, and what went wrong as one line and one exit status.

0 the asked state was reached, 1 other error, 2 usage, 3 failed (kept in the outbox), 4 timeout while waiting,
5 cannot connect, 6 sign-in refused, 7 certificate, 8 refused, 130 Ctrl+C, 141 stdout closed, 143 SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NoReturn

import click

from quicmsg.errors import ErrorCode, QuicmsgError

USAGE: Final = 2
TIMED_OUT: Final = 4
INTERRUPTED: Final = 130
OUTPUT_CLOSED: Final = 128 + 13
"""As a shell reports a program that died of SIGPIPE."""


class CommandError(QuicmsgError):
    """What a command ends with; `message_id`: the message that it concerns, which is kept."""

    def __init__(
        self, message: str, *, exit_status: int, code: ErrorCode = ErrorCode.INTERNAL, message_id: str = ""
    ) -> None:
        super().__init__(message, code=code)
        self.exit_status = exit_status
        self.message_id = message_id


def run_program(group: click.Command, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Parse the command line, do what it says, and exit with the right status; never a traceback."""
    _fill_standard_descriptors()
    given = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in given
    try:
        status = group.main(given, prog_name=name, standalone_mode=False) or 0
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else name
        text = " ".join(error.format_message().split())
        status = report(f"{text} (see `{where} --help`)", USAGE, ErrorCode.MALFORMED, as_json=as_json)
    except click.ClickException as error:
        status = report(error.format_message(), error.exit_code, ErrorCode.INTERNAL, as_json=as_json)
    except QuicmsgError as error:
        status = report_error(error, as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        status = OUTPUT_CLOSED
    except Exception as error:
        logging.getLogger(__name__).debug("unexpected", exc_info=True)
        text = (
            f"unexpected {type(error).__name__}: {error}. This is a bug; `-vv` before the command says where"
        )
        status = report(text, 1, ErrorCode.INTERNAL, as_json=as_json)
    _leave(status)


def run(body: Callable[[], Coroutine[Any, Any, int]], *, as_json: bool = False) -> int:
    """Run one command on an event loop of its own, and report what ended it. Returns the exit status."""
    from quicmsg.client.cli_stdio import OutputClosedError
    from quicmsg.config import check_open_files

    try:
        check_open_files()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_until_signal(body))
    except OutputClosedError:
        return OUTPUT_CLOSED
    except QuicmsgError as error:
        return report_error(error, as_json=as_json)


def error_object(error: QuicmsgError) -> dict[str, object]:
    """The same wherever an error is told in JSON."""
    found: dict[str, object] = {
        "code": int(error.code),
        "name": ErrorCode(error.code).name,
        "message": error.message,
    }
    message_id = getattr(error, "message_id", "")
    if message_id:
        found["message_id"] = message_id.hex() if isinstance(message_id, bytes) else message_id
    return found


def report_error(error: QuicmsgError, *, as_json: bool) -> int:
    """Tell it, and return its exit status."""
    status = error.exit_status
    return _report(error_object(error), status, as_json=as_json)


def report(text: str, status: int, code: ErrorCode, *, as_json: bool) -> int:
    """The same for what is none of our exceptions."""
    return _report({"code": int(code), "name": code.name, "message": text}, status, as_json=as_json)


def note(text: str) -> None:
    """One line for the person, on stderr: stdout belongs to the answer."""
    from quicmsg.client.cli_text import harmless

    with contextlib.suppress(OSError, ValueError):  # stderr is closed, or full: there is nobody to tell
        click.echo(f"quicmsg: {harmless(text)}", err=True)


def start_logging(verbose: int) -> None:
    """-v and -vv. Without them nothing: what a person has to know is said in one line."""
    level = (logging.CRITICAL + 1, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname).1s %(name)s %(message)s"
    )
    logging.getLogger("quic").setLevel(max(level, logging.WARNING))


# ---- private


async def _until_signal(body: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Ctrl+C and SIGTERM end the command in good order; a second one ends it at once."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(body())
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    came: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        came.append(number)
        for each in numbers:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        task.cancel()

    with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows, or not in the main thread
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not came:
            raise
        return 128 + came[0]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop


def _report(error: dict[str, object], status: int, *, as_json: bool) -> int:
    if as_json:
        from quicmsg.client.cli_stdio import STDOUT, OutputClosedError, write_all
        from quicmsg.client.cli_text import encode

        with contextlib.suppress(OutputClosedError, QuicmsgError):
            write_all(STDOUT, encode({"error": error}) + b"\n")
    else:
        note(str(error["message"]))
    return status


def _fill_standard_descriptors() -> None:
    """With stdin or stdout closed, the first file that is opened gets its number: a line that is meant for
    stdout would then be written into the journal."""
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)


def _leave(status: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except (BrokenPipeError, AttributeError):
        # Python would flush again, and complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status)
