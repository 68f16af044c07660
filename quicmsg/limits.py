"""Every bound and every timer of quicmsg, each with its reason, and asserts that relate them.

Sizes are bytes, times are seconds, unless the name ends in another unit. Nothing elsewhere in the
code holds such a number of its own, so that a reader can see the whole budget on one page.
"""

from __future__ import annotations

from typing import Final

# ---- frames ------------------------------------------------------------------------------------
FRAME_HEADER_SIZE: Final = 4
"""A 32-bit big-endian length: the simplest thing for an implementer in another language."""
FRAME_SIZE_MAX: Final = 64 * 1024
"""Above it a channel is closed before a byte is buffered (a 4 GiB prefix costs nothing)."""
LEVELS_TAKEN: Final = 64
"""Nested arrays and maps of a frame, its own included, that are always read: ours have 3."""
BODY_SIZE_MAX: Final = 16 * 1024
"""One chat message; long texts belong into attachments. Leaves slack in a frame for ciphertext headers."""
NAME_SIZE_MAX: Final = 32
"""User and group names: fit a terminal column and an index."""
LABEL_SIZE_MAX: Final = 64
"""Name of a device, for people."""
TEXT_SIZE_MAX: Final = 256
"""Human-readable reason in Close, Refused, Rejected."""
MESSAGE_ID_SIZE: Final = 16
SEQ_MAX: Final = 2**53
"""What a JavaScript number and a JSON reader hold exactly."""
PAGE_MESSAGES_MAX: Final = 100
"""Messages in one answer to Fetch; more is asked for with the next Fetch."""
PAGE_SIZE_MAX: Final = 48 * 1024
"""Bytes of bodies in one Page frame: below FRAME_SIZE_MAX with room for heads."""
SYNC_PAGE_ENTRIES: Final = 256
"""Changed conversations in one SyncPage: about 20 KiB."""

# ---- channels ----------------------------------------------------------------------------------
CHANNELS_MAX: Final = 100
"""Conversation channels that a client keeps open; aioquic pays for each open stream, positions live
in the store, so closing the least recently used one costs nothing."""
SERVER_CHANNELS_MAX: Final = 128
"""What the server tolerates at once: QUIC's stream limit in aioquic, above CHANNELS_MAX so that a
close that is still under way never blocks an open."""
DELIVER_WINDOW_MESSAGES: Final = 64
"""Delivered but unacknowledged messages in one conversation; the rest waits in the log, not in memory."""
DELIVER_WINDOW_SIZE: Final = 256 * 1024
"""The same in bytes of bodies: bounds what a slow reader costs the server."""
SUBMIT_WINDOW_MESSAGES: Final = 64
"""Sends of one channel without an answer: the client keeps to it, the server stops reading beyond it."""
SUBMIT_WINDOW_SIZE: Final = 256 * 1024
PARKED_SIZE_MAX: Final = 64 * 1024
"""Bytes on conversation channels that may arrive before the sign-in is checked (first flight)."""
PARKED_PIECES_MAX: Final = 512
SIGN_IN_SIZE_MAX: Final = 4 * 1024
"""Bytes on channel 0 before sign-in: Hello and Authenticate are under 600."""
REQUESTS_MAX: Final = 32
"""Requests on channel 0 (create, invite, join ...) without an answer, per session."""

OUTPUT_MAX: Final = 1024 * 1024
"""Unacknowledged output of one session above which it adds nothing that can wait. All windows of all channels
together are far more than a connection should hold (100 channels x 256 KiB)."""
OPERATIONS_MAX: Final = 256
"""What one session may have asked of the store without an answer; above it none of its conversation channels
is read (a reset channel gives its window back, but not its place in the queue). With the biggest bodies that
is 4 MiB of a session's in the server's memory; at 5 ms a commit it is still 50,000 messages a second."""
OPEN_TIMEOUT: Final = 5.0
"""From a channel's first byte to its Open: a channel that says nothing takes one of SERVER_CHANNELS_MAX."""

# ---- clocks of the protocol --------------------------------------------------------------------
RESEND_INTERVAL: Final = 3.0
"""Unanswered Send: 3 s ping and rebind, 6 s a second connection races, 9 s again."""
RESENDS_MAX: Final = 3
FAILED_AFTER: Final = RESEND_INTERVAL * (RESENDS_MAX + 1)
"""12 s without any progress: the red cross is shown; the row stays in the outbox."""
PING_INTERVAL_ACTIVE_MIN: Final = 1.0
PING_INTERVAL_ACTIVE_MAX: Final = 2.0
"""While something is unanswered or a person is at it."""
PING_INTERVAL_IDLE: Final = 15.0
"""Otherwise: below the ~30 s after which NATs forget a UDP flow."""
PINGS_MISSED_MAX: Final = 3
"""More than this many pings without any frame from the peer: it is gone."""
SUSPECT_AFTER: Final = 2
"""This many unanswered pings: rebind the socket; the connection may live on at a new address."""
MOVE_PINGS: Final = (0.0, 0.8, 1.6, 3.0)
"""After a move: a lost PATH_RESPONSE makes the server go back to the dead path after 0.7 s, and only a
packet from the client after that brings it back (measured; facts/aioquic.md section 1)."""
RECEIPT_INTERVAL: Final = 0.25
"""In big groups receipts are coalesced: at most one frame per conversation and device in this time."""
RECEIPT_AT_ONCE_MEMBERS: Final = 8
"""Up to this many members receipts are told at once (a delivered tick should not wait 250 ms)."""
CHANNEL_IDLE: Final = 300.0
"""A conversation channel without traffic is closed after this time."""
SIGN_IN_TIMEOUT: Final = 5.0
"""From the end of the handshake to a good Authenticate."""
CLOSE_TIMEOUT: Final = 3.0
"""How long a close waits for what is in flight before it gives up politeness."""

# ---- reconnecting ------------------------------------------------------------------------------
CONNECT_TIMEOUT: Final = 5.0
"""One attempt, handshake and sign-in included."""
RECONNECT_MIN: Final = 0.2
RECONNECT_MAX: Final = 5.0
RECONNECT_SPREAD: Final = 1.0
"""After a server said that it goes, or that it was restarted: all its clients hear it at the same moment."""
RECONNECT_FACTOR: Final = 2.0
"""Back-off with full jitter: 10,000 clients of a restarted server must not come back as one wave."""

# ---- transport ---------------------------------------------------------------------------------
JOURNAL_CHECK_SIZE_MAX: Final = 128 * 1024 * 1024
"""A client's journal up to this size is looked through for damage when it is opened: 42 MB took 24 ms. A
bigger one would keep a person waiting."""
OPEN_FILES_MIN: Final = 64
"""What server and client may need at a time, generously: both have about 20 open, however many peers there
are (one UDP socket serves all)."""
DEFAULT_PORT: Final = 4433
STREAM_WINDOW: Final = 256 * 1024
CONNECTION_WINDOW: Final = 4 * 1024 * 1024
"""Receive windows; they slide with consumption (stock aioquic doubles them for ever: a 2 GB hole)."""
SEND_BUFFER_MAX: Final = 4 * 1024 * 1024
"""Unacknowledged plus unsent bytes of one connection; above it the peer is a slow reader: close."""
CRYPTO_SIZE_MAX: Final = 16 * 1024
"""CRYPTO bytes taken before the handshake is complete (15 MB cost 24 s of CPU in stock aioquic)."""
STREAM_GAPS_MAX: Final = 64
"""Holes in one stream's received ranges; honest transfers at 20 % loss peaked at 4."""
DEAD_CHANNELS_MAX: Final = 512
"""Numbers of channels that we gave up and whose last bytes may still come: far more than can be open at once.
The oldest is forgotten first: its late bytes would be those of a new channel, which they cannot open."""
IDLE_TIMEOUT: Final = 60.0
"""QUIC's own: must outlive every ping interval that is not learnt (see the asserts)."""
HANDSHAKE_TIMEOUT: Final = 10.0
HALF_OPEN_MAX: Final = 1024
RETRY_ABOVE: Final = 64
"""Half-open handshakes above which an address must be proved first (Retry)."""
CONNECTIONS_PER_ADDRESS_MAX: Final = 512
"""High on purpose: all local users behind docker-proxy or a NAT share one address."""
CONNECTIONS_MAX: Final = 20_000
KNOCKS_PER_SECOND: Final = 500
"""Datagrams of one address (an IPv6 /64 counts as one) that belong to no connection and are looked at; what
goes beyond is dropped before it is parsed. Room for 500 users of one address whose server was restarted."""
KNOCKS_BURST: Final = 4_000
HANDSHAKES_PER_SECOND: Final = 100
"""Handshakes that one address may begin: each costs 2 to 4 ms, so that one address takes a third of a core at
most. An address that is not proved soon gets a Retry instead (RETRY_ABOVE)."""
HANDSHAKES_BURST: Final = 512
"""All users behind one address at once."""
BUCKETS_MAX: Final = 10_000
"""Addresses that are counted at a time, about 200 bytes each; forged ones only push each other out."""
DATAGRAM_SIZE: Final = 1200
"""QUIC's minimum path MTU; aioquic has no path MTU discovery."""
UNKNOWN_REPLIES_PER_SECOND: Final = 100
"""Stateless resets, version negotiations and Retries to strangers: never an amplifier."""
UNKNOWN_REPLIES_BURST: Final = 200
SOCKET_BUFFER: Final = 4 * 1024 * 1024
RECEIVE_BATCH: Final = 64
"""Datagrams read, or processed, per wake-up: enough to amortise the loop, few enough to stay fair."""
RECEIVE_AHEAD: Final = 4
"""With more waiting, so many batches are read for one that is processed: reading costs a twentieth of it, and
what stays in the kernel's buffer is lost by everybody alike."""
RECEIVE_WAITING_MAX: Final = 4_096
"""Datagrams that were read and wait for their turn (5 MB); above it who has more than an equal share of them
loses what comes, and above twice as many everybody who has one waiting. A sender takes that for a narrow
path, and slows down."""
TIMER_LATENESS: Final = 0.0005
"""QUIC timers fire a little late, never early or on time: aioquic re-arms the same instant for ever."""
PTO_INTERVAL_MAX: Final = 0.5
"""Client: probes at least this often while packets are unanswered, so that the end of a silent hole is
noticed quickly; bounded by the 12 s after which the connection is replaced."""
KICK_AFTER_PTO: Final = 2
"""A packet that arrives after this many probe timeouts says that the path works again: send now what is
in flight instead of waiting for the backed-off timer."""
ACK_DELAY: Final = 0.02
"""An ACK waits this long for data to ride on: below the 25 ms that we announce as max_ack_delay."""
ACK_PACKETS_MAX: Final = 10
"""This many packets are acknowledged at once, so that a bulk sender's window grows."""
CHALLENGE_INTERVAL: Final = 0.1
"""While a client's new address is not validated, a packet to it asks again if the last question is this old:
six chances before aioquic gives up and goes back to the old address, after 0.6 s."""
KEY_UPDATE_PACKETS: Final = 2**20
"""The client renews the keys after so many packets: far below the 2^23 that AES-GCM allows (RFC 9001 section
6.6), and far apart, since aioquic loses a connection that renews twice in one round trip."""
TICKETS_MAX: Final = 20_000
"""Session tickets that a server remembers, one a device: as many as CONNECTIONS_MAX, 0.7 KB each."""
TICKET_LIFETIME: Final = 12 * 3600.0
"""A night's sleep. Below the 24 h that aioquic tells the client, which it cannot be told otherwise."""
ADDRESS_STAGGER: Final = 0.25
"""Between attempts at the addresses of a name (RFC 8305): a broken IPv6 costs no more than this."""
HANDSHAKE_AGAIN: Final = 1.5
"""A handshake that takes longer is begun once more, beside the first: three round trips of a bad path, and a
server that was restarted in the middle of one is usable again within 2 s."""
OLD_SOCKET_LINGER: Final = 1.0
"""After a move the old socket is still read for this long: what was in flight to it is not thrown away."""
PATH_CHANGES_PER_MINUTE: Final = 120
"""Honest clients move rarely, but a bad NAT rebinds with each packet. A move costs a challenge and what is in
flight once more; a lower bound would let whoever copies packets on the way close connections of others."""

# ---- server ------------------------------------------------------------------------------------
COMMIT_BATCH_MAX: Final = 512
"""Operations in one transaction: bounds the commit's latency and the size of a rollback."""
STORE_QUEUE_MAX: Final = 20_000
"""Operations waiting for the disk; beyond it submitters wait (their channels are not read)."""
STORE_FLIGHT_MAX: Final = COMMIT_BATCH_MAX
"""Operations handed to the store and not answered: what is on its way to the disk, and what is ready behind
it. What else is asked waits by user, and users take turns; so this is what anybody waits for at most."""
STORE_FLIGHT_SIZE_MAX: Final = 1024 * 1024
"""The same in bytes: a commit of big messages takes as long as their bytes take to the disk."""
HELD_SIZE_MAX: Final = 64 * 1024 * 1024
"""Bytes of operations waiting for their turn, of all users; above it those with more than an equal share are
answered BUSY. An honest user's share is 4 MiB even when 16 flood."""
BUSY_RETRY_AFTER: Final = 1.0
"""What BUSY asks a client to wait: a disk that stalls is back, or found broken, within about that."""
STORE_HOT_ROWS: Final = 50_000
"""Users, devices, conversations, members and positions (each) that the writer keeps as objects: a
membership test then costs no statement. About 10 MB each when full; then it starts afresh."""
THREAD_SWITCH_INTERVAL: Final = 0.000_02
"""After this time a thread of the store gets Python's interpreter lock from a busy event loop. A loop that
is never idle gives the lock up for each sendto, and takes it back before anybody woke up: with the default
of 5 ms it left the writer 0 to 53 appends a second, with this 5,600 to 8,700, for a tenth of its turns."""
STORE_PAGE_CACHE_SIZE: Final = 64 * 1024 * 1024
"""SQLite's own cache, per connection: the inner pages of the indexes of some ten million messages."""
STORE_CHECKPOINT_PAGES: Final = 4_000
"""16 MB of log before it is copied into the database: rare enough to be cheap, short enough to be quick."""
STORE_LOG_SIZE_MAX: Final = 64 * 1024 * 1024
"""The log file is cut back to this after a long reader has let it grow."""
STORE_BUSY_TIMEOUT: Final = 5.0
"""How long a program that looks into the file from outside may hold it before the store counts as broken."""
STORE_WALK_ROWS: Final = 200
"""Messages that a walk through a whole log holds at a time: 3 MB when all bodies are as big as may be."""
STORE_WALK_REPORT_ROWS: Final = 100_000
"""After so many messages a walk through a big store says how far it is: every second or so."""
STORE_TAIL_ROWS: Final = 1_000
"""The newest messages, which are checked at each start: what a crash may have hurt, in a few milliseconds."""
STORE_DAMAGES_MAX: Final = 1_000
"""What a check of a damaged file tells: more would not be read, and the remedy is the same."""
STORE_DAMAGES_SHOWN: Final = 20
"""Of them on a person's screen."""
STORE_WITNESS_INTERVAL: Final = 10.0
"""How often a busy store notes beside the database how far it has come: that costs an fsync. What is put
back by hand from a copy that is younger than this, after a kill -9, is not noticed by it."""
STORE_FULL_RETRY: Final = 2.0
"""After so long a store whose disk is full tries again: soon after somebody made room."""
DAMAGED_RETRY_AFTER: Final = 60.0
"""What a client is asked to wait before it opens a conversation anew whose next message is damaged on the
server's disk: only a person can cure that, so asking often helps nobody."""
STORE_FEED_SCAN_MAX: Final = 1_000
"""Changes of the whole store that one question for a user's changes looks through (under 1 ms) before it
looks through the user's own conversations instead."""
LOG_CACHE_SIZE: Final = 32 * 1024 * 1024
"""Bytes of recent messages kept for live delivery without a read."""
MEMBERS_MAX: Final = 500
"""Of one group: Opened lists them all in one frame."""
CONVERSATIONS_PER_USER_MAX: Final = 20_000
"""Created, opened or joined by the user itself: what others add it to must not use up its share."""
ADDED_PER_USER_MAX: Final = 5_000
"""Groups that others have put a user into and that it has not left: each is a line in its list."""
ADDED_BY_ONE_MAX: Final = 1_000
"""Of those, groups that one user made: a single account cannot fill a stranger's list for ever, and a program
with a room for each topic still works. Whoever wants to be in more of them joins the open ones itself."""
DEVICES_PER_USER_MAX: Final = 16
LINK_CODE_LIFETIME: Final = 600.0
INVITE_CODE_LIFETIME: Final = 7 * 24 * 3600.0
CODE_BITS: Final = 80
LINK_CODES_PER_USER_MAX: Final = 16
"""The newest ones count: who asks for codes in a loop fills no disk."""
SEND_RATE: Final = 20_000.0
"""Tokens per second and user, long-term, shared by all its devices; without one its channels are read later,
nothing is refused. About what one core stores, since one user may well be a program: below it users take
turns at the store (`server/submitter.py`), so a flood costs its sender's messages time, and nobody else's."""
SEND_BURST: Final = 20_000
"""Tokens at once: a long file piped in, or everything that was written in a week without a network."""
SEND_TOKEN_SIZE: Final = 1024
"""A Send costs a token, and one more for each full KiB of its body; an Open costs one."""
ACK_COST: Final = 0.05
"""Tokens of an Ack or a Read: about what it costs the server beside a Send."""
CONTROL_RATE: Final = 50.0
"""Frames per second and session on the control channel, long-term; beyond it the session ends. A client says
a ping a second, and what its person asks for; a packet of nothing but pings is 200 of them."""
CONTROL_BURST: Final = 5_000
FETCH_TOKEN_ENTRIES: Final = 50
"""A Fetch costs a token, and one more for so many entries that it asks for: they are read from the disk."""
REQUEST_RATE: Final = 2.0
"""Requests per second and user, long-term (invite, join, leave, link; a create counts its members): each
writes into what others read. Beyond it the answer is BUSY, with the seconds to wait."""
REQUEST_BURST: Final = 1_000
"""Enough to invite a whole group one by one, twice."""
NEW_NAMES_RATE: Final = 0.1
"""New names per second and address, long-term: 8,640 a day. On an open server names cost nothing else, and
each has a budget of its own."""
NEW_NAMES_BURST: Final = 1_000
"""At once: everybody in one building on the first day."""
NEW_NAMES_ADDRESSES_MAX: Final = 10_000
"""Addresses whose new names are counted."""
BUDGETS_MAX: Final = 50_000
"""Users whose spent tokens are remembered after they left: coming back must not fill the purse."""
DRAIN_TIMEOUT: Final = 5.0
"""From SIGTERM until connections that do not close are dropped; below docker's grace period of 10 s."""
STRANGER_LOGS_PER_SECOND: Final = 10
"""Lines about refused sign-ins and connections that ended without one: an attack shows, and fills no disk."""
CERTIFICATE_CHECK_INTERVAL: Final = 12 * 3600.0
"""How often a running server looks whether its certificate must be renewed."""
CERTIFICATE_LIFETIME_DAYS: Final = 397
"""The most that browsers accept."""
CERTIFICATE_RENEW_DAYS: Final = 30
CERTIFICATE_BACKDATE_DAYS: Final = 1
"""A fresh certificate must be valid for a client whose clock is slow."""
CA_LIFETIME_DAYS: Final = 3650
HOST_NAME_SIZE_MAX: Final = 253
"""Of a name in a certificate (RFC 1035 section 2.3.4)."""

# ---- client ------------------------------------------------------------------------------------
OUTBOX_MAX: Final = 100_000
"""Messages waiting on this device; beyond it send() refuses instead of filling the disk."""
JOURNAL_QUEUE_MAX: Final = 4_096
"""Writes waiting for this device's disk; beyond it a writer waits for room. At 16 KiB each: 64 MiB."""
CANCELLED_MAX: Final = 10_000
"""Cancelled messages of which a late answer is still told; the oldest are forgotten."""
CLIENT_EVENTS_MAX: Final = 65_536
"""Events that a subscriber has not taken; the oldest are dropped, and it is told how many."""
SLEEP_CHECK_INTERVAL: Final = 2.0
"""How often the client looks whether this computer slept."""
REBIND_INTERVAL: Final = 1.0
"""At most one move of the socket in this time when errors or route changes ask for it: each costs one of
the seven spare connection ids until the server has answered."""
SILENCE_DOUBTED: Final = 0.25
"""While something is unanswered, this much silence makes a notice of the network a reason to move: more than
losses cause on most paths, and less than a person notices."""
RACE_HANDICAP: Final = 1.0
"""When the network is back, or the first connection has just moved, a racing connection waits this long: to
keep the first is cheaper for both sides, and in this time it has probed twice."""
REPLACED_DELAY: Final = 10.0
"""Another process signed in as this very device: do not fight with it."""
INBOX_MAX: Final = 4096
"""Entries that wait for the program; with more, no further conversation is opened (the server keeps them)."""
EARLY_SIZE_MAX: Final = 48 * 1024
"""What a client writes on conversation channels before it is welcomed: below the server's PARKED_SIZE_MAX."""
REOPEN_DELAY: Final = 0.5
"""A channel that the server aborted is opened again after this time, doubled with each failure in a row."""
REOPEN_DELAY_MAX: Final = 30.0
NETWORK_POLL_INTERVAL: Final = 2.0
"""Watching addresses and routes where there is no netlink."""
NETWORK_SETTLE: Final = 0.01
"""Address and route changes come in bursts of about a millisecond; act once, and soon: this is part of the
stall of every move that the kernel tells of."""
SLEEP_NOTICED: Final = 1.0
"""A shorter gap between the clocks may be one that a busy machine made between reading them."""

# ---- line client -------------------------------------------------------------------------------
CONNECT_PATIENCE: Final = CONNECT_TIMEOUT + 1.0
"""How long a command waits for its connection: one whole attempt, and the reason why it failed."""
HEALTH_TIMEOUT: Final = 4.0
"""A health check has its answer, or none, before the 5 s that container engines are told to wait."""
READ_SIZE: Final = 64 * 1024
"""Bytes taken from stdin at once: what a pipe holds."""
PIPE_LINE_SIZE_MAX: Final = 128 * 1024
"""One line of `pipe`: a body of BODY_SIZE_MAX with every byte of it written as \\u00XX takes 96 KiB."""
PIPE_QUEUEING_MAX: Final = 256
"""Sends of `pipe` on their way to the journal at once: they share its commits (one each: 300 a second)."""
PIPE_UNANSWERED_MAX: Final = 4_096
"""Sends of `pipe` without an answer; beyond it no further input is read, so that piping in a large file
waits for the server instead of filling the outbox."""
PIPE_REFS_MAX: Final = 65_536
"""Messages whose `ref` `pipe` remembers; the oldest are forgotten."""
PIPE_BATCH_MAX: Final = 256
"""Events that `pipe` writes with one call."""
CHAT_MESSAGES_MAX: Final = 1_000
"""Own messages whose text the chat remembers, to show it beside a tick."""
HISTORY_MAX: Final = 10_000
"""Messages of one `history` command."""

# ---- relations ---------------------------------------------------------------------------------
assert PING_INTERVAL_ACTIVE_MAX * (PINGS_MISSED_MAX + 1) < RESEND_INTERVAL * RESENDS_MAX, (
    "a dead link must be found before messages are shown as failed (broken: 18 of 90 failed falsely)"
)
assert RACE_HANDICAP >= 2 * PTO_INTERVAL_MAX
assert RESEND_INTERVAL * 2 + RACE_HANDICAP < FAILED_AFTER, "a race must be over before the red cross"
assert SUSPECT_AFTER <= PINGS_MISSED_MAX
assert PING_INTERVAL_IDLE * 2.5 < IDLE_TIMEOUT
assert BODY_SIZE_MAX + 1024 < FRAME_SIZE_MAX
assert PAGE_SIZE_MAX + BODY_SIZE_MAX <= FRAME_SIZE_MAX
assert EARLY_SIZE_MAX + BODY_SIZE_MAX <= PARKED_SIZE_MAX
assert OUTPUT_MAX + PAGE_MESSAGES_MAX * (BODY_SIZE_MAX + 256) + PAGE_SIZE_MAX < SEND_BUFFER_MAX, (
    "a session that keeps to OUTPUT_MAX, with one page on top, must never count as a slow reader"
)
assert CHANNELS_MAX < SERVER_CHANNELS_MAX
assert SERVER_CHANNELS_MAX < DEAD_CHANNELS_MAX
assert DELIVER_WINDOW_SIZE <= STREAM_WINDOW
assert SUBMIT_WINDOW_SIZE <= STREAM_WINDOW < CONNECTION_WINDOW
assert FRAME_SIZE_MAX + FRAME_HEADER_SIZE <= STREAM_WINDOW // 2, (
    "bytes are credited by the frame, and a window is announced by the half: a bigger frame never arrives"
)
assert CONNECT_TIMEOUT < FAILED_AFTER
assert HANDSHAKE_AGAIN < CONNECT_TIMEOUT / 2, "the second one needs its time as well"
assert RECEIVE_WAITING_MAX * DATAGRAM_SIZE > CONNECTION_WINDOW, "one full window fits when nobody else waits"
assert CONNECTIONS_PER_ADDRESS_MAX <= HANDSHAKES_BURST, "all users of one address may come back at once"
assert MEMBERS_MAX * (NAME_SIZE_MAX + 24) < FRAME_SIZE_MAX
assert CONNECT_PATIENCE < FAILED_AFTER, "who cannot connect is told so, before the message is shown as failed"
assert PIPE_LINE_SIZE_MAX > 6 * BODY_SIZE_MAX + 1024
