"""What the README shows must run as it stands."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import quicmsg
from quicmsg.server import Server
from quicmsg.server.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


def library_example() -> str:
    """The one Python block of the README."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return str(block)


async def test_library_example_runs_against_a_real_server(tmp_path: Path) -> None:
    """Copied, pointed at a server, and run as a program of its own: bob hears alice, and alice hears bob."""
    server = await Server.start(Settings((("127.0.0.1", 0),), tmp_path / "server", tmp_path / "certs"))
    address = f"127.0.0.1:{server.addresses[0][1]}"
    ca = tmp_path / "certs" / "ca.pem"
    program = library_example().replace("localhost:4433", address).replace("certs/ca.pem", str(ca))
    program = program.replace('user="alice"', f'user="alice", data="{tmp_path / "alice"}"')
    async with quicmsg.connect(address, user="bob", data=tmp_path / "bob", ca=ca) as bob:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async for message in bob.messages():
            assert message.text == "hello"
            break
        bob.messages().acknowledge()
        async for message in bob.messages():
            assert message.text == "hello"  # left without asking for the next one: it comes again
            break
        consumer = bob.messages()
        assert (await anext(consumer)).text == "hello"
        consumer.acknowledge()
        answer = await bob.send("@alice", "bye")
        output, errors = await asyncio.wait_for(process.communicate(), 30)
        await answer.read(timeout=10)
    await server.stop()
    assert errors.decode() == ""
    assert output.decode().splitlines() == [
        "stored as number 1",
        "delivered",
        "@bob 2: bob says bye",
    ]
    assert process.returncode == 0


def test_links_in_the_documents_lead_somewhere() -> None:
    """Every relative link of README and docs is a file that exists."""
    for page in (
        ROOT / "README.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").glob("*.md"),
        ROOT / "certs" / "README.md",
    ):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
