"""The OpenFlow application: ``osken-manager fedsdn.app``.

It turns os-ken's events into calls and has no policy of its own: what flows a bridge gets is the
pipeline's business, how they get there the reconciler's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from os_ken.base import app_manager  # before any controller module: they import each other
from os_ken.controller import controller, ofp_event
from os_ken.controller.handler import MAIN_DISPATCHER, set_ev_cls
from os_ken.lib import hub
from os_ken.ofproto import ofproto_v1_3

from fedsdn import namespace
from fedsdn.channel.server import CHANNEL_SOCKET, Channel
from fedsdn.config.local import settings_from
from fedsdn.config.model import Address, Site, Uplink
from fedsdn.config.watch import WatchedFederation
from fedsdn.errors import FedsdnError
from fedsdn.openflow.bridge_socket import BridgeConnection
from fedsdn.openflow.ports import Port
from fedsdn.openflow.reconciler import Reconciler
from fedsdn.openflow.restorer import Restorer
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.pipeline.flows import Flow
from fedsdn.pipeline.restore import Restoration, restoring_flows
from fedsdn.site import checks, record
from fedsdn.uplinks.monitor import UplinkMonitor
from fedsdn.uplinks.sockets import open_socket
from fedsdn.uplinks.status import PortState

_LOG = logging.getLogger(__name__)

_LEAVE_SECONDS = 1.0

_ANSWERS = [
    ofp_event.EventOFPPortDescStatsReply,
    ofp_event.EventOFPGetConfigReply,
    ofp_event.EventOFPFlowStatsReply,
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
        settings = settings_from(self.CONF)
        self._site = settings.site
        self._federation = WatchedFederation(settings.federation, settings.site, self._check_change)
        self._reload = threading.Event()
        self._reload.set()
        self._bridge = self._federation.current.site(self._site).provider_network.bridge
        self._connection = BridgeConnection(self._bridge, controller.datapath_connection_factory)
        self._reconciler = Reconciler(
            self._bridge,
            self._wanted,
            self._ports_seen,
            partial(record.steering, settings.site, self._bridge),
        )
        self._restorer = Restorer(lambda: self._reconciler.session, self._restoring_flows)
        self._channel = Channel(CHANNEL_SOCKET, settings.site, self._restorer.restore)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="loop", daemon=True).start()
        self._uplinks = asyncio.run_coroutine_threadsafe(self._monitor(), self._loop).result()
        signal.signal(signal.SIGHUP, self._hangup)

    def start(self) -> Any:
        """Start the threads, and return one that does not end (called by os-ken)."""
        super().start()
        self._reconciler.start()
        self._restorer.start()
        self._channel.start()
        asyncio.run_coroutine_threadsafe(self._watch_uplinks(), self._loop)
        return hub.spawn(self._connection)

    def close(self) -> None:
        """Take leave (called when the process is to end)."""
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._uplinks.leave(), self._loop).result(
                _LEAVE_SECONDS
            )

    async def _monitor(self) -> UplinkMonitor:
        return UplinkMonitor(
            self._federation.current,
            self._site,
            PROXY_NAMESPACE,
            _open_socket,
            self._channel.tell_status,
            ThreadPoolExecutor(1, "kernel"),
        )

    async def _watch_uplinks(self) -> None:
        try:
            await self._uplinks.run()
        except Exception:
            _LOG.exception("the uplinks are not watched any more")
            os.kill(os.getpid(), signal.SIGTERM)

    def _hangup(self, _signal: int, _frame: object) -> None:
        self._reload.set()
        self._reconciler.wake()

    def _check_change(self, site: Site) -> None:
        """Refuse what ``fedsdn site up`` would refuse, and a bridge that is another one now."""
        checks.check_host(site)
        if site.provider_network.bridge != self._bridge:
            raise FedsdnError(
                f"the site's bridge is to be {site.provider_network.bridge}, and this application "
                f"steers {self._bridge}: run 'fedsdn site up', and start the application again"
            )

    def _wanted(self) -> tuple[Flow, ...] | None:
        asked = self._reload.is_set()
        self._reload.clear()
        changed = self._federation.refresh(force=asked)
        if not changed and not asked:
            return None
        if changed:
            # First of all: what the proxy resets now still needs the flows that are about to go.
            self._channel.reload()
        self._loop.call_soon_threadsafe(self._uplinks.set_federation, self._federation.current)
        return pipeline_flows(self._federation.current, self._site)

    def _restoring_flows(self, wanted: Restoration) -> tuple[Flow, ...]:
        federation = self._federation.current
        return restoring_flows(federation, federation.site(self._site), wanted)

    @set_ev_cls(ofp_event.EventOFPStateChange, [MAIN_DISPATCHER])  # type: ignore[untyped-decorator]
    def connected(self, event: Any) -> None:
        """Take up a bridge that has connected."""
        self._reconciler.connect(event.datapath)

    def _ports_seen(self, ports: dict[str, Port]) -> None:
        states = {True: PortState.UP, False: PortState.DOWN}
        known = {name: states[port.live] for name, port in ports.items()}
        self._loop.call_soon_threadsafe(self._uplinks.set_ports, known)

    @set_ev_cls(ofp_event.EventOFPPortStatus, MAIN_DISPATCHER)  # type: ignore[untyped-decorator]
    def port_changed(self, event: Any) -> None:
        """Follow a port that comes, goes or changes."""
        self._reconciler.port_changed(event.msg)

    @set_ev_cls(ofp_event.EventOFPFlowRemoved, MAIN_DISPATCHER)  # type: ignore[untyped-decorator]
    def flow_removed(self, _event: Any) -> None:
        """Compare again: a flow of ours was removed."""
        self._reconciler.wake()

    @set_ev_cls(_ANSWERS, MAIN_DISPATCHER)  # type: ignore[untyped-decorator]
    def answered(self, event: Any) -> None:
        """Pass an answer on to the session that asked."""
        self._reconciler.deliver(event.msg)


def _open_socket(uplink: Uplink, port: int, peer: Address | None) -> socket.socket:
    return namespace.inside(PROXY_NAMESPACE, lambda: open_socket(uplink, port, peer))
