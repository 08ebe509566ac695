"""os-ken's end of the OpenFlow connection to the bridge, made fit for an event loop."""

from __future__ import annotations

import queue
import socket
import threading

from os_ken.base import app_manager  # noqa: F401 - before any controller module
from os_ken.controller import controller
from os_ken.controller.handler import DEAD_DISPATCHER
from os_ken.ofproto import ofproto_v1_3_parser as parser


class _Experimenters(parser.OFPExperimenterMultipart):  # type: ignore[misc]
    """The body of a multipart message of type experimenter: all the rest of the message.

    os-ken's own says that it is 16 octets long, so that os-ken reads the rest again behind each of
    them: for a message of 64 KiB, of which a flow monitor sends many, 20 ms instead of 0.1.
    """

    @classmethod
    def parser(cls, buf: bytes, offset: int) -> _Experimenters:
        body: _Experimenters = super().parser(buf, offset)
        body.length = len(buf) - offset
        return body


parser.OFPExperimenterStatsReply.cls_stats_body_cls = _Experimenters


class BridgeDatapath(controller.Datapath):  # type: ignore[misc]
    """An os-ken Datapath whose ``send`` never blocks and whose end is noticed.

    os-ken's own ``send`` waits while 16 messages are unsent, and its connection stays as it is
    when the bridge has closed it: the thread that sends waits for a message for ever.
    """

    def __init__(self, stream: socket.socket, bridge: str) -> None:
        """Speak OpenFlow over ``stream``, a connection to ``bridge``."""
        super().__init__(stream, bridge)
        self.bridge = bridge
        self.send_q: queue.Queue[tuple[bytes, bool]] | None = queue.Queue()
        self._send_q_sem = threading.Semaphore()  # os-ken releases it; nobody waits for it

    def send(self, buf: bytes, close_socket: bool = False) -> bool:
        """Have a message sent; False if the connection has ended."""
        waiting = self.send_q  # os-ken takes it away at the end
        if waiting is None:
            return False
        waiting.put((buf, close_socket))
        return True

    def close(self) -> None:
        """End the connection, from any thread; the state becomes ``DEAD_DISPATCHER``."""
        self.set_state(DEAD_DISPATCHER)
        self.send(b"", close_socket=True)  # wakes the thread that sends
        self._close_write()

    def _recv_loop(self) -> None:
        try:
            super()._recv_loop()
        finally:
            self.close()
