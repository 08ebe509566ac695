"""What a worker proves itself with, and whom it trusts."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import cast

from fedsdn.config.model import Identity, Site
from fedsdn.errors import FinalError
from fedsdn.identity.store import OwnIdentity, current
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.sockets.transport import FIRST_SEGMENT_BYTES
from fedsdn.proxy.tls import chain_limit, hello, pins
from fedsdn.proxy.tls.handshake import MOST_BYTES, Turn, shake_hands
from fedsdn.proxy.tls.secured import Secured, TlsError

_HELLO_BYTES = 500
"""A ClientHello that resumes a session has so many octets beside our certificate, which is in the
ticket: 830 with one of 315."""

_TICKETS_SECONDS = 5.0
"""How long a peer gets tickets behind a handshake that resumed nothing: some worker has none."""

_GROUP = "prime256v1"
"""The group of all key exchanges (P-256): of OpenSSL's own the other side would choose, and one
share of ffdhe8192 costs 130 ms."""

LoadOwn = Callable[[], Sequence[OwnIdentity]]
"""Reads this host's identities; raises FedsdnError."""


def check_own(policy: Policy, load: LoadOwn) -> None:
    """Check that this host has an identity that the federation file lists, if it needs one.

    Raises:
        FedsdnError: it has none, or the proxy's user cannot use it.

    """
    if needs_own(policy):
        _load(current(policy.site, load()), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def needs_own(policy: Policy) -> bool:
    """Whether connections with any peer are encrypted."""
    return any(map(policy.is_encrypted, policy.federation.peers(policy.site.name)))


def server_context() -> ssl.SSLContext:
    """Make the context for peers' connections; workers that are forked have its ticket keys.

    So a session that was begun with one worker is resumed with any.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 1  # the peer keeps the last one only
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_ecdh_curve(_GROUP)
    chain_limit.limit(context, MOST_BYTES)
    # Certificates are pinned: whose a name is nobody asks.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.sslsocket_class = Secured
    return context


def _load(own: OwnIdentity, *contexts: ssl.SSLContext) -> None:
    """Have contexts show an identity.

    Raises:
        FinalError: its key cannot be read, or is another one's.

    """
    certificate, key = own.tls_files()
    try:
        for context in contexts:
            context.load_cert_chain(certificate, key, password=b"")  # nobody is asked for one
    except ssl.SSLError as error:
        raise FinalError(
            f"{key}: is not the key of {certificate} ({error.reason}): put both back from a "
            "backup, or run 'fedsdn identity rotate'"
        ) from error
    except OSError as error:
        raise FinalError(f"{key}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True, slots=True)
class _Session:
    """What a handshake is resumed with, and the certificate that the peer had shown."""

    session: ssl.SSLSession
    proven: bytes


class Tls:
    """The contexts of one worker, which follow the federation file and the host's keys."""

    def __init__(
        self,
        server: ssl.SSLContext,
        load: LoadOwn,
        policy: Policy,
        proven: Callable[[bool], object] = lambda _: None,
    ) -> None:
        """Take up what is there now. ``proven`` is called at each handshake: has it resumed one.

        Raises:
            FedsdnError: the host has no identity that the federation file lists, and needs one.

        """
        self._server, self._client = server, _context(ssl.PROTOCOL_TLS_CLIENT)
        self._load = load
        self._count = proven
        self._own: OwnIdentity | None = None
        self._trusted: set[bytes] = set()
        self._sessions: dict[str, _Session] = {}
        self._tickets_until: dict[str, float] = {}
        """Until when each peer gets tickets, on the monotonic clock."""
        self.policy = policy
        self.take(policy)

    def take(self, policy: Policy) -> None:
        """Take up a federation file, and the host's keys as they are now.

        Raises:
            FedsdnError: as at the beginning; this host goes on with the keys that it had.

        """
        self.policy = policy  # the first, so that what left the file counts no more whatever fails
        peers = policy.federation.peers(policy.site.name)
        self._trust(one for peer in peers for one in peer.identities)
        self._sessions = {
            name: one for name, one in self._sessions.items() if self._is_of(one, name)
        }
        if needs_own(policy):
            self._show(current(policy.site, self._load()))

    def _is_of(self, session: _Session, name: str) -> bool:
        site = self.policy.federation.site_with_fingerprint(session.proven)
        return site is not None and site.name == name

    def _trust(self, identities: Iterable[Identity]) -> None:
        """Have OpenSSL accept certificates; whom they prove, and whether still, the pins say."""
        fresh = {one.certificate for one in identities} - self._trusted
        if fresh:
            for context in (self._server, self._client):
                context.load_verify_locations(cadata=b"".join(fresh))
            self._trusted |= fresh

    def _show(self, own: OwnIdentity) -> None:
        if own == self._own:
            return
        _load(own, _context(ssl.PROTOCOL_TLS_SERVER))  # a context where that fails has no key left
        self._own = None
        _load(own, self._server, self._client)
        self._own = own
        self._sessions.clear()  # they show the certificate before

    def still_counts(self, far: socket.socket, peer_name: str) -> bool:
        """Whether a peer may still make requests on a connection: its certificates still count."""
        peer = self.policy.federation.find_site(peer_name)
        if peer is None:
            return False
        if not isinstance(far, Secured):
            return not self.policy.is_encrypted(peer)
        return _has(self.policy.site, far.shown) and _has(peer, far.proven)

    def is_as_now(self, far: socket.socket, peer_name: str) -> bool:
        """Whether a connection that we began would be begun in the same way now."""
        peer = self.policy.federation.find_site(peer_name)
        return (
            peer is not None
            and isinstance(far, Secured) == self.policy.is_encrypted(peer)
            and self.still_counts(far, peer_name)
        )

    # Handshakes

    def calling(self, far: socket.socket, peer: Site) -> Secured:
        """Make a new connection to a peer's server one with TLS; ``prove`` has the handshake made.

        Raises:
            OSError: the connection broke; ``far`` is closed.

        """
        # A resumed session proves the identity of its first handshake. While a peer has two, one is
        # about to leave the file, and would with handshakes that are under way then.
        resumes = self._resumes and len(peer.identities) == 1
        known = self._sessions.get(peer.name) if resumes else None
        session = known.session if known else None
        wrapped = self._client.wrap_socket(far, do_handshake_on_connect=False, session=session)
        return self._showing(wrapped)

    @property
    def _resumes(self) -> bool:
        """Whether a ClientHello with a ticket fits into the first segment."""
        own = self._own
        return own is not None and (
            len(own.identity.certificate) + _HELLO_BYTES <= FIRST_SEGMENT_BYTES
        )

    def remember(self, far: socket.socket, peer: Site) -> None:
        """Keep the session of a connection on which the peer has said something.

        Not if the federation file or this host's keys have changed since the handshake: resumed, it
        would show or prove a certificate that does not count any more, or show the former one.
        """
        if not isinstance(far, Secured) or not self.still_counts(far, peer.name):
            return
        if far.shown != self._own_fingerprint:
            return
        if far.session_reused and peer.name in self._sessions:
            return  # as good as this one, which takes 0.2 ms to copy
        if (session := far.session) and session.has_ticket:
            self._sessions[peer.name] = _Session(session, far.proven)

    def forget(self, peer: Site) -> None:
        """Make the next handshake with a peer a full one."""
        self._sessions.pop(peer.name, None)

    def called(self, far: socket.socket, peer: Site) -> Secured:
        """Make a connection from an address of a peer one with TLS; ``prove`` as above.

        A peer whose workers have all resumed sessions of late gets no further ticket: to make one
        is a third of the server's part of such a handshake.

        Raises:
            TlsError: the first that came is no beginning of a handshake.
            BlockingIOError: nothing has come.
            OSError: the connection broke.

        """
        first = far.recv(hello.HEADER_BYTES, socket.MSG_PEEK)
        if first and (wrong := hello.fault(first)):
            raise TlsError(Reason.PROTOCOL, Who.PEER, wrong)
        self._server.num_tickets = int(monotonic() < self._tickets_until.get(peer.name, math.inf))
        wrapped = self._server.wrap_socket(far, server_side=True, do_handshake_on_connect=False)
        return self._showing(wrapped)

    def _showing(self, wrapped: ssl.SSLSocket) -> Secured:
        """Note what a socket shows, whichever certificate comes before its handshake ends."""
        sock = cast("Secured", wrapped)
        sock.shown = self._own_fingerprint
        return sock

    @property
    def _own_fingerprint(self) -> bytes:
        return self._own.identity.fingerprint if self._own is not None else b""

    async def prove(self, sock: Secured, peer: Site, turn: Turn = nullcontext) -> None:
        """Make the handshake, and see that the other side is the peer.

        Raises:
            TlsError: it is not, or it refuses us.
            OSError: the connection broke.

        """
        certificate = await shake_hands(sock, turn)
        pins.check(certificate, peer.name, self.policy.federation, datetime.now(UTC))
        sock.proves(certificate)
        self._count(bool(sock.session_reused))
        if sock.server_side and not (sock.session_reused and peer.name in self._tickets_until):
            self._tickets_until[peer.name] = monotonic() + _TICKETS_SECONDS


def _has(site: Site, fingerprint: bytes) -> bool:
    return any(one.fingerprint == fingerprint for one in site.identities)
