"""The SOCKS server: connects VMs of peers to VMs of this site."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial

from fedsdn.channel.connection import Direction
from fedsdn.channel.report import Report
from fedsdn.config.model import Address, Site
from fedsdn.damped_log import DampedLog
from fedsdn.mptcp.connection import token
from fedsdn.pipeline.declarations import SocketMark
from fedsdn.proxy.admission.carried import Carried, PeerConnection
from fedsdn.proxy.admission.policy import Policy, Refusal
from fedsdn.proxy.admission.shares import Owner
from fedsdn.proxy.admission.slots import Work
from fedsdn.proxy.admission.steps import Steps
from fedsdn.proxy.admission.turns import Turns
from fedsdn.proxy.admission.unproven import NotProvenError
from fedsdn.proxy.ended.record import Ended, Reason, Who
from fedsdn.proxy.opening.tables import HeldTuples, is_opener
from fedsdn.proxy.relay.peer_relay import Relays, fixed_path, is_usable
from fedsdn.proxy.sockets import tcp, traffic_class, transport
from fedsdn.proxy.sockets.exchange import readable
from fedsdn.proxy.sockets.path_manager import PathManager
from fedsdn.proxy.sockets.restored import RequestRestoration, connect_restored
from fedsdn.proxy.sockets.transparent import ANY_PORT, Call, connect_as
from fedsdn.proxy.socks.answering import REQUEST_SECONDS, Dialogue
from fedsdn.proxy.socks.causes import in_words, not_connected
from fedsdn.proxy.socks.parked import Parked
from fedsdn.proxy.socks.protocol import Reply, Request, SocksError, encode_reply, reply_for
from fedsdn.proxy.socks.reading import CutOffError
from fedsdn.proxy.socks.sequence import Sequence
from fedsdn.proxy.stats import Counter
from fedsdn.proxy.tls.contexts import Tls
from fedsdn.proxy.tls.secured import Secured, TlsError
from fedsdn.socket_address import SocketAddress

_LOG = logging.getLogger(__name__)

_CALLERS = {
    Reason.PROTOCOL: Reason.GARBLED,
    Reason.CERTIFICATE: Reason.CALLERS_CERTIFICATE,
}
"""What a peer's faults are of somebody who may not be the peer."""

TakeSlot = Callable[[Owner, Work, Callable[[], None]], None]
"""Runs the work of an owner when it may; or else refuses."""


class Server:
    """Carries connections that VMs of peers open."""

    def __init__(
        self,
        policy: Policy,
        relays: Relays,
        report: Report,
        carried: Carried,
        restore: RequestRestoration,
        path_manager: PathManager,
        turns: Turns,
        held: HeldTuples,
        sequence: Sequence,
        parked: Parked,
        take_slot: TakeSlot,
        tls: Tls,
    ) -> None:
        """Carry what ``policy`` allows; the policy may be replaced at any time.

        ``restore`` has the bridge restore a client's address.
        """
        self._tls = tls
        self._steps = Steps()
        self._log = DampedLog(_LOG)
        self._parked = parked
        self._take_slot = take_slot
        self._sequence = sequence
        self.policy = policy
        self._report = report
        self._carried = carried
        self._restore = restore
        self._path_manager = path_manager
        self._turns = turns
        self._held = held
        self._relays = relays
        self._statistics = relays.statistics
        self._poller = relays.poller

    def peer_behind(self, address: Address) -> Site | Refusal:
        """Return the peer that has an uplink with ``address``."""
        return self.policy.peer_behind(address)

    async def meet(self, far: socket.socket, caller: SocketAddress) -> Callable[[], None]:
        """Have a caller prove that it is the peer whose address it has.

        Returns what carries its connection to its end, or until the peer pauses.

        Raises:
            NotProvenError: it does not.
            OSError: the connection broke.

        """
        peer = self.peer_behind(caller.address)
        if isinstance(peer, Refusal):
            raise NotProvenError(peer.reason)
        with ExitStack() as opened:
            if self.policy.is_encrypted(peer):
                far = opened.enter_context(await self._prove(far, caller, peer))
            dialogue = Dialogue(far, caller, peer)
            try:
                await dialogue.greet()
            except CutOffError as error:
                if isinstance(far, Secured):
                    raise  # it has proved to be the peer
                raise NotProvenError(Reason.GARBLED, str(error.strerror)) from error
            except SocksError as error:
                if error.answer:
                    await dialogue.turn_away(error.answer)
                raise NotProvenError(Reason.GARBLED, str(error)) from error
            opened.pop_all()
        return partial(self._resume, dialogue)

    async def _prove(self, far: socket.socket, caller: SocketAddress, peer: Site) -> Secured:
        """Have a caller show the certificate of the peer whose address it has.

        Who it is, its certificate says. Its address must be one of the same site all the same: by
        that it is routed, and counted before it has shown anything.

        Raises:
            NotProvenError: it does not.
            OSError: the connection broke.

        """
        try:
            with ExitStack() as opened:
                secured = opened.enter_context(await self._called(far, caller, peer))
                await self._tls.prove(secured, peer, partial(self._steps.step, caller.address))
                opened.pop_all()
                return secured
        except TlsError as error:
            reason = _CALLERS.get(error.reason, error.reason)
            text = f"somebody with an address of site {peer.name}: {reason}: {error.detail}"
            self._log.say(logging.WARNING, (peer.name, reason), text)
            raise NotProvenError(reason, error.detail) from error

    async def _called(self, far: socket.socket, caller: SocketAddress, peer: Site) -> Secured:
        """Make a connection one with TLS, which costs a part of a step, too."""
        while True:
            async with self._steps.step(caller.address):
                with suppress(BlockingIOError):
                    return self._tls.called(far, peer)
            await readable(far)  # it was, and the kernel has thrown that away

    async def _go_on(self, dialogue: Dialogue) -> None:
        """Do what a peer asks for; leave its connection alone when it pauses."""
        with ExitStack() as opened:
            opened.enter_context(dialogue.far)
            try:
                await self._serve(dialogue)
            except OSError as error:
                _LOG.debug("connection from %s: %s", dialogue.caller.address, error)
            if dialogue.pauses:
                opened.pop_all()
                resume = partial(self._resume, dialogue)
                self._parked.park(dialogue.far, dialogue.peer.name, resume)

    def _resume(self, dialogue: Dialogue) -> None:
        work, refuse = partial(self._go_on, dialogue), partial(self._refuse, dialogue)
        self._take_slot(f"site {dialogue.peer.name}", work, refuse)

    def _refuse(self, dialogue: Dialogue) -> None:
        """Reset a connection that gets no slot."""
        dialogue.far.close()
        detail = f"no slot is free; from {dialogue.caller.address}"
        inbound = Reason.OVERLOAD, Who.HERE, Direction.INBOUND
        self._statistics.ended(Ended(*inbound, dialogue.peer.name, detail=detail))

    async def _serve(self, dialogue: Dialogue) -> None:
        """Connect a peer to the VM that it asks for.

        Raises:
            OSError: the connection broke.

        """
        far, peer = dialogue.far, dialogue.peer
        transport.prepare(far)
        asking = PeerConnection(Direction.INBOUND, peer.name, path=fixed_path(far, peer))
        with self._carried.carrying(asking):
            while (request := await self._next_request(dialogue)) is not None:
                # Not before: it may fall back when the first data arrive.
                if not is_usable(far, peer):
                    await self._ask_again(dialogue)
                    return
                now = self.peer_behind(dialogue.caller.address)
                # A connection that waited for a slot was judged by an older file.
                if isinstance(now, Refusal) or now.name != peer.name:
                    self._carried.ended(Reason.REVOKED, Who.HERE)
                    return
                peer = now
                if not self._tls.still_counts(far, peer.name):
                    await self._ask_again(dialogue)
                    return
                known = replace(asking, client=request.client, destination=request.destination)
                with self._carried.carrying(known):
                    if self._admits(request, peer):
                        await self._carry(dialogue, request, peer)
                    else:
                        await dialogue.refuse(Reply.NOT_ALLOWED)

    async def _ask_again(self, dialogue: Dialogue) -> None:
        """Have the peer repeat its request on another connection: nothing is done for it here."""
        self._statistics.add(Counter.ASKED_AGAIN)
        await dialogue.turn_away(encode_reply(Reply.ASK_AGAIN))

    async def _next_request(self, dialogue: Dialogue) -> Request | None:
        """Return what a peer asks for; None, once it is answered, if it is not understood.

        Raises:
            OSError: the connection broke.

        """
        try:
            return await dialogue.request()
        except TimeoutError:
            late = f"no request within {REQUEST_SECONDS:g} s"
            self._carried.ended(Reason.PROTOCOL, Who.PEER, late)
        except SocksError as error:
            self._carried.ended(Reason.PROTOCOL, Who.PEER, str(error))
            await dialogue.turn_away(error.answer)
        except TlsError as error:
            self._carried.ended(error.reason, error.who, error.detail)
        return None

    def _admits(self, request: Request, peer: Site) -> bool:
        """Whether the federation file allows a request; say it if not."""
        refusal = self.policy.admits(peer, request.client.address, request.destination)
        if refusal is not None:
            self._carried.ended(refusal.reason, Who.HERE, refusal.detail)
        return refusal is None

    async def _carry(self, dialogue: Dialogue, request: Request, peer: Site) -> None:
        """Carry a connection to its end, or refuse it.

        Raises:
            OSError: the connection broke.

        """
        self._statistics.add(Counter.INBOUND)
        self._statistics.add(Counter.INBOUND_OPEN)
        try:
            near = await self._connect(dialogue, request, peer)
            if near is not None:
                with near:
                    traffic_class.towards_peer(dialogue.far, request.traffic_class)
                    await dialogue.accept()
                    await self._relay(near, dialogue.far, request, peer)
        finally:
            self._statistics.add(Counter.INBOUND_OPEN, -1)

    async def _connect(
        self, dialogue: Dialogue, request: Request, peer: Site
    ) -> socket.socket | None:
        """Connect to the VM; None, once the peer is told, if that fails.

        Two VMs may connect to each other at once, from the same two ports (simultaneous open, RFC
        9293, section 3.5). Then each site holds its own VM's SYN, and is asked for the other's: one
        of the two requests is enough.
        """
        if self._held.is_held(request.destination, request.client) and is_opener(
            request.destination, request.client
        ):
            await dialogue.refuse(Reply.OPENED_BY_BOTH)
            return None
        try:
            client, destination = request.client.address, request.destination.address
            with (
                self._poller.cancelled_by_reset(dialogue.far),
                self._sequence.beginning(peer.name, request.number) as begun,
            ):
                await self._sequence.turn(peer.name, request.after)
                async with self._turns.turn(client, destination):
                    return await self._connect_to_vm(request, peer, begun)
        except asyncio.CancelledError:
            self._carried.ended(Reason.GIVEN_UP, Who.PEER)  # unless it was we who ended it
            raise
        except OSError as error:
            self._statistics.add(Counter.INBOUND_FAILED)
            self._carried.ended(*not_connected(error), in_words(error))
            await dialogue.refuse(reply_for(error))
            return None

    async def _connect_to_vm(
        self, request: Request, peer: Site, begun: Callable[[], object]
    ) -> socket.socket:
        """Connect to the VM, from the address that ``source_restore`` says.

        Raises:
            OSError: the connection failed.

        """
        call = Call(request.destination, request.traffic_class, begun)
        how = self.policy.source_restore(peer)
        if how == "transparent":
            return await connect_as(request.client, call, SocketMark.SERVER)
        own = self.policy.own_address(request.destination.address)
        if how == "none":
            ourselves = SocketAddress(own, ANY_PORT)
            return await connect_as(ourselves, call, SocketMark.SERVER)
        near = await connect_restored(request.client, call, own, self._restore)
        self._statistics.add(Counter.INBOUND_RESTORED)
        return near

    async def _relay(
        self, near: socket.socket, far: socket.socket, request: Request, peer: Site
    ) -> None:
        if peer.proxy == "socks5":
            self._path_manager.announce(far, peer.name)
        with (
            self._report.carried(
                Direction.INBOUND,
                peer.name,
                request.client,
                request.destination,
                self._shown(near, request, peer),
                token(far),
            ) as connection,
            self._relays.between(
                *(near, far, peer, connection, lambda: self._path_manager.nudge(far)),
            ) as relay,
        ):
            await relay.run()

    def _shown(self, near: socket.socket, request: Request, peer: Site) -> SocketAddress:
        """Return the address that the VM sees as its client's; the bridge may translate ours."""
        if self.policy.source_restore(peer) == "nat":
            return request.client
        return tcp.socket_address(near.getsockname())
