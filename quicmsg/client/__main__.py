"""`python -m quicmsg.client`: the line client. See `cli.py` and docs/line-client.md."""

from __future__ import annotations

from quicmsg.client.cli import client
from quicmsg.client.cli_run import run_program


def main() -> None:
    """Run it, and exit."""
    run_program(client, "python -m quicmsg.client")


if __name__ == "__main__":
    main()
