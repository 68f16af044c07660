"""Session tickets: what resumes, what does not, and that nothing is lost, doubled or believed on the way."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aioquic.tls
import pytest
from certificates import authority
from early import EarlyClient, RawTickets, early_ticket
from quicpair import End, Server, World, pinned_aioquic
from stage import Play, Stage, free_port
from talk import Talk

from quicmsg.errors import CertificateError, ConfigurationError, ConnectError
from quicmsg.limits import RETRY_ABOVE, TICKET_LIFETIME
from quicmsg.transport import resuming, selftest
from quicmsg.transport.listener import server_configuration
from quicmsg.transport.paths import MovingConnection
from quicmsg.transport.resuming import ClientTickets, Resumption
from quicmsg.transport.trust import Trust

HOME = b"a device"


@pytest.fixture(autouse=True)
def _pinned() -> Iterator[None]:
    with pinned_aioquic(1):
        yield


class Home:
    """A server, and a client that comes back to it."""

    def __init__(self, **network: Any) -> None:
        network.setdefault("latency", 0.05)
        self.world = World(**network)
        self.sessions: list[Talk] = []
        self.server: Server = self.world.serve(self._session)
        self.tickets = ClientTickets()

    def visit(self, *, signs_in: bool = True, tickets: ClientTickets | None = None) -> End:
        """Connect, say three things, be heard, sign in, leave."""
        end = self.dial(tickets)
        theirs = self.sessions[-1]
        self.world.run(lambda: theirs.total == 3)
        if signs_in:
            self.end_of(theirs).keep_ticket(HOME)
        self.world.run_for(2 * self.world.network.latency)
        assert theirs.problems == []
        end.close()
        self.world.run(lambda: end.is_over)
        return end

    def dial(self, tickets: ClientTickets | None = None) -> End:
        ours, known = Talk(), len(self.sessions)
        ours.say(1, 3)
        end = self.world.dial(ours, tickets=self.tickets if tickets is None else tickets)
        self.world.run(lambda: end.is_open and len(self.sessions) > known)
        assert ours.channel_binding == self.sessions[-1].channel_binding
        return end

    def end_of(self, session: Talk) -> End:
        return next(end for end in self.server.ends if end.session is session)

    def _session(self, _address: str) -> Talk:
        self.sessions.append(Talk())
        return self.sessions[-1]


def resumed(end: End) -> bool:
    return end.connection.is_resumed


# ---- what resumes


def test_a_device_that_signed_in_resumes_with_a_binding_of_its_own() -> None:
    """No certificate is shown, and yet what is signed on one connection is worth nothing on the next."""
    home = Home()
    visits = [home.visit() for _ in range(3)]
    assert [resumed(end) for end in visits] == [False, True, True]
    assert [end.connection.tls._peer_certificate is None for end in visits] == [False, True, True]
    assert len({session.channel_binding for session in home.sessions}) == 3


def test_a_ticket_counts_from_the_sign_in_on() -> None:
    """Who never signed in costs the server no memory, and resumes nothing."""
    home = Home()
    home.visit(signs_in=False)
    assert len(home.server.admission.tickets) == 0
    assert not resumed(home.visit())


def test_a_ticket_is_for_one_connection() -> None:
    """Offered a second time, by whomever, it is not known: a full handshake, not an error."""
    home = Home()
    home.visit()
    copy = ClientTickets()
    stolen = home.tickets._newest
    assert stolen is not None
    copy.put(stolen)
    assert resumed(home.visit(signs_in=False))
    assert not resumed(home.visit(signs_in=False, tickets=copy))


def test_a_newer_sign_in_voids_the_older_ticket_of_the_device() -> None:
    """A first flight that was held back is worth nothing once its device was here again."""
    home = Home()
    home.visit()
    held_back = home.tickets.take("localhost", Trust(fingerprint=authority().fingerprint))
    assert held_back is not None
    home.visit()
    assert len(home.server.admission.tickets) == 1
    late = ClientTickets()
    late.put(held_back)
    assert not resumed(home.visit(tickets=late))


def test_tickets_are_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when they are used: what is remembered about a device does not pile up."""
    monkeypatch.setattr(resuming, "TICKETS_MAX", 3)
    home = Home()
    kept = resuming.ServerTickets()
    home.visit()
    made = home.tickets._newest
    assert made is not None
    names = [bytes([number]) * 64 for number in range(5)]
    for number, name in enumerate(names):
        kept.keep(bytes([number]), dataclasses.replace(made.ticket, ticket=name))
    assert [kept.take(name) is not None for name in names] == [False, False, True, True, True]
    for number, name in enumerate(names):
        kept.keep(bytes([number]), dataclasses.replace(made.ticket, ticket=name))
        assert kept.take(name) is not None
    assert len(kept) == 0
    assert len(kept._owners) == 3


def test_a_ticket_grows_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client does not offer it after TICKET_LIFETIME; the server would not take it either."""
    for ours, theirs in ((True, True), (False, True)):
        home = Home()
        home.visit()
        if not ours:  # a client that thinks it is still good
            newest = home.tickets._newest
            assert newest is not None
            later = newest.ticket.not_valid_after + datetime.timedelta(days=1)
            home.tickets.put(
                dataclasses.replace(newest, ticket=dataclasses.replace(newest.ticket, not_valid_after=later))
            )
        with monkeypatch.context() as patch:
            now = aioquic.tls.utcnow() + datetime.timedelta(seconds=TICKET_LIFETIME + 1)
            patch.setattr(aioquic.tls, "utcnow", lambda now=now: now)
            assert resumed(home.visit()) is not theirs


# ---- what does not


def test_a_restarted_server_knows_no_ticket() -> None:
    """It costs nothing: the handshake is a full one, in the same time."""
    home = Home()
    home.visit()
    home.server.restart()
    before = home.world.now
    end = home.dial()
    assert not resumed(end)
    assert home.world.now - before < 0.2


def test_a_ticket_is_offered_only_under_the_trust_that_it_was_made_under(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another pin or name, a CA file that changed, a certificate that expired since: look at it again."""
    home = Home()
    home.visit()
    made = home.tickets._newest
    assert made is not None
    pin = made.trust
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority().pem)
    by_file = dataclasses.replace(made, trust=Trust(ca_file=ca))

    def offered(resumption: Resumption, name: str, trust: Trust) -> bool:
        tickets = ClientTickets()
        tickets.put(resumption)
        found = tickets.take(name, trust) is not None
        assert tickets.take(name, trust) is None, "taken twice"
        return found

    assert offered(made, "localhost", pin)
    assert offered(by_file, "localhost", Trust(ca_file=ca))
    assert not offered(made, "localhost", Trust(fingerprint="00" * 32))
    assert not offered(made, "localhost", Trust(ca_file=ca))
    assert not offered(made, "127.0.0.1", pin)
    with monkeypatch.context() as patch:
        now = made.leaf.not_valid_after_utc + datetime.timedelta(days=1)
        patch.setattr(aioquic.tls, "utcnow", lambda: now)
        assert not offered(made, "localhost", pin)
    ca.write_bytes(authority(b"B" * 32, "another").pem)
    assert not offered(by_file, "localhost", Trust(ca_file=ca))
    ca.unlink()
    assert not offered(by_file, "localhost", Trust(ca_file=ca))


def test_a_ticket_does_not_make_a_stranger_the_server() -> None:
    """Who took over the address cannot resume, and then has to show a certificate: refused."""
    home = Home()
    home.visit()
    home.server.restart()
    chain, key = authority(b"B" * 32, "another").issue()
    home.server.admission.configuration = server_configuration(chain, key)
    end = home.world.dial(Talk(), tickets=home.tickets)
    home.world.run(lambda: end.is_over)
    assert isinstance(end.connection.certificate_error, CertificateError)
    assert not end.is_open


def test_resuming_works_when_the_address_must_be_proved_first() -> None:
    """Retry: the ticket is offered again with the token, and used up only then."""
    home = Home()
    home.visit()
    home.server.admission.half_open += RETRY_ABOVE
    before = home.world.now
    end = home.dial()
    assert resumed(end)
    assert home.world.now - before > 0.24  # one round trip more: there was a Retry
    home.world.run(lambda: home.sessions[-1].total == 3)


@pytest.mark.slow
def test_over_a_bad_network_nothing_is_lost_or_doubled() -> None:
    """Loss, reordering, doubling, restarts and Retry in between: connected each time, each word once."""
    count = 0
    for seed in range(60):
        with pinned_aioquic(seed):
            home = Home(
                seed=seed, latency=0.01 + 0.002 * (seed % 20), jitter=0.01 * (seed % 3),
                loss=0.04 * (seed % 6), duplicate=0.1 * (seed % 2),
            )  # fmt: skip
            for visit in range(4):
                if home.world.random.random() < 0.2:
                    home.server.restart()
                home.server.admission.half_open = RETRY_ABOVE if home.world.random.random() < 0.3 else 0
                count += resumed(home.visit()) and visit > 0
    assert count > 90, "hardly anything was resumed"


@pytest.mark.parametrize(
    ("owner", "name", "planted", "said"),
    [
        (resuming.ServerTickets, "take", lambda self, name: None, "a ticket does not resume"),
        (resuming.ResumingConnection, "_initialize", MovingConnection._initialize, "invite early data"),
        (resuming.ResumingConnection, "is_resumed", True, "claims to be a resumed one"),
    ],
)
def test_an_aioquic_whose_tickets_differ_is_refused(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, planted: Any, said: str
) -> None:
    """Said at the start, in words."""
    monkeypatch.setattr(owner, name, planted)
    with pytest.raises(ConfigurationError, match=said):
        selftest.check_aioquic.__wrapped__()


# ---- early data


def test_early_data_is_not_invited_and_not_sent() -> None:
    """Neither by our server's tickets, nor by our client when another server's ticket invites it."""
    home = Home()
    with RawTickets() as raw:
        home.visit()
    assert raw.made
    assert all(ticket.max_early_data_size is None for ticket in raw.made)
    newest = home.tickets._newest
    assert newest is not None
    assert newest.ticket.max_early_data_size is None
    with RawTickets(invite=True) as raw:
        home.visit()
    assert any(ticket.max_early_data_size is not None for ticket in raw.made)
    newest = home.tickets._newest
    assert newest is not None
    assert newest.ticket.max_early_data_size is None


@pytest.mark.parametrize("retry", [False, True])
def test_early_data_is_refused_without_harm(retry: bool) -> None:
    """A client that sends it all the same: nothing of it is acted on, all of it comes again, once, after the
    handshake (aioquic itself would take it with any ticket, and we have no session yet to give it to)."""
    home = Home()
    with RawTickets() as raw:
        home.visit()
    newest = home.tickets.take("localhost", Trust(fingerprint=authority().fingerprint))
    assert newest is not None
    ours = Talk()
    ours.say(0, 5)
    said = b"".join(item.data for item in ours.data_to_send())
    client = EarlyClient(early_ticket(newest, raw.made[-1]), [(0, said)], tickets=home.tickets)
    home.server.admission.half_open += RETRY_ABOVE * retry
    end = home.world.join(client, ours)
    # The first flight has arrived; nobody is told.
    home.world.run_for(0.06)
    assert client.early_packets > 0
    assert len(home.sessions) == 1
    home.world.run(lambda: end.is_open and len(home.sessions) == 2)
    theirs = home.sessions[-1]
    assert resumed(end)
    assert not end.connection.tls.early_data_accepted
    assert theirs.problems == []
    if not retry:  # aioquic's client forgets after a Retry what it had sent: one more reason to send none
        home.world.run(lambda: theirs.total == 5)


# ---- a client's ticket on real sockets


async def first_visit(stage: Stage, tickets: ClientTickets) -> int:
    """A client gets its first ticket, and signs in; gives the port."""
    port = await stage.serve()
    ours = Talk()
    ours.say(0)
    await stage.dial(port, ours, tickets=tickets)
    await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].total == 1)
    stage.sessions[0].say(0)
    stage.listener.links[0].flush()
    await stage.until(lambda: ours.total == 1)  # and the ticket came before it
    assert tickets._newest is not None
    stage.listener.links[0].keep_ticket(HOME)
    return port


def test_a_ticket_that_reached_no_server_is_kept(play: Play) -> None:
    """The first attempts in a dead network do not spend it; the first server that answers does."""

    async def scene(stage: Stage) -> None:
        tickets = ClientTickets()
        port = await first_visit(stage, tickets)
        first = tickets._newest
        with pytest.raises(ConnectError):
            await stage.dial(free_port(), Talk(), tickets=tickets, timeout=0.2)
        assert tickets._newest is first
        again = await stage.dial(port, Talk(), tickets=tickets)
        assert again.peer.connection.is_resumed
        assert tickets._newest is not first

    play(scene)


def test_another_certificate_voids_all_tickets(play: Play) -> None:
    """Let every client look at it."""

    async def scene(stage: Stage) -> None:
        tickets = ClientTickets()
        port = await first_visit(stage, tickets)
        stage.listener.set_certificate(*stage.files.authority.issue(seed=b"N" * 32))
        again = await stage.dial(port, Talk(), tickets=tickets)
        assert not again.peer.connection.is_resumed

    play(scene)
