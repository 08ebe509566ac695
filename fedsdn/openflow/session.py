"""Questions to one connected bridge, and their answers: in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from os_ken.ofproto import ofproto_v1_3 as ofproto
from os_ken.ofproto import ofproto_v1_3_parser as parser

from fedsdn.openflow import flow_monitor
from fedsdn.openflow.in_turns import AT_ONCE, in_turns
from fedsdn.openflow.mirror import Mirror
from fedsdn.openflow.ports import Port, port_of
from fedsdn.openflow.wire import BundleAdds, FlowMod, WireFlow

ANSWER_SECONDS = 10.0
"""How long a bridge may take for one answer; thousands of flows take well under a second."""

_MISS_BYTES = 128
"""How much of a packet a packet-in carries; no flow of ours causes one."""

_ENDED = "the bridge closed the connection"

_BUNDLE_FLAGS = ofproto.ONF_BF_ATOMIC | ofproto.ONF_BF_ORDERED


class SessionError(Exception):
    """The bridge refused a message, or did not answer in time; the text says which."""


class Session:
    """One OpenFlow connection to the bridge, from handshake to its end."""

    def __init__(self, datapath: Any) -> None:
        """Take over asking on ``datapath``, an os-ken Datapath in MAIN state."""
        self.datapath = datapath
        self.ended = False
        self.mirror = Mirror()
        """The flows of the bridge, as far as ``monitor_flows`` has asked for them."""
        self._answers: dict[int, asyncio.Queue[Any]] = {}
        self._bundle_id = 0

    def deliver(self, message: Any) -> None:
        """Hand an answer to its request, and what is told of flows to the mirror.

        Raises:
            ValueError: what is told of flows is not as Open vSwitch writes it.

        """
        if message.msg_type == ofproto.OFPT_EXPERIMENTER:
            notice = flow_monitor.notice(message.experimenter, message.exp_type)
            if notice is not None:
                self.mirror.notice(notice)
        if _is_told_of_flows(message):
            self.mirror.read(bytes(message.body.data))
        waiting = self._answers.get(message.xid)
        if waiting is not None:
            waiting.put_nowait(message)

    def end(self) -> None:
        """Note that the connection has ended: whoever waits for an answer fails at once."""
        self.ended = True
        for waiting in self._answers.values():
            waiting.put_nowait(None)

    async def ports(self) -> dict[str, Port]:
        """Return the bridge's ports by name.

        Raises:
            SessionError: no answer, or a refusal.

        """
        request = parser.OFPPortDescStatsRequest(self.datapath, 0)
        return dict(port_of(port) for part in await self._ask(request) for port in part.body)

    async def ask_for_news(self) -> None:
        """Have the bridge send PortStatus.

        At its management socket it sends neither before a miss length is set
        (``ofconn_receives_async_msg`` in ofproto/connmgr.c). Its other setting stays as it is.

        Raises:
            SessionError: no answer, or a refusal.

        """
        (config,) = await self._ask(parser.OFPGetConfigRequest(self.datapath))
        self._send(parser.OFPSetConfig(self.datapath, config.flags, _MISS_BYTES))

    async def monitor_flows(self, tables: Iterable[int]) -> None:
        """Have the bridge tell of all flows of some tables, and from now on of all changes.

        ``mirror`` has them when this returns, and whatever comes later at once.

        Raises:
            SessionError: no answer, or a refusal.

        """
        request = parser.OFPExperimenterStatsRequest(
            self.datapath, 0, flow_monitor.ONF, flow_monitor.FLOW_MONITOR,
            flow_monitor.request(tables),
        )  # fmt: skip
        await self._ask(request)
        self.mirror.complete = True

    async def barrier(self) -> None:
        """Wait until the bridge has dealt with all that it was sent.

        Raises:
            SessionError: no answer, or a refusal.

        """
        await self._ask(parser.OFPBarrierRequest(self.datapath))

    async def commit(self, deletions: Sequence[WireFlow], additions: Sequence[WireFlow]) -> None:
        """Delete and add flows in one atomic bundle: all of them, or none.

        A single flow that somebody has deleted goes without a bundle: one round trip, not three.

        A message refused while the bundle is filled is simply not in it, and the commit would
        succeed without it; so the bundle is discarded after any refusal.

        Raises:
            SessionError: a message was refused, or no answer; the bridge is as it was.

        """
        if len(additions) == 1 and not deletions:
            for refusal in (await self.send([FlowMod(self.datapath, *additions)])).values():
                raise refusal
            return
        self._bundle_id += 1
        adds = [
            *(self._adds(part, ()) for part in _parts(deletions)),
            *(self._adds((), part) for part in _parts(additions)),
        ]
        await self._control(ofproto.ONF_BCT_OPEN_REQUEST)
        with self._expect(*adds) as refusals:
            try:
                await self._fill(adds, refusals)
            except SessionError:
                await self._control(ofproto.ONF_BCT_DISCARD_REQUEST)
                raise
            try:
                await self._control(ofproto.ONF_BCT_COMMIT_REQUEST)
            except SessionError:
                # What was refused comes first; the commit's own error only says that something was.
                if not self.ended and not refusals.empty():
                    raise _refusal(refusals.get_nowait()) from None
                raise

    async def send(self, messages: Iterable[Any]) -> dict[int, SessionError]:
        """Apply flow mods one by one; return which were refused, by their place in ``messages``.

        When this returns, the bridge has dealt with all of them (OpenFlow 1.3.5, section 6.2,
        barrier).

        Raises:
            SessionError: no answer.

        """
        sent = list(messages)
        with self._expect(*sent) as answers:
            async for message in in_turns(sent):
                self._send(message)
            await self.barrier()
            places = {message.xid: place for place, message in enumerate(sent)}
            refused = {}
            while not answers.empty():
                error = answers.get_nowait()
                refused[places[error.xid]] = _refusal(error)
            return refused

    async def _fill(self, adds: Iterable[BundleAdds], refusals: asyncio.Queue[Any]) -> None:
        for add in adds:
            self._send(add)
            await asyncio.sleep(0)  # probes must not wait
        await self.barrier()
        if not refusals.empty():
            raise _refusal(refusals.get_nowait())

    def _adds(self, deletions: Sequence[WireFlow], additions: Sequence[WireFlow]) -> BundleAdds:
        return BundleAdds(self.datapath, self._bundle_id, _BUNDLE_FLAGS, deletions, additions)

    async def _control(self, kind: int) -> None:
        await self._ask(
            parser.ONFBundleCtrlMsg(self.datapath, self._bundle_id, kind, _BUNDLE_FLAGS, [])
        )

    async def _ask(self, request: Any) -> list[Any]:
        """Send a request and gather all parts of its answer."""
        parts = []
        with self._expect(request) as answers:
            self._send(request)
            while True:
                part = await self._next(answers, type(request).__name__)
                parts.append(part)
                more = isinstance(part, parser.OFPMultipartReply) and part.flags
                if not more & ofproto.OFPMPF_REPLY_MORE:
                    return parts

    async def _next(self, answers: asyncio.Queue[Any], asked: str) -> Any:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                part = await answers.get()
        except TimeoutError:
            raise SessionError(f"no answer to {asked} in {ANSWER_SECONDS:g} s") from None
        if self.ended:
            raise SessionError(_ENDED)
        if part.msg_type == ofproto.OFPT_ERROR:
            raise _refusal(part)
        return part

    def _send(self, message: Any) -> None:
        if self.ended or not self.datapath.send_msg(message):
            raise SessionError(_ENDED)

    @contextmanager
    def _expect(self, *requests: Any) -> Iterator[asyncio.Queue[Any]]:
        answers: asyncio.Queue[Any] = asyncio.Queue()
        for request in requests:
            self.datapath.set_xid(request)
        xids = [request.xid for request in requests]
        self._answers |= dict.fromkeys(xids, answers)
        try:
            yield answers
        finally:
            for xid in xids:
                del self._answers[xid]


def _is_told_of_flows(message: Any) -> bool:
    return bool(
        isinstance(message, parser.OFPExperimenterStatsReply)
        and message.body.experimenter == flow_monitor.ONF
        and message.body.exp_type == flow_monitor.FLOW_MONITOR
    )


def _parts(flows: Sequence[WireFlow]) -> Iterator[Sequence[WireFlow]]:
    for first in range(0, len(flows), AT_ONCE):
        yield flows[first : first + AT_ONCE]


def _refusal(error: Any) -> SessionError:
    if error.type == ofproto.OFPET_EXPERIMENTER:  # OpenFlow 1.3 has no code for it
        return SessionError(
            f"the bridge refused a message: error {error.exp_type} of experimenter "
            f"{error.experimenter:#x}"
        )
    kind = ofproto.ofp_error_type_to_str(error.type)
    code = ofproto.ofp_error_code_to_str(error.type, error.code)
    return SessionError(f"the bridge refused a message: {kind}, {code}")
