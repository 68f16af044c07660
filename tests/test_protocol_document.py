"""docs/protocol.md and the code say the same: examples, frames, fields, types, limits, error codes, rules."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quicmsg import limits
from quicmsg.conformance import wire
from quicmsg.conformance.__main__ import CHECKS
from quicmsg.conformance.link import channel_binding
from quicmsg.errors import ErrorCode
from quicmsg.protocol import frames
from quicmsg.protocol.codec import FrameReader, encode
from quicmsg.protocol.signin import device_of, sign_in_message

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs/protocol.md").read_text()
FRAMES = (*frames.CONTROL_FRAMES, *frames.CONVERSATION_FRAMES)

WRITTEN_OUT = {
    "Annotated[bytes, Meta(min_length=32, max_length=32)]": "bin, exactly 32 bytes",
    "Annotated[bytes, Meta(min_length=64, max_length=64)]": "bin, exactly 64 bytes",
    "Annotated[tuple[Name, ...], Meta(max_length=MEMBERS_MAX)]": (
        f"array of Name, at most {limits.MEMBERS_MAX}"
    ),
    "Annotated[tuple[ChangeEntry, ...], Meta(max_length=SYNC_PAGE_ENTRIES)]": (
        f"array of ChangeEntry, at most {limits.SYNC_PAGE_ENTRIES}"
    ),
    "Annotated[tuple[MemberEntry, ...], Meta(max_length=MEMBERS_MAX)]": (
        f"array of MemberEntry, at most {limits.MEMBERS_MAX}"
    ),
    "Annotated[tuple[MemberEntry, ...], Meta(min_length=1, max_length=MEMBERS_MAX)]": (
        f"array of MemberEntry, 1 to {limits.MEMBERS_MAX}"
    ),
    "Annotated[int, Meta(ge=1, le=PAGE_MESSAGES_MAX)]": f"int, 1 to {limits.PAGE_MESSAGES_MAX}",
    "Annotated[tuple[Entry, ...], Meta(max_length=PAGE_MESSAGES_MAX)]": (
        f"array of Entry, at most {limits.PAGE_MESSAGES_MAX}"
    ),
}
"""How the document writes the types of fields that have no name of their own."""


@dataclass(frozen=True)
class Example:
    frame: str
    channel: str
    sender: str
    value: str
    data: bytes


def examples() -> list[Example]:
    found = []
    for block in re.finditer(r"^```wire (.*)\n((?:.*\n)*?)```$", DOCUMENT, re.MULTILINE):
        head = dict(part.split("=") for part in block[1].split())
        lines = block[2].splitlines()
        value = " ".join(line[2:] for line in lines if line.startswith("= "))
        data = bytes.fromhex("".join(line for line in lines if not line.startswith("= ")))
        found.append(Example(head["frame"], head["channel"], head["from"], value, data))
    return found


def notation(value: Any) -> str:
    """How the document writes a value."""
    match value:
        case bool():
            return str(value).lower()
        case bytes():
            return f"h'{value.hex()}'"
        case list():
            return f"[{', '.join(map(notation, value))}]"
        case _:
            return json.dumps(value, ensure_ascii=False)


def table_after(heading: str) -> list[list[str]]:
    """The rows of the first table behind a heading."""
    start = DOCUMENT.index(heading)
    table = re.search(r"(?:^\|.*\|\n)+", DOCUMENT[start:], re.MULTILINE)
    assert table is not None, heading
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table[0].splitlines()]
    return rows[2:]


# ---- examples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.frame)
def test_examples_are_what_both_libraries_read_and_write(example: Example) -> None:
    """Whoever follows the examples byte by byte is right."""
    reader = FrameReader(control=example.channel == "control")
    reader.feed(example.data)
    frame = reader.next_frame()
    assert type(frame).__name__ == example.frame
    assert reader.buffered == 0
    assert frame is not None
    assert encode(frame) == example.data
    size, body = int.from_bytes(example.data[:4], "big"), example.data[4:]
    assert size == len(body)
    value = msgpack.unpackb(body)
    assert notation(value) == example.value
    assert msgpack.packb(value) == body
    second = wire.decode(body)
    assert second is not None
    assert list(second.fields) == list(type(frame).__struct_fields__)
    assert [int(second.type), *second.fields.values()] == value


def test_every_frame_has_an_example_from_who_may_send_it() -> None:
    """No frame is left to be guessed."""
    assert {example.frame for example in examples()} == {frame.__name__ for frame in FRAMES}
    for example in examples():
        sender = re.search(rf"^### {example.frame} .*\n\nFrom: (\w+)\.", DOCUMENT, re.MULTILINE)
        assert sender is not None
        assert sender[1] in (example.sender, "both")


def test_the_test_vector_of_the_sign_in() -> None:
    """The bytes under the signature are the documented ones, from the exporter's secret on."""
    block = re.search(r"^```vector\n((?:.*\n)*?)```$", DOCUMENT, re.MULTILINE)
    assert block is not None
    vector = dict(line.split() for line in block[1].splitlines())
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["private_key"]))
    public_key = key.public_key().public_bytes_raw()
    binding = channel_binding(hashes.SHA256(), bytes.fromhex(vector["exporter_master_secret"]))
    signed = sign_in_message(vector["user"], public_key, binding)
    assert vector["public_key"] == public_key.hex()
    assert vector["device"] == device_of(public_key).hex()
    assert vector["channel_binding"] == binding.hex()
    assert vector["signed"] == signed.hex()
    assert vector["signature"] == key.sign(signed).hex()


# ---- frames and types --------------------------------------------------------------------------


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.__name__)
def test_every_frame_is_described_with_its_fields(frame: type[frames.Frame]) -> None:
    """Number, fields in their order, and their types."""
    rows = table_after(f"\n### {frame.__name__} ({frame.__struct_config__.tag})\n")
    types = {name: WRITTEN_OUT.get(text, text) for name, text in frame.__annotations__.items()}
    assert [(row[0], row[1]) for row in rows] == [(f"`{name}`", text) for name, text in types.items()]
    assert all(row[2] for row in rows)


@pytest.mark.parametrize("structure", [frames.ChangeEntry, frames.MemberEntry, frames.Entry])
def test_structures_inside_frames_are_described(structure: Any) -> None:
    """Number, order and types of their elements."""
    rows = dict(table_after("Structures inside frames"))
    elements = ", ".join(f"`{name}` {text}" for name, text in structure.__annotations__.items())
    assert rows[structure.__name__] == elements


def test_the_bounds_of_types_are_those_of_the_decoder() -> None:
    """Every bound of every named type stands in the table."""
    rows = {row[0]: row[2] for row in table_after("\n## 3. Types")}
    for name in ("Byte", "Number", "Position", "Seq", "Code"):
        (meta,) = getattr(frames, name).__metadata__
        assert rows[name].startswith(f"{meta.ge} to {meta.le}"), name
    for name in ("Text", "Label", "ShortText", "Features", "Body"):
        (meta,) = getattr(frames, name).__metadata__
        assert rows[name].startswith(f"at most {meta.max_length}"), name
    for name in ("MessageId", "DeviceId"):
        (meta,) = getattr(frames, name).__metadata__
        assert meta.min_length == meta.max_length
        assert rows[name] == f"exactly {meta.min_length} bytes"
    for name in ("Name", "Address"):
        (meta,) = getattr(frames, name).__metadata__
        assert f"`{meta.pattern.removeprefix('^').removesuffix(chr(92) + 'Z')}`" in rows[name]
    used = {word for frame in FRAMES for word in re.findall(r"\w+", " ".join(frame.__annotations__.values()))}
    aliases = {name for name in used if name in vars(frames) and "Entry" not in name and not name.isupper()}
    assert aliases - {"Annotated", "Meta"} <= set(rows)


def test_kinds_and_names_of_the_transport_are_the_real_ones() -> None:
    """ALPN, exporter label, signature context, kinds of entries."""
    for kind in frames.Kind:
        assert f"{kind.value} {kind.name}" in DOCUMENT
    assert f"ALPN: `{frames.ALPN}`" in DOCUMENT
    assert f"`{frames.EXPORTER_LABEL.decode()}`" in DOCUMENT
    assert (
        f'"{frames.SIGNATURE_CONTEXT.decode()}" 0x00 user 0x00 public_key(32) channel_binding(32)' in DOCUMENT
    )
    assert sorted(frames.SERVER_KINDS) == [1, 2, 3]


# ---- codes, limits, rules ----------------------------------------------------------------------


def test_every_error_code_is_in_the_table() -> None:
    """And no other."""
    rows = [(int(row[0], 16), row[1]) for row in table_after("\n## 11. Error codes")]
    assert rows == [(code.value, code.name) for code in ErrorCode]
    for code in wire.Code:
        assert ErrorCode[code.name].value == code.value


def test_every_limit_of_the_wire_is_in_the_table_with_its_value() -> None:
    """All limits about frames and channels, and the timers that a peer can notice."""
    rows = {row[0].strip("`"): row[1] for row in table_after("\n## 13. Limits")}
    for name, value in rows.items():
        assert float(value) == getattr(limits, name), name
    source = (ROOT / "quicmsg/limits.py").read_text()
    sections = re.split(r"^# ---- (.*?) -+$", source, flags=re.MULTILINE)
    for title in ("frames", "channels"):
        text = sections[sections.index(title) + 1]
        assert set(re.findall(r"^([A-Z_]+): Final", text, re.MULTILINE)) <= set(rows), title


def test_numbers_in_the_text_are_limits() -> None:
    """A limit that changes must not stay behind in a sentence."""
    known = {value for name, value in vars(limits).items() if name.isupper()}
    bounds = {0x7F, 255, 2**30, 2**63 - 1}
    prose = re.sub(r"^```.*?^```$", "", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"RFC \d+|`[^`]*`", "", prose)
    assert {int(number) for number in re.findall(r"\b\d{3,}\b", prose)} <= known | bounds


def test_every_rule_is_checked_by_the_conformance_client() -> None:
    """The rules are numbered without gaps, and none is only a wish."""
    rules = re.findall(r"^- \*\*(M\d+)\*\* ", DOCUMENT, re.MULTILINE)
    assert rules == [f"M{number}" for number in range(1, len(rules) + 1)]
    assert {check.rule for check in CHECKS} == set(rules)
    assert set(re.findall(r"\bM\d+\b", DOCUMENT)) <= set(rules)


def test_links_inside_the_document_lead_somewhere() -> None:
    """Headings are named as the links say."""
    headings = re.findall(r"^#+ (.*)$", DOCUMENT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", DOCUMENT)) <= anchors
