"""Exceptions a program can meet, and the one registry of numbered reasons used on every transport.

QuicmsgError
├── ConnectError            no connection could be made (name, port, nothing answers)     exit 5
├── CertificateError        the server's certificate is not the one that we trust         exit 7
├── SignInError             the server refused this user, device or code                  exit 6
├── RefusedError            a right or a limit: it will not work by trying again          exit 8
├── DeliveryError           not confirmed in time; the message stays in the outbox        exit 3
├── OfflineError            the link is down and the policy is offline="fail"             exit 3
├── ConfigurationError      a flag, file, directory or variable that cannot be used       exit 1
├── StorageError            this computer's disk or database does not work                exit 1
│   ├── DiskFullError       no room: nothing was written, and it may be tried again       exit 1
│   └── DamagedError        one message that is not what was written                      exit 1
├── ProtocolError           the peer broke the protocol (bytes from outside)
└── LocalProtocolError      our own caller broke the protocol (a bug on this side)
"""

from __future__ import annotations

import enum


class ErrorCode(enum.IntEnum):
    """Why a channel, a request or a connection ended: the same numbers in Close, Refused and Rejected
    frames, in QUIC application close and stream reset codes, and on every other transport."""

    NO_ERROR = 0x00
    INTERNAL = 0x01  # the peer that says it has a bug or a broken disk
    MALFORMED = 0x02  # bytes that are not a frame, or a field out of its bounds
    FRAME_TOO_BIG = 0x03  # a length prefix above the limit
    UNEXPECTED = 0x04  # a good frame in a state that does not allow it
    VERSION = 0x05  # no protocol version in common
    ACK_BEYOND = 0x06  # a position beyond what was sent
    LIMIT = 0x07  # too many of something: channels, parked bytes, members, devices
    TIMEOUT = 0x08  # sign-in, or a heartbeat, did not come in time
    SLOW_READER = 0x09  # the peer does not take what it asked for

    SIGN_IN_REQUIRED = 0x10
    SIGN_IN_REFUSED = 0x11  # wrong signature
    NAME_TAKEN = 0x12  # the name belongs to another key: link this device
    INVITE_NEEDED = 0x13  # closed server: a code is needed
    CODE_INVALID = 0x14  # unknown, used or expired code
    REVOKED = 0x15  # this device was removed from the account
    NAME_INVALID = 0x16

    UNKNOWN = 0x20  # no such user or conversation, or none that this user may see: one answer for both
    FORBIDDEN = 0x21  # a member, but without this right
    CONFLICT = 0x22  # the same message_id with another body
    TOO_BIG = 0x23  # body above the limit
    EXISTS = 0x24  # that conversation name is taken
    BUSY = 0x25  # not now: try later on a new channel
    QUOTA = 0x26

    REPLACED = 0x30  # a newer session of the same device took over
    GOING_AWAY = 0x31  # the server stops or restarts
    IDLE = 0x32  # closed for being unused; nothing is wrong
    CERTIFICATE = 0x33
    UNREACHABLE = 0x34  # nothing answered


class QuicmsgError(Exception):
    """Base of everything that quicmsg raises on purpose; `code` is the number it goes by on the wire."""

    exit_status = 1
    default_code = ErrorCode.INTERNAL

    def __init__(self, message: str, *, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code


class ConnectError(QuicmsgError):
    """No connection could be made: nothing answers at that address, or the name does not resolve."""

    exit_status = 5
    default_code = ErrorCode.UNREACHABLE


class CertificateError(QuicmsgError):
    """The server's certificate is not one that this client trusts, or is for another name, or expired."""

    exit_status = 7
    default_code = ErrorCode.CERTIFICATE

    def __init__(self, message: str, *, fingerprint: str = "", code: ErrorCode | None = None) -> None:
        super().__init__(message, code=code)
        self.fingerprint = fingerprint
        """SHA-256 (hex) of an authority that nobody vouched for yet, so that a person can compare and pin it;
        empty when pinning would not be the cure (wrong name, expired, another key than the pinned one)."""


class SignInError(QuicmsgError):
    """The server refused this user, device or code."""

    exit_status = 6
    default_code = ErrorCode.SIGN_IN_REFUSED


class RefusedError(QuicmsgError):
    """A right or a limit stands in the way; trying again will not help."""

    exit_status = 8
    default_code = ErrorCode.FORBIDDEN


class DeliveryError(QuicmsgError):
    """A message was not confirmed in time. Its outcome is unknown, it stays in the outbox, and it is
    sent again under the same id, so pressing "resend" can never make a second copy."""

    exit_status = 3
    default_code = ErrorCode.TIMEOUT

    def __init__(self, message: str, *, message_id: bytes, code: ErrorCode | None = None) -> None:
        super().__init__(message, code=code)
        self.message_id = message_id


class OfflineError(DeliveryError):
    """The link is down and this client was told to fail at once (`offline="fail"`)."""

    default_code = ErrorCode.UNREACHABLE


class ConfigurationError(QuicmsgError):
    """A flag, file, directory or environment variable cannot be used; the text says what to do."""


class StorageError(QuicmsgError):
    """The database of this process cannot be read or written; nothing was promised that is not there."""


class DiskFullError(StorageError):
    """There is no room for it. Nothing of it happened; once there is room it can be tried again."""


class DamagedError(StorageError):
    """What is stored under this number is not what was written; everything else goes on."""

    def __init__(self, conversation: str, seq: int) -> None:
        super().__init__(
            f"message {seq} of {conversation} is damaged on the server's disk: run quicmsg fsck, "
            "and put a backup in its place (quicmsg restore FILE)"
        )
        self.conversation = conversation
        self.seq = seq


class ProtocolError(QuicmsgError):
    """The peer sent what the protocol does not allow. Never raised at a caller of `receive_data`."""

    default_code = ErrorCode.MALFORMED


class LocalProtocolError(QuicmsgError):
    """Our own caller used a session in a way its state does not allow: a bug on this side."""

    default_code = ErrorCode.UNEXPECTED


SIGN_IN_CODES = frozenset(
    {
        ErrorCode.SIGN_IN_REQUIRED,
        ErrorCode.SIGN_IN_REFUSED,
        ErrorCode.NAME_TAKEN,
        ErrorCode.INVITE_NEEDED,
        ErrorCode.CODE_INVALID,
        ErrorCode.REVOKED,
        ErrorCode.NAME_INVALID,
    }
)
"""Reasons that signing in again with the same key and code will not cure."""


def error_code(number: int) -> ErrorCode:
    """The registered code of a number from the wire; a number that we do not know counts as INTERNAL."""
    try:
        return ErrorCode(number)
    except ValueError:
        return ErrorCode.INTERNAL
