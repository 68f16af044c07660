"""The device's key, the pins of servers, and where they are kept."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from quicmsg.client import private_files
from quicmsg.client.identity import Identity, Pins, load_or_create, state_directory
from quicmsg.errors import CertificateError, ConfigurationError
from quicmsg.protocol.signin import device_of, sign_in_message

BINDING = b"b" * 32
OLD, NEW = "ab" * 32, "cd" * 32


def test_key_is_made_once_and_is_its_owners_only(tmp_path: Path) -> None:
    """A device stays the same device over restarts, and nobody else can read its key."""
    directory = tmp_path / "127.0.0.1_4433" / "alice"
    made = load_or_create(directory)
    again = load_or_create(directory)
    assert (made.public_key, made.device) == (again.public_key, again.device)
    assert made.device == device_of(made.public_key)
    assert len(made.device) == 16
    assert [path.name for path in directory.iterdir()] == ["device.key"]
    assert stat.S_IMODE((directory / "device.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == stat.S_IMODE(directory.parent.stat().st_mode) == 0o700
    assert "PrivateKey" not in repr(made)


def test_signature_holds_for_this_user_key_and_connection_only(tmp_path: Path) -> None:
    """A signature is worth nothing under another name, key or connection."""
    identity = load_or_create(tmp_path / "a")
    other = load_or_create(tmp_path / "b")
    public = Ed25519PublicKey.from_public_bytes(identity.public_key)
    signature = identity.sign("alice", BINDING)
    public.verify(signature, b"quicmsg-auth-v1\0alice\0" + identity.public_key + BINDING)
    for message in (
        sign_in_message("bob", identity.public_key, BINDING),
        sign_in_message("alice", other.public_key, BINDING),
        sign_in_message("alice", identity.public_key, b"c" * 32),
    ):
        with pytest.raises(InvalidSignature):
            public.verify(signature, message)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """A key that may have been copied is not used silently."""
    load_or_create(tmp_path)
    (tmp_path / "device.key").chmod(mode)
    with pytest.raises(ConfigurationError, match=r"read by others.*chmod 600 .*device\.key"):
        load_or_create(tmp_path)


def test_damaged_or_foreign_key_is_refused_and_kept(tmp_path: Path) -> None:
    """A key is never replaced by a new one: that would be another device, without a word."""
    path = tmp_path / "device.key"
    foreign = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (b"", b"nonsense", foreign):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigurationError, match="not an Ed25519 key"):
            load_or_create(tmp_path)
        assert path.read_bytes() == content


def test_directory_of_no_use_is_named(tmp_path: Path) -> None:
    """A path that cannot be is a clear error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"file/alice cannot be used.*--data"):
        load_or_create(tmp_path / "file" / "alice")


def test_two_clients_that_start_together_are_one_device(tmp_path: Path) -> None:
    """The first key wins whole; the second process takes it instead of replacing it."""
    barrier = threading.Barrier(4)
    identities: list[Identity] = []

    def start() -> None:
        barrier.wait()
        identities.append(load_or_create(tmp_path / "alice"))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({identity.device for identity in identities}) == 1
    assert len(identities) == 4


def test_state_directory_is_one_per_server_and_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users and servers never share a key or a journal; one server has one, however it is spelled."""
    assert state_directory(tmp_path, "Chat.Example:4433", "bob") == tmp_path / "chat.example_4433" / "bob"
    assert state_directory(tmp_path, "[fd00::1]:4433", "bob") == tmp_path / "fd00--1_4433" / "bob"
    for spelling in ("localhost", "127.0.0.1", "[::1]"):
        assert state_directory(tmp_path, f"{spelling}:4433", "bob") == tmp_path / "localhost_4433" / "bob"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert state_directory(None, "127.0.0.2:1", "a.b").parts[-2:] == ("127.0.0.2_1", "a.b")


@pytest.mark.parametrize(
    ("server", "user"),
    [
        ("localhost", "bob"),
        ("localhost:99999", "bob"),
        ("[::1:4433", "bob"),
        ("../..:1", "bob"),
        ("a/b:1", "bob"),
        ("..:1", "bob"),
        ("eve@host:1", "bob"),
        (":4433", "bob"),
        ("localhost:1", ".."),
        ("localhost:1", "a/b"),
        ("localhost:1", "Bob"),
        ("localhost:1", "bob\n"),
        ("localhost:1", ""),
    ],
)
def test_names_that_are_none_never_become_paths(tmp_path: Path, server: str, user: str) -> None:
    """What a person types cannot lead out of the data directory."""
    with pytest.raises(ConfigurationError, match="is not a"):
        state_directory(tmp_path, server, user)


def test_pin_is_kept_and_private(tmp_path: Path) -> None:
    """A server that was trusted once is known again."""
    pins = Pins(tmp_path / "data")
    assert pins.get("localhost", 4433) is None
    assert not pins.check("localhost", 4433, OLD)
    pins.pin("localhost", 4433, OLD.upper())
    pins.pin("localhost", 4433, OLD)
    pins.pin("::1", 4433, NEW)
    again = Pins(tmp_path / "data")
    assert again.get("LOCALHOST", 4433) == OLD
    assert again.check("::1", 4433, NEW)
    assert again.get("localhost", 4434) is None
    assert stat.S_IMODE(again.path.stat().st_mode) == 0o600


def test_changed_certificate_is_a_hard_error_with_the_line_to_remove(tmp_path: Path) -> None:
    """Somebody in between is not let in by a second try; an honest change has a way, by hand."""
    pins = Pins(tmp_path)
    pins.pin("a.example", 1, NEW)
    pins.pin("b.example", 2, OLD)
    for attempt in (pins.check, pins.pin):
        with pytest.raises(CertificateError, match=rf"line 3 of {pins.path}") as caught:
            attempt("b.example", 2, NEW)
    assert OLD in str(caught.value)
    assert NEW in str(caught.value)
    assert '"b.example:2"' in pins.path.read_text().splitlines()[2]
    assert pins.get("b.example", 2) == OLD


@pytest.mark.parametrize("content", ["{", "[]", '{"a:1": 5}', "\xff"])
def test_damaged_pins_are_not_taken_for_none(tmp_path: Path, content: str) -> None:
    """A file that cannot be read never means "trust whoever comes"."""
    pins = Pins(tmp_path)
    pins.path.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigurationError, match=r"pins\.json is damaged"):
        pins.check("localhost", 1, OLD)
    with pytest.raises(ConfigurationError):
        pins.pin("localhost", 1, OLD)
    assert pins.path.read_text(encoding="latin-1") == content


def test_failed_replacement_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk does not take the pins with it."""
    pins = Pins(tmp_path)
    pins.pin("localhost", 1, OLD)
    names = sorted(path.name for path in tmp_path.iterdir())

    def refuse(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(ConfigurationError, match="No space left"):
            pins.pin("localhost", 2, NEW)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert pins.get("localhost", 1) == OLD
    assert private_files.write_new(pins.path, b"other") is False
    assert sorted(path.name for path in tmp_path.iterdir()) == names
