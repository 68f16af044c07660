"""`python -m quicmsg.conformance HOST:PORT`: run every check against a server, say how each went."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from quicmsg.conformance import framing, groups, messages, positions, resuming, signing
from quicmsg.conformance.checking import Check, Result, World, preflight, start
from quicmsg.errors import QuicmsgError

CHECKS: tuple[Check, ...] = (
    *framing.check.all,
    *signing.check.all,
    *resuming.check.all,
    *messages.check.all,
    *positions.check.all,
    *groups.check.all,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all ok, 1 a check failed, 2 usage, 5 no connection, 6 no sign-in, 7 certificate."""
    logging.getLogger("quic").setLevel(logging.CRITICAL)  # what it says is said by the checks, in words
    parser = argparse.ArgumentParser(
        prog="python -m quicmsg.conformance",
        description="Check a quicmsg server against docs/protocol.md. Makes throw-away users.",
    )
    parser.add_argument("server", metavar="HOST:PORT")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="the server's ca.pem (default: public CAs)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--only", metavar="RULE", action="append", help="only checks of this rule, as M14")
    options = parser.parse_args(arguments)
    host, _, port = options.server.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        parser.error(f"{options.server!r} is not HOST:PORT")
    checks = [check for check in CHECKS if not options.only or check.rule in options.only]
    if not checks:
        parser.error(f"no check for {', '.join(options.only)}")
    try:
        return asyncio.run(_run(checks, host.strip("[]"), int(port), options.ca, as_json=options.json))
    except QuicmsgError as error:
        sys.stderr.write(f"quicmsg: {error.message}\n")
        return error.exit_status
    except KeyboardInterrupt:
        return 130


async def _run(checks: Sequence[Check], host: str, port: int, ca_file: Path | None, *, as_json: bool) -> int:
    async with World(host, port, ca_file) as world:
        await preflight(world)
    failed = 0
    for count, task in enumerate(start(checks, host, port, ca_file), 1):
        result = await task
        failed += bool(result.problem)
        _write(_json(result) if as_json else f"{count:3} {_line(result)}")
    if as_json:
        _write(json.dumps({"event": "summary", "checks": len(checks), "failed": failed}))
    else:
        _write(
            f"{len(checks) - failed} of {len(checks)} checks ok" + (f", {failed} FAILED" if failed else "")
        )
    return 1 if failed else 0


def _line(result: Result) -> str:
    check = result.check
    verdict = f"FAILED {result.problem}" if result.problem else "ok"
    return f"{check.rule:4} {check.promise}: {verdict}"


def _json(result: Result) -> str:
    check = result.check
    return json.dumps(
        {
            "event": "check",
            "rule": check.rule,
            "promise": check.promise,
            "ok": not result.problem,
            "problem": result.problem,
        },
        ensure_ascii=False,
    )


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
