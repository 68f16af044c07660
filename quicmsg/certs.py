"""The server's certificate: issued by a development CA that the first start makes, or the operator's own.

One directory holds all of it, and `ca.key` decides whose it is. With that file (or with nothing there yet)
quicmsg runs a development CA: it issues `server.pem`, renews it in time, and keeps the CA, because clients
trust and pin that. Without it, `server.pem` and `server.key` are the operator's: checked, used and never
written. Whatever is wrong with a file is a ConfigurationError that says what to do about it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from quicmsg import issuing, limits
from quicmsg.errors import ConfigurationError

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

CA_FILE: Final = "ca.pem"
CA_KEY_FILE: Final = "ca.key"
CERTIFICATE_FILE: Final = "server.pem"
KEY_FILE: Final = "server.key"
_READABLE_BY_OTHERS = 0o077


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """What a server presents, and what its clients are to trust."""

    certificate_file: Path
    """PEM: the server's certificate first, then the CA (or intermediates) above it."""
    key_file: Path
    ca_file: Path | None
    """For clients to trust; None where the operator put none here, because clients know the CA already."""
    ca_key_file: Path | None
    """Only where the development CA is."""
    fingerprint: str
    """SHA-256, in hex, of the certificate above the server's (its own when it stands alone): what a client
    that does not know the CA is shown, and pins."""
    expires: datetime
    renewed: bool
    """This call wrote a new server certificate: one that is in use already must be loaded again."""


def ensure(directory: Path, *, names: Sequence[str] = (), now: datetime | None = None) -> ServerCertificate:
    """Return the certificate in `directory`, made or renewed first where it is ours to make.

    Call it at the start, and daily in a server that runs for months: it writes only when it has to.

    Args:
        names: host names and addresses, besides this computer's own, by which clients reach the server.
    """
    now = now or datetime.now(UTC)
    with _explained(directory), _locked(directory):
        if _is_operators(directory):
            return load_user_certificate(directory, now=now)
        ca_key, ca = _development_ca(directory, now)
        renewed = _issue_if_needed(directory, ca_key, ca, issuing.alternative_names(names), now)
        leaf = _certificates(directory / CERTIFICATE_FILE)[0]
    return ServerCertificate(
        certificate_file=directory / CERTIFICATE_FILE,
        key_file=directory / KEY_FILE,
        ca_file=directory / CA_FILE,
        ca_key_file=directory / CA_KEY_FILE,
        fingerprint=issuing.fingerprint(ca),
        expires=leaf.not_valid_after_utc,
        renewed=renewed,
    )


def load_user_certificate(directory: Path, *, now: datetime | None = None) -> ServerCertificate:
    """Check the operator's own `server.pem` and `server.key`; nothing is written, whatever is found."""
    now = now or datetime.now(UTC)
    certificate_file, key_file, ca_file = (directory / name for name in (CERTIFICATE_FILE, KEY_FILE, CA_FILE))
    with _explained(directory):
        for present, missing in ((certificate_file, key_file), (key_file, certificate_file)):
            if not missing.exists():
                raise ConfigurationError(f"{present} is there but {missing} is not: put both in, or neither")
        chain = _certificates(certificate_file)
        _refuse_mismatch(certificate_file, chain[0], key_file, _private_key(key_file))
        _refuse_outside_dates(
            certificate_file, chain[0], now, cure="get a new one from its issuer and put it there"
        )
        ca = ca_file if ca_file.exists() else None
    if chain[0].not_valid_after_utc - now < timedelta(days=limits.CERTIFICATE_RENEW_DAYS):
        logger.warning("%s expires on %s: renew it", certificate_file, _day(chain[0].not_valid_after_utc))
    return ServerCertificate(
        certificate_file=certificate_file,
        key_file=key_file,
        ca_file=ca,
        ca_key_file=None,
        fingerprint=issuing.fingerprint(chain[1] if len(chain) > 1 else chain[0]),
        expires=chain[0].not_valid_after_utc,
        renewed=False,
    )


# ---- whose directory it is ---------------------------------------------------------------------


def _is_operators(directory: Path) -> bool:
    if (directory / CA_KEY_FILE).exists():
        return False
    if (directory / CERTIFICATE_FILE).exists() or (directory / KEY_FILE).exists():
        return True
    # Clients keep a copy of some server's ca.pem; a second CA beside it would be mistaken for that one.
    if (directory / CA_FILE).exists():
        raise ConfigurationError(
            f"{directory / CA_FILE} is there without {CA_KEY_FILE}: it is another server's CA; use another "
            f"directory for this server's certificates, or put {CERTIFICATE_FILE} and {KEY_FILE} beside it"
        )
    return False


# ---- the development CA ------------------------------------------------------------------------


def _development_ca(directory: Path, now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_file, certificate_file = directory / CA_KEY_FILE, directory / CA_FILE
    key = _elliptic_key(key_file)
    if not certificate_file.exists():
        # With a server certificate there, clients trust the lost one; without, a first start was cut short.
        if (directory / CERTIFICATE_FILE).exists():
            raise ConfigurationError(
                f"{certificate_file} is missing: copy the last certificate of "
                f"{directory / CERTIFICATE_FILE} into it, or restore the directory from a backup"
            )
        _write(certificate_file, _pem(issuing.new_ca(key, now)), mode=0o644)
        logger.info("made a development CA: %s", certificate_file)
    ca = _certificates(certificate_file)[0]
    _refuse_mismatch(certificate_file, ca, key_file, key)
    begin_anew = (
        f"remove {CA_FILE}, {CA_KEY_FILE}, {CERTIFICATE_FILE} and {KEY_FILE} in {directory} and start again; "
        "clients must then be given the new CA"
    )
    _refuse_outside_dates(certificate_file, ca, now, cure=begin_anew)
    if ca.not_valid_after_utc - now < timedelta(days=limits.CERTIFICATE_RENEW_DAYS):
        logger.warning(
            "%s expires on %s, and then no client can connect: %s",
            certificate_file,
            _day(ca.not_valid_after_utc),
            begin_anew,
        )
    return key, ca


def _issue_if_needed(
    directory: Path,
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    names: list[x509.GeneralName],
    now: datetime,
) -> bool:
    """The key is kept when the certificate is renewed: so one rename replaces it, and a crash at any point
    leaves a pair that fits."""
    certificate_file, key_file = directory / CERTIFICATE_FILE, directory / KEY_FILE
    key_was_there = key_file.exists()
    if certificate_file.exists():
        leaf = _certificates(certificate_file)[0]
        if not issuing.issued_by(leaf, ca):
            raise ConfigurationError(
                f"{certificate_file} was not issued by the development CA in {directory / CA_FILE}: to use a "
                f"certificate of your own remove {directory / CA_KEY_FILE}, else remove {certificate_file}"
            )
        if key_was_there:
            _refuse_mismatch(certificate_file, leaf, key_file, _private_key(key_file))
            if not _needs_renewal(leaf, ca, names, now):
                return False
    leaf = issuing.new_leaf(_elliptic_key(key_file).public_key(), ca_key, ca, names, now)
    _write(certificate_file, _pem(leaf, ca), mode=0o644)
    logger.info("issued %s, good until %s", certificate_file, _day(leaf.not_valid_after_utc))
    return True


def _needs_renewal(
    leaf: x509.Certificate, ca: x509.Certificate, names: list[x509.GeneralName], now: datetime
) -> bool:
    if now < leaf.not_valid_before_utc:
        return True
    # Nothing is gained by renewing one that already lives as long as its CA.
    nears_expiry = leaf.not_valid_after_utc - now < timedelta(days=limits.CERTIFICATE_RENEW_DAYS)
    if nears_expiry and leaf.not_valid_after_utc < ca.not_valid_after_utc:
        return True
    try:
        present = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return True
    return any(name not in present for name in names)


# ---- checks ------------------------------------------------------------------------------------


def _refuse_mismatch(
    certificate_file: Path, certificate: x509.Certificate, key_file: Path, key: PrivateKeyTypes
) -> None:
    if _public_bytes(certificate.public_key()) != _public_bytes(key.public_key()):
        raise ConfigurationError(
            f"{key_file} is not the key of the first certificate in {certificate_file}: put in the pair that "
            "belongs together (the server's own certificate comes before its issuer's), or restore a backup"
        )


def _refuse_outside_dates(path: Path, certificate: x509.Certificate, now: datetime, *, cure: str) -> None:
    if now < certificate.not_valid_before_utc:
        raise ConfigurationError(
            f"{path} is not valid before {_day(certificate.not_valid_before_utc)}, and this computer's clock "
            f"says {_day(now)}: set the clock"
        )
    if now > certificate.not_valid_after_utc:
        raise ConfigurationError(f"{path} expired on {_day(certificate.not_valid_after_utc)}: {cure}")


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")


# ---- files -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Every error of the file system leaves this module as a ConfigurationError."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or directory}: {error.strerror or error}; the certificates need a directory "
            "that this user can read, and write unless its files are yours and complete"
        ) from error


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two servers that start on one directory must not make two CAs."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some network file systems cannot lock a directory; a lone server needs no lock.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise ConfigurationError(f"{path} holds no readable PEM certificate: restore or remove it") from error


def _private_key(path: Path) -> PrivateKeyTypes:
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if os.name == "posix" and mode & _READABLE_BY_OTHERS:
            raise ConfigurationError(
                f"{path} can be used by others (mode {mode & 0o777:04o}): run  chmod 600 {path}"
            )
        data = file.read()
    try:
        return serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise ConfigurationError(
            f"{path} is encrypted with a password: store it without one, mode 0600"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path} holds no readable PEM private key: restore or remove it") from error


def _elliptic_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """One of our own keys, made when it is not there yet."""
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())  # P-256: the curve that browsers take too
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _write(path, pem, mode=0o600)
        return key
    existing = _private_key(path)
    if not isinstance(existing, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(
            f"{path} was not made by quicmsg: its development CA only uses keys of its own; to use a "
            f"certificate from elsewhere keep {CERTIFICATE_FILE} and {KEY_FILE} here and no {CA_KEY_FILE}"
        )
    return existing


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def _write(path: Path, data: bytes, *, mode: int) -> None:
    """All or nothing, also through a power cut; a key is never readable by others, not for a moment."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # of a start that was cut short; the lock says that it is nobody's now
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    if sys.platform != "win32":
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
