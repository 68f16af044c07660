"""Promises of quicmsg.certs: strict clients accept what it makes, it keeps the CA, and it never guesses."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import ssl
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import HandshakeCompleted
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.verification import PolicyBuilder, Store

from quicmsg import certs, issuing, limits
from quicmsg.errors import ConfigurationError

NOW = datetime.now(UTC).replace(microsecond=0)


def certificates(path: Path | None) -> list[x509.Certificate]:
    assert path is not None
    return x509.load_pem_x509_certificates(path.read_bytes())


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes = b"") -> None:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )


def put_operators_pair(directory: Path, *, now: datetime = NOW) -> None:
    """A certificate from a CA elsewhere, as an operator would copy it in."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    ca = issuing.new_ca(ca_key, now)
    leaf = issuing.new_leaf(key.public_key(), ca_key, ca, [x509.DNSName("chat.example.org")], now)
    directory.mkdir(exist_ok=True)
    (directory / "server.pem").write_bytes(
        leaf.public_bytes(serialization.Encoding.PEM) + ca.public_bytes(serialization.Encoding.PEM)
    )
    write_key(directory / "server.key", key)


# ---- what clients see --------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> certs.ServerCertificate:
    return certs.ensure(tmp_path / "certs", names=["chat.example.org", "192.0.2.7"])


@pytest.mark.parametrize(
    "name", ["localhost", "127.0.0.1", "::1", "chat.example.org", "192.0.2.7", issuing.own_name()]
)
def test_a_strict_verifier_accepts_every_name(made: certs.ServerCertificate, name: str | None) -> None:
    """Own names and the given ones are good for a verifier that follows the web's rules to the letter."""
    if name is None:
        pytest.skip("this computer's name cannot be in a certificate")
    leaf, ca = certificates(made.certificate_file)
    try:
        subject: x509.DNSName | x509.IPAddress = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        subject = x509.DNSName(name)
    verifier = PolicyBuilder().store(Store(certificates(made.ca_file))).build_server_verifier(subject)
    assert verifier.verify(leaf, []) == [leaf, ca]


def test_openssl_in_strict_mode_accepts_it(made: certs.ServerCertificate) -> None:
    """Python 3.13 checks strictly by default; the TLS fallback and browsers' gateways meet this check."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(made.certificate_file, made.key_file)
    client_context = ssl.create_default_context(cafile=str(made.ca_file))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname="chat.example.org")
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert client.version() == "TLSv1.3"


@pytest.mark.parametrize(("name", "accepted"), [("127.0.0.1", True), ("chat.example.net", False)])
def test_a_quic_handshake_accepts_its_names_and_no_others(
    made: certs.ServerCertificate, name: str, accepted: bool
) -> None:
    """aioquic, given nothing but ca.pem, completes the handshake for a name in the certificate only."""
    server_configuration = QuicConfiguration(is_client=False, alpn_protocols=["x"])
    server_configuration.load_cert_chain(made.certificate_file, made.key_file)
    client = QuicConnection(
        configuration=QuicConfiguration(alpn_protocols=["x"], server_name=name, cafile=str(made.ca_file))
    )
    client.connect(("127.0.0.1", 1), now=0.0)
    server = QuicConnection(
        configuration=server_configuration,
        original_destination_connection_id=client.original_destination_connection_id,
    )
    for step in range(6):
        here, there = (client, server) if step % 2 == 0 else (server, client)
        for data, _ in here.datagrams_to_send(now=0.0):
            there.receive_datagram(data, ("127.0.0.1", 1), now=0.0)
    assert any(isinstance(event, HandshakeCompleted) for event in iter(client.next_event, None)) is accepted


def test_the_fingerprint_is_that_of_the_ca(made: certs.ServerCertificate) -> None:
    """What the server prints is what `openssl x509 -fingerprint -sha256` says of ca.pem."""
    assert made.ca_file is not None
    der = ssl.PEM_cert_to_DER_cert(made.ca_file.read_text())
    assert made.fingerprint == hashlib.sha256(der).hexdigest()


@pytest.mark.parametrize("name", ["bad name", "", "-x.example", "a" * 64, "x." * 130 + "y", "ex\N{NULL}.org"])
def test_what_is_no_name_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """A typing error in the configuration is said at the start, not found out by clients."""
    with pytest.raises(ConfigurationError, match="neither a host name nor an IP address"):
        certs.ensure(tmp_path, names=[name])


def test_names_are_taken_as_people_write_them() -> None:
    """Brackets, zones, capitals, umlauts and a trailing wildcard bind are understood; doubles are dropped."""
    names = issuing.alternative_names(["[::1]", "0.0.0.0", "::", "Chat.Example.org", "b\u00fccher.example"])
    values = [name.value for name in names]
    assert values[:3] == ["localhost", ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    assert values[-2:] == ["chat.example.org", "xn--bcher-kva.example"]
    assert len(values) == len(set(values))


# ---- files -------------------------------------------------------------------------------------


def test_keys_are_for_their_owner_only(made: certs.ServerCertificate) -> None:
    """Directory 0700, both keys 0600, nothing else lying about."""
    directory = made.certificate_file.parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert sorted(path.name for path in directory.iterdir()) == [
        "ca.key",
        "ca.pem",
        "server.key",
        "server.pem",
    ]
    assert {stat.S_IMODE((directory / name).stat().st_mode) for name in ("ca.key", "server.key")} == {0o600}


def test_a_second_start_writes_nothing(tmp_path: Path) -> None:
    """What is good is kept, byte for byte, also when fewer names are asked for."""
    first = certs.ensure(tmp_path, names=["chat.example.org"])
    before = contents(tmp_path)
    second = certs.ensure(tmp_path)
    assert (first.renewed, second.renewed) == (True, False)
    assert contents(tmp_path) == before
    assert second.fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("later", "names"),
    [
        (timedelta(days=limits.CERTIFICATE_LIFETIME_DAYS - limits.CERTIFICATE_RENEW_DAYS, seconds=1), ()),
        (timedelta(days=limits.CERTIFICATE_LIFETIME_DAYS + 400), ()),
        (timedelta(0), ("new.example.org",)),
    ],
    ids=["near its end", "long expired", "new name"],
)
def test_the_server_certificate_is_renewed_and_the_ca_kept(
    tmp_path: Path, later: timedelta, names: tuple[str, ...]
) -> None:
    """Clients notice nothing: same CA, same fingerprint, and a full lifetime ahead."""
    first = certs.ensure(tmp_path, now=NOW)
    ca_before = (tmp_path / "ca.pem").read_bytes()
    second = certs.ensure(tmp_path, names=names, now=NOW + later)
    assert second.renewed
    assert second.expires == NOW + later + timedelta(days=limits.CERTIFICATE_LIFETIME_DAYS)
    assert second.fingerprint == first.fingerprint
    assert (tmp_path / "ca.pem").read_bytes() == ca_before
    assert not certs.ensure(tmp_path, names=names, now=NOW + later).renewed


def test_one_day_before_it_is_due_nothing_is_renewed(tmp_path: Path) -> None:
    """The bound in limits.py is the one that holds."""
    certs.ensure(tmp_path, now=NOW)
    days = limits.CERTIFICATE_LIFETIME_DAYS - limits.CERTIFICATE_RENEW_DAYS - 1
    assert not certs.ensure(tmp_path, now=NOW + timedelta(days=days)).renewed


def test_a_ca_near_its_end_warns_and_is_not_outlived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last server certificate ends with the CA, is not issued again at every start, and it is said."""
    first = certs.ensure(tmp_path, now=NOW)
    end = certificates(first.ca_file)[0].not_valid_after_utc
    late = certs.ensure(tmp_path, now=end - timedelta(days=10))
    assert late.expires == end
    with caplog.at_level(logging.WARNING):
        assert not certs.ensure(tmp_path, now=end - timedelta(days=9)).renewed
    assert "clients must then be given the new CA" in caplog.text


def test_a_start_cut_short_anywhere_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 before or after any write: the next start ends with a whole set, and never with two CAs."""
    steps = list(cut_short(tmp_path, monkeypatch))
    assert steps == list(range(8))  # four files, each before and after its rename


def cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    write = certs._write
    for fatal in count():
        directory = tmp_path / str(fatal)
        step = count()

        def dying_write(path: Path, data: bytes, *, mode: int, step: Iterator[int] = step) -> None:
            if next(step) == fatal:  # noqa: B023 - called within this turn of the loop
                path.with_name(f".{path.name}.new").write_bytes(data[:10])
                raise InterruptedError
            write(path, data, mode=mode)
            if next(step) == fatal:  # noqa: B023
                raise InterruptedError

        monkeypatch.setattr(certs, "_write", dying_write)
        try:
            certs.ensure(directory, now=NOW)
        except ConfigurationError:
            yield fatal
        else:
            return
        monkeypatch.setattr(certs, "_write", write)
        whole = certs.ensure(directory, now=NOW)
        leaf, ca = certificates(whole.certificate_file)
        assert issuing.issued_by(leaf, ca)
        assert certificates(whole.ca_file) == [ca]
        assert not list(directory.glob(".*"))


def test_servers_that_start_at_once_agree_on_one_ca(tmp_path: Path) -> None:
    """Eight first starts on one directory: one makes it, the others use it."""
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: certs.ensure(tmp_path / "certs"), range(8)))
    assert len({result.fingerprint for result in results}) == 1
    assert sum(result.renewed for result in results) == 1


# ---- the operator's own certificate ------------------------------------------------------------


def test_the_operators_certificate_is_used_untouched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without ca.key nothing is written, however old it is and whatever names are asked for."""
    put_operators_pair(tmp_path)
    before = contents(tmp_path)
    late = NOW + timedelta(days=limits.CERTIFICATE_LIFETIME_DAYS - 1)
    with caplog.at_level(logging.WARNING):
        found = certs.ensure(tmp_path, names=["other.example.org"], now=late)
    assert contents(tmp_path) == before
    assert (found.renewed, found.ca_file, found.ca_key_file) == (False, None, None)
    assert found.fingerprint == issuing.fingerprint(certificates(found.certificate_file)[1])
    assert "expires on" in caplog.text


def expired(directory: Path) -> None:
    put_operators_pair(directory, now=NOW - timedelta(days=500))


def key_missing(directory: Path) -> None:
    put_operators_pair(directory)
    (directory / "server.key").unlink()


def certificate_missing(directory: Path) -> None:
    put_operators_pair(directory)
    (directory / "server.pem").unlink()


def issuer_first(directory: Path) -> None:
    put_operators_pair(directory)
    path = directory / "server.pem"
    leaf, ca = certificates(path)
    path.write_bytes(b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (ca, leaf)))


def encrypted(directory: Path) -> None:
    put_operators_pair(directory)
    write_key(directory / "server.key", ec.generate_private_key(ec.SECP256R1()), password=b"secret")


def operators_pair_in_our_directory(directory: Path) -> None:
    certs.ensure(directory)
    (directory / "server.key").unlink()
    put_operators_pair(directory)


def foreign_ca_only(directory: Path) -> None:
    certs.ensure(directory)
    for name in ("ca.key", "server.key", "server.pem"):
        (directory / name).unlink()


def foreign_ca_key(directory: Path) -> None:
    directory.mkdir()
    write_key(directory / "ca.key", rsa.generate_private_key(65537, 2048))


def ca_lost(directory: Path) -> None:
    certs.ensure(directory)
    (directory / "ca.pem").unlink()


def ca_of_another(directory: Path) -> None:
    certs.ensure(directory)
    other = certs.ensure(directory.with_name("other")).ca_file
    assert other is not None
    (directory / "ca.pem").write_bytes(other.read_bytes())


def key_of_another(directory: Path) -> None:
    certs.ensure(directory)
    write_key(directory / "server.key", ec.generate_private_key(ec.SECP256R1()))


def readable(name: str) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        certs.ensure(directory)
        (directory / name).chmod(0o640)

    return spoil


def garbage(name: str) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        certs.ensure(directory)
        (directory / name).write_bytes(b"-----BEGIN NOTHING-----\n")

    return spoil


def ca_expired(directory: Path) -> None:
    certs.ensure(directory, now=NOW - timedelta(days=limits.CA_LIFETIME_DAYS + 1))


def clock_wrong(directory: Path) -> None:
    certs.ensure(directory, now=NOW + timedelta(days=30))


def a_file(directory: Path) -> None:
    directory.write_text("not a directory")


@pytest.mark.parametrize(
    ("spoil", "names_the_file", "cure"),
    [
        (readable("server.key"), "server.key", "chmod 600"),
        (readable("ca.key"), "ca.key", "chmod 600"),
        (garbage("server.key"), "server.key", "restore or remove it"),
        (garbage("server.pem"), "server.pem", "restore or remove it"),
        (garbage("ca.pem"), "ca.pem", "restore or remove it"),
        (garbage("ca.key"), "ca.key", "restore or remove it"),
        (key_of_another, "server.key", "put in the pair that belongs together"),
        (ca_of_another, "ca.key", "restore a backup"),
        (ca_lost, "ca.pem", "copy the last certificate of"),
        (ca_expired, "ca.pem", "start again; clients must then be given the new CA"),
        (clock_wrong, "ca.pem", "set the clock"),
        (foreign_ca_only, "ca.pem", "use another directory"),
        (foreign_ca_key, "ca.key", "to use a certificate from elsewhere"),
        (operators_pair_in_our_directory, "server.pem", "to use a certificate of your own remove"),
        (expired, "server.pem", "get a new one from its issuer"),
        (key_missing, "server.key", "put both in, or neither"),
        (certificate_missing, "server.pem", "put both in, or neither"),
        (issuer_first, "server.pem", "comes before its issuer's"),
        (encrypted, "server.key", "store it without one"),
        (a_file, "certs", "need a directory"),
    ],
)
def test_whatever_is_wrong_is_said_with_its_cure(
    tmp_path: Path, spoil: Callable[[Path], None], names_the_file: str, cure: str
) -> None:
    """One line that names the file and what to do; nothing in the directory is changed by finding out."""
    directory = tmp_path / "certs"
    spoil(directory)
    before = contents(directory) if directory.is_dir() else {}
    with pytest.raises(ConfigurationError) as caught:
        certs.ensure(directory, now=NOW)
    assert str(directory) in caught.value.message
    assert names_the_file in caught.value.message
    assert cure in caught.value.message
    assert "\n" not in caught.value.message
    assert (contents(directory) if directory.is_dir() else {}) == before
