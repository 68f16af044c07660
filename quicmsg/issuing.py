"""Builds X.509 certificates: a development CA and the server certificates that it issues. Touches no files.

The extensions are those that strict verifiers ask for (RFC 5280 section 4.2): basicConstraints and keyUsage
are critical, both key identifiers are there, and the names are subjectAltNames, for no client reads the
common name any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import re
import socket
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quicmsg import limits
from quicmsg.errors import ConfigurationError

ALWAYS_NAMED: Final = ("localhost", "127.0.0.1", "::1")
"""What people type on the machine itself."""

_HOST_NAME = re.compile(
    r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?"
)


def new_ca(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """Return a self-signed CA that may issue server certificates, and no further CAs."""
    public_key = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
    # A part of the key in the name: a client that trusts several such CAs picks the right one by name.
    name = _common_name(f"quicmsg development CA {identifier.digest.hex()[:8]}")
    return (
        _builder(name, name, public_key, now, now + timedelta(days=limits.CA_LIFETIME_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(certificate_signing=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def new_leaf(
    public_key: ec.EllipticCurvePublicKey,
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    names: list[x509.GeneralName],
    now: datetime,
) -> x509.Certificate:
    """Return a server certificate for these names; it never outlives its CA."""
    until = min(now + timedelta(days=limits.CERTIFICATE_LIFETIME_DAYS), ca.not_valid_after_utc)
    return (
        _builder(_common_name("quicmsg server"), ca.subject, public_key, now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(certificate_signing=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def alternative_names(given: Sequence[str]) -> list[x509.GeneralName]:
    """Each name once, in a fixed order: what people type on the machine, its own name, the given ones."""
    own = own_name()
    found: dict[x509.GeneralName, None] = {}
    for text in (*ALWAYS_NAMED, *([own] if own else []), *given):
        name = _alternative_name(text)
        if name is not None:
            found[name] = None
    return list(found)


def own_name() -> str | None:
    """This computer's name, or None where it is not one that a certificate can hold."""
    name = socket.gethostname().lower()
    return name if len(name) <= limits.HOST_NAME_SIZE_MAX and _HOST_NAME.fullmatch(name) else None


def issued_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Whether name and signature say so; dates are not looked at."""
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, in hex: what people compare and clients pin."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def _alternative_name(text: str) -> x509.GeneralName | None:
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(text.removeprefix("[").removesuffix("]").partition("%")[0])
        # A wildcard bind (0.0.0.0, ::) is no address that anybody could connect to.
        return None if address.is_unspecified else x509.IPAddress(address)
    try:
        name = text.encode("idna").decode().lower()
    except UnicodeError:
        name = ""
    if len(name) > limits.HOST_NAME_SIZE_MAX or not _HOST_NAME.fullmatch(name):
        raise ConfigurationError(f"{text!r} is neither a host name nor an IP address: no certificate for it")
    return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=limits.CERTIFICATE_BACKDATE_DAYS))
        .not_valid_after(until)
    )


def _key_usage(*, certificate_signing: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificate_signing,
        key_cert_sign=certificate_signing,
        crl_sign=certificate_signing,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
