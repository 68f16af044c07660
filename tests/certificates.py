"""A certificate authority and server certificates for the transport's tests, made in memory."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Authority:
    """A CA: makes server certificates."""

    key: ed25519.Ed25519PrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def issue(
        self,
        names: tuple[str, ...] = ("localhost", "127.0.0.1", "127.0.0.2", "::1"),
        *,
        days: tuple[int, int] = (-400, 4000),
        seed: bytes = b"L" * 32,
    ) -> tuple[bytes, bytes]:
        """(chain PEM with the CA at its end, key PEM) of a server certificate."""
        key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        certificate = (
            _builder("server", self.certificate.subject, key, days)
            .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self.key, None)
        )
        chain = certificate.public_bytes(serialization.Encoding.PEM) + self.pem
        return chain, key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


@dataclass(frozen=True)
class Files:
    """A CA and a server certificate on disk."""

    authority: Authority
    ca: Path
    certificate: Path
    key: Path


def authority(seed: bytes = b"A" * 32, name: str = "test authority") -> Authority:
    """A CA; the same seed gives the same one, byte by byte."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(name, subject, key, (-800, 8000))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, None)
    )
    return Authority(key, certificate)


def write(directory: Path, **options: object) -> Files:
    """Make both, and write them below a directory."""
    root = authority()
    chain, key = root.issue(**options)  # type: ignore[arg-type]
    files = Files(root, directory / "ca.pem", directory / "server.pem", directory / "server.key")
    files.ca.write_bytes(root.pem)
    files.certificate.write_bytes(chain)
    files.key.write_bytes(key)
    return files


def _builder(
    name: str, issuer: x509.Name, key: ed25519.Ed25519PrivateKey, days: tuple[int, int]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(name.encode(), "big"))
        .not_valid_before(EPOCH + datetime.timedelta(days=days[0]))
        .not_valid_after(EPOCH + datetime.timedelta(days=days[1]))
    )


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
