"""Which server a client believes: a CA file, or the pinned fingerprint of a CA or server certificate.

There is no way to turn checking off. A server that nobody vouches for is refused with the fingerprint of
its authority, so that a person can compare it and pin it (as SSH does); a pinned authority that changed
later is refused without one.
"""

from __future__ import annotations

import datetime
import ipaddress
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aioquic import tls
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.utils import CryptographyDeprecationWarning

from quicmsg.errors import CertificateError


@dataclass(frozen=True, slots=True)
class Trust:
    """What is trusted. With neither, nobody: the refusal then tells the fingerprint that could be pinned."""

    ca_file: Path | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        assert self.ca_file is None or self.fingerprint is None, "a CA file or a pin, not both"

    def check(
        self, leaf: x509.Certificate, chain: Sequence[x509.Certificate], server_name: str | None
    ) -> None:
        """Raise CertificateError unless this certificate is trusted, in its time, and for this name."""
        if self.fingerprint is not None:
            self._check_pin(leaf, chain)
        else:
            self._check_authority(leaf, chain)
        _check_dates(leaf, "the server's certificate")
        _check_name(leaf, server_name)

    def _check_pin(self, leaf: x509.Certificate, chain: Sequence[x509.Certificate]) -> None:
        pinned = (self.fingerprint or "").replace(":", "").lower()
        if fingerprint(leaf) == pinned:
            return
        authority = next((one for one in chain if fingerprint(one) == pinned), None)
        if authority is None:
            raise CertificateError(
                f"the server's authority is not the pinned one: pinned is {pinned}, the server shows "
                f"{fingerprint(_authority(leaf, chain))}. Either the server was set up anew (ask its "
                "operator, then remove the pin), or this is not the server that you mean"
            )
        _check_dates(authority, "the pinned certificate authority")
        if not _is_authority(authority) or not _is_issued_by(leaf, authority):
            raise CertificateError(
                "the server's certificate was not issued by the pinned authority that it shows: "
                "this is not the server that you mean"
            )

    def _check_authority(self, leaf: x509.Certificate, chain: Sequence[x509.Certificate]) -> None:
        shown = fingerprint(_authority(leaf, chain))
        if self.ca_file is None:
            raise CertificateError(
                f"nobody vouches for this server yet: its authority has the SHA-256 fingerprint {shown}. "
                "Compare it with the server's, then pin it",
                fingerprint=shown,
            )
        try:
            with warnings.catch_warnings():
                # Some public authority has a serial number of 0: not ours to complain about.
                warnings.simplefilter("ignore", CryptographyDeprecationWarning)
                x509.load_pem_x509_certificates(self.ca_file.read_bytes())
        except (OSError, ValueError) as error:
            raise CertificateError(
                f"the CA file {self.ca_file} cannot be read, or holds no PEM certificate: {error}"
            ) from error
        try:
            tls.verify_certificate(leaf, chain=list(chain), cafile=str(self.ca_file))
        except tls.AlertCertificateExpired:
            return  # about the leaf: `check` looks again, and says it in words
        except tls.Alert as error:
            raise self._unknown(shown) from error

    def _unknown(self, shown: str) -> CertificateError:
        return CertificateError(
            f"the server's certificate comes from an authority that is not in {self.ca_file} (SHA-256 "
            f"fingerprint {shown}): use the server's own ca.pem, or compare the fingerprint and pin it",
            fingerprint=shown,
        )


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _authority(leaf: x509.Certificate, chain: Sequence[x509.Certificate]) -> x509.Certificate:
    """The certificate to pin: the leaf's issuer if the server sent it, else the leaf itself."""
    return next((one for one in chain if _is_issued_by(leaf, one)), leaf)


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _check_dates(certificate: x509.Certificate, what: str) -> None:
    now = tls.utcnow()
    if now < certificate.not_valid_before_utc:
        raise CertificateError(
            f"{what} is valid only from {_day(certificate.not_valid_before_utc)} on: "
            "is this computer's clock right?"
        )
    if now > certificate.not_valid_after_utc:
        raise CertificateError(
            f"{what} expired on {_day(certificate.not_valid_after_utc)}: the server's operator has to "
            "renew it (a restart of the server does), or this computer's clock is wrong"
        )


def _day(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _check_name(certificate: x509.Certificate, server_name: str | None) -> None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        names = x509.SubjectAlternativeName([])
    hosts = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    addresses = names.get_values_for_type(x509.IPAddress)
    wanted = (server_name or "").lower().rstrip(".")
    try:
        matches = ipaddress.ip_address(wanted) in addresses
    except ValueError:
        matches = bool(wanted) and (wanted in hosts or f"*.{wanted.partition('.')[2]}" in hosts)
    if not matches:
        known = ", ".join([*hosts, *map(str, addresses)]) or "nothing"
        raise CertificateError(
            f"the server's certificate is not for {server_name!r} but for {known}: connect under one of "
            "these names, or let the operator add the name"
        )
