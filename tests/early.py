"""Clients that send early data (0-RTT) all the same, for the tests that show that it is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import TracebackType
from typing import Any
from unittest import mock

from aioquic import tls
from aioquic.quic.connection import MAX_EARLY_DATA, QuicConnection
from aioquic.quic.packet_builder import QuicPacketBuilder
from quicpair import client_configuration

from quicmsg.transport.connection import Connection
from quicmsg.transport.resuming import ClientTickets, Resumption


class RawTickets:
    """While entered, records tickets as aioquic makes them; `invite`: and lets servers invite early data."""

    def __init__(self, *, invite: bool = False) -> None:
        self.made: list[tls.SessionTicket] = []
        self._invite = invite
        self._patches: list[Any] = []

    def __enter__(self) -> RawTickets:
        made, initialize = Connection._ticket_made, Connection._initialize

        def record(connection: Connection, ticket: tls.SessionTicket) -> None:
            if connection.is_client:
                self.made.append(ticket)
            made(connection, ticket)

        def invite(connection: Connection, peer_cid: bytes) -> None:
            initialize(connection, peer_cid)
            if not connection.is_client:
                connection.tls._max_early_data = MAX_EARLY_DATA

        self._patches = [mock.patch.object(Connection, "_ticket_made", record)]
        if self._invite:
            self._patches.append(mock.patch.object(Connection, "_initialize", invite))
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for patch in self._patches:
            patch.stop()


def early_ticket(resumption: Resumption, raw: tls.SessionTicket) -> Resumption:
    """The same, with what a client needs that means to send early data."""
    ticket = dataclasses.replace(
        resumption.ticket, max_early_data_size=MAX_EARLY_DATA, other_extensions=raw.other_extensions
    )
    return dataclasses.replace(resumption, ticket=ticket)


class EarlyClient(Connection):
    """Sends `early`, (stream, bytes) each, with its first packet, and counts the packets of that kind."""

    def __init__(
        self, resumption: Resumption, early: Sequence[tuple[int, bytes]], *, tickets: ClientTickets
    ) -> None:
        self.early_packets = 0
        self._early = early
        super().__init__(
            configuration=client_configuration(),
            trust=resumption.trust,
            resumes=resumption,
            on_ticket=tickets.put,
        )

    def connect(self, addr: Any, now: float) -> None:
        super().connect(addr, now)
        for stream_id, data in self._early:
            self.write(stream_id, data, False)

    def _update_traffic_key(self, direction: Any, epoch: tls.Epoch, cipher_suite: Any, secret: bytes) -> None:
        if epoch is tls.Epoch.ZERO_RTT:
            QuicConnection._update_traffic_key(self, direction, epoch, cipher_suite, secret)
        else:
            super()._update_traffic_key(direction, epoch, cipher_suite, secret)

    def _write_application(self, builder: QuicPacketBuilder, network_path: Any, now: float) -> None:
        before = builder.packet_number
        is_early = not self._cryptos[tls.Epoch.ONE_RTT].send.is_valid()
        super()._write_application(builder, network_path, now)
        self.early_packets += is_early * (builder.packet_number - before)
