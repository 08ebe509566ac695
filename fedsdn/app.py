"""The OpenFlow application: ``osken-manager fedsdn.app``.

It turns os-ken's events into calls in the controller's event loop, and has no policy of its own.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from typing import Any

from os_ken.base import app_manager  # before any controller module: they import each other
from os_ken.controller import ofp_event
from os_ken.controller.handler import DEAD_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
from os_ken.lib import hub
from os_ken.ofproto import ofproto_v1_3

from fedsdn.config.local import settings_from
from fedsdn.controller.controller import Controller
from fedsdn.controller.loop_thread import LoopThread
from fedsdn.openflow.datapath import BridgeDatapath

_LEAVE_SECONDS = 1.0

_ANSWERS = [
    ofp_event.EventOFPPortDescStatsReply,
    ofp_event.EventOFPGetConfigReply,
    ofp_event.EventOFPExperimenterStatsReply,
    ofp_event.EventOFPExperimenter,
    ofp_event.EventOFPBarrierReply,
    ofp_event.EventONFBundleCtrlMsg,
    ofp_event.EventOFPErrorMsg,
]


class FederationApp(app_manager.OSKenApp):  # type: ignore[misc]
    """Keeps the flows of this site's bridge as the federation file wants them."""

    OFP_VERSIONS = [ofproto_v1_3.OFP_VERSION]  # noqa: RUF012 - os-ken reads it as it is

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Read the federation file.

        Raises:
            FedsdnError: the host's settings or the federation file are bad, or another application
                runs on this host.

        """
        super().__init__(*args, **kwargs)
        self._controller = Controller(settings_from(self.CONF))
        self._loop = LoopThread(self._controller.run)
        signal.signal(signal.SIGHUP, lambda *_: self._loop.post(self._controller.reload))

    def start(self) -> Any:
        """Start the threads, and return one that does not end (called by os-ken)."""
        super().start()
        self._loop.start()
        return hub.spawn(self._controller.connection.keep, _serve)

    def close(self) -> None:
        """Take leave (called when the process is to end)."""
        self._loop.finish(self._controller.leave(), _LEAVE_SECONDS)

    @set_ev_cls(ofp_event.EventOFPStateChange, [MAIN_DISPATCHER, DEAD_DISPATCHER])  # type: ignore[untyped-decorator]
    def state_changed(self, event: Any) -> None:
        """Tell of a bridge that has connected, or that has gone."""
        states: dict[str, Callable[[BridgeDatapath], None]] = {
            MAIN_DISPATCHER: self._controller.connected,
            DEAD_DISPATCHER: self._controller.disconnected,
        }
        self._loop.post(states[event.state], event.datapath)

    @set_ev_cls(ofp_event.EventOFPPortStatus, MAIN_DISPATCHER)  # type: ignore[untyped-decorator]
    def port_changed(self, event: Any) -> None:
        """Tell of a port that comes, goes or changes."""
        self._loop.post(self._controller.port_changed, event.msg)

    @set_ev_cls(_ANSWERS, MAIN_DISPATCHER)  # type: ignore[untyped-decorator]
    def answered(self, event: Any) -> None:
        """Pass an answer on, or news of flows."""
        self._loop.post(self._controller.answered, event.msg)


def _serve(stream: socket.socket, bridge: str) -> bool:
    datapath = BridgeDatapath(stream, bridge)
    datapath.serve()
    return datapath.id is not None  # which it tells in the handshake
