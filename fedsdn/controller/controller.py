"""The application's parts, and how they are wired.

What os-ken tells is posted here; what a part has to say to another is a plain call in the loop.
Seven executors of one thread each do what blocks: three netlink, for the uplinks, for the routes
over them and for their carriers, one reads and checks the federation file, one keeps the namespace,
one tells tunnels their peers, and one the packet filter its rules; so neither a large file nor
others' changes delay what a lost uplink asks for.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from fedsdn import namespace
from fedsdn.appearance import Appearance
from fedsdn.channel.server import CHANNEL_SOCKET, Channel
from fedsdn.config.differences import digest
from fedsdn.config.local import LocalSettings
from fedsdn.config.model import Federation
from fedsdn.config.watch import WatchedFederation
from fedsdn.controller.alone import take_lock
from fedsdn.controller.federation_file import FederationFile
from fedsdn.controller.rules import Rules
from fedsdn.controller.supervisor import supervise
from fedsdn.controller.tunnels import Tunnels
from fedsdn.controller.upkeep import Upkeep
from fedsdn.errors import FedsdnError
from fedsdn.identity.own_files import follow
from fedsdn.identity.store import own_keys
from fedsdn.openflow.bridge_socket import BridgeConnection
from fedsdn.openflow.ports import Port
from fedsdn.openflow.reconciler import Reconciler
from fedsdn.openflow.restorer import Restorer
from fedsdn.ovs.watch import DATABASE_SOCKET, port_changes
from fedsdn.pipeline.build import Groups
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.pipeline.flows import Flow
from fedsdn.pipeline.restore import Restoration, restoring_flows
from fedsdn.site import checks, record
from fedsdn.tunnels.plan import tunnels
from fedsdn.uplinks.links import Links
from fedsdn.uplinks.monitor import Namespace, UplinkMonitor
from fedsdn.uplinks.routes.keeper import RouteKeeper
from fedsdn.uplinks.status import PortState

if TYPE_CHECKING:
    from fedsdn.openflow.datapath import BridgeDatapath

_STARTED_SECONDS = 15.0
"""After so long the application has made what it keeps: a large federation has its flows."""

_RETRY_SECONDS = 1.0
"""How long after the end of a connection to the database the next one is tried, at the latest."""


class Controller:
    """Steers the site's bridge, watches its uplinks, and answers the proxy.

    Everything but the constructor and ``connection`` is for the event loop that ``run`` runs in.
    """

    def __init__(self, settings: LocalSettings) -> None:
        """Read the federation file, take the host's lock, and make the channel's socket.

        Raises:
            FinalError: the federation file is bad, or another application runs on this host.
            FedsdnError: the lock or the socket cannot be made.

        """
        self._site = settings.site
        self._watched = WatchedFederation(settings.federation, settings.site, self._check_change)
        self._followed = self._watched.current
        tunnels(self._followed, self._followed.site(self._site))
        self._identity = settings.identity
        self._own_keys = partial(own_keys, directory=settings.identity)
        self._lock = take_lock(CHANNEL_SOCKET.with_name("application.lock"), self._site)
        self._own_keys(self._followed.site(self._site))  # without one nobody would believe us
        bridge = self._followed.site(self._site).provider_network.bridge
        self.connection = BridgeConnection(bridge)
        self._netlink = ThreadPoolExecutor(1, "netlink")
        self._routing = ThreadPoolExecutor(1, "routes")
        self._linking = ThreadPoolExecutor(1, "links")
        self._reading = ThreadPoolExecutor(1, "federation file")
        self._keeping = ThreadPoolExecutor(1, "namespace")
        self._telling = ThreadPoolExecutor(1, "tunnels")
        self._filtering = ThreadPoolExecutor(1, "rules")
        self._channel = Channel(CHANNEL_SOCKET, settings.site, self._restore, self._need)

    def _check_change(self, federation: Federation) -> None:
        """Refuse what ``fedsdn site up`` would refuse, and another bridge before it has run."""
        site = federation.local_site(self._site)
        tunnels(federation, site)
        checks.check_host(site)
        self._own_keys(site)
        bridge = site.provider_network.bridge
        if bridge == self.connection.bridge:
            return
        with record.steering(site.name, bridge) as allowed:
            if not allowed:
                raise FedsdnError(
                    f"the site's bridge is to be {bridge}, and this host is set up with "
                    f"{self.connection.bridge}: run 'fedsdn site up'"
                )
        self.connection.go_over(bridge)

    async def run(self) -> None:
        """Do everything, until a part fails.

        Raises:
            Exception: what a part failed by, or that it has ended.

        """
        self._make_parts()
        # Or Python looks at all of that again and again, 0.2 s each time with 1,000 sites.
        asyncio.get_running_loop().call_later(_STARTED_SECONDS, gc.freeze)
        await supervise(
            {
                "federation file": self._file.run,
                "ports": self._watch_ports,
                "reconciler": self._reconciler.run,
                "bridge": self._reconciler.watch,
                "restorer": self._restorer.run,
                "channel": self._channel.run,
                "uplinks": self._uplinks.run,
                "links": self._links.run,
                "routes": self._routes.run,
                "tunnels": self._tunnels.run,
                "rules": self._rules.run,
                "keys": partial(follow, self._identity, self._uplinks.take_keys),
                "namespace": self._upkeep.run,
            }
        )

    def _make_parts(self) -> None:
        """Make what is for the event loop that runs."""
        self._rules = Rules(PROXY_NAMESPACE, self._site, lambda: self._followed, self._filtering)
        self._routes = RouteKeeper(
            PROXY_NAMESPACE, self._watched.current, self._site, self._routing, self._look_at_tunnels
        )
        self._tunnels = Tunnels(
            PROXY_NAMESPACE,
            self._site,
            lambda: self._followed,
            self._telling,
            self._routes.live,
            self._routes.hear,
        )
        self._uplinks = UplinkMonitor(
            self._watched.current,
            self._site,
            Namespace(
                PROXY_NAMESPACE,
                partial(namespace.inside, PROXY_NAMESPACE),
                partial(namespace.identity, PROXY_NAMESPACE),
            ),
            self._own_keys,
            self._channel.tell_paths,
            self._netlink,
            follow=self._routes.follow,
            identified=self._tunnels.identify,
        )
        self._ports: dict[str, Port] | None = None
        self._without_carrier: Set[str] = frozenset()
        self._links = Links(self._uplinks_ports, self._take_links, self._linking)
        self._reconciler = Reconciler(self._take_ports, partial(record.steering, self._site))
        self._restorer = Restorer(lambda: self._reconciler.session, self._restoring_flows)
        self._file = FederationFile(self._watched, self._site, self._follow, self._reading)
        self._upkeep = Upkeep(
            PROXY_NAMESPACE,
            self._site,
            lambda: self._followed,
            self._keeping,
            self._tunnels.look,
        )

    async def leave(self) -> None:
        """Take leave of the peers: the process is to end."""
        await self._uplinks.leave()

    # From the bridge

    def connected(self, datapath: BridgeDatapath) -> None:
        """Take up a connection to a bridge, in MAIN state."""
        if datapath.bridge == self.connection.bridge:
            self._reconciler.connect(datapath)
        else:
            datapath.close()  # made just before going over to another one

    def disconnected(self, datapath: BridgeDatapath) -> None:
        """Note that a connection has ended."""
        self._reconciler.disconnect(datapath)

    def answered(self, message: object) -> None:
        """Take what the bridge answers."""
        self._reconciler.deliver(message)

    def port_changed(self, message: object) -> None:
        """Follow a port that comes, goes or changes."""
        self._reconciler.port_changed(message)

    # From the operator

    def reload(self) -> None:
        """Read the federation file again."""
        self._file.read_again()

    # Between the parts

    async def _watch_ports(self) -> None:
        while True:
            with Appearance(DATABASE_SOCKET) as appeared:
                with suppress(OSError):  # whoever needs the database says that it does not answer
                    async for _ in port_changes(DATABASE_SOCKET):
                        self._file.ports_changed()
                        self.connection.retry()
                await appeared.happened(_RETRY_SECONDS)

    async def _follow(self, federation: Federation, groups: Groups) -> None:
        changed = federation != self._followed
        if changed:
            # First of all: what the proxy resets now still needs the flows that are about to go.
            await self._channel.reload()
        self._followed = federation
        bridge = federation.site(self._site).provider_network.bridge
        self._reconciler.want(bridge, groups)
        if changed:
            self._rules.look()
            loop = asyncio.get_running_loop()
            file = await loop.run_in_executor(self._reading, digest, federation)
            self._tunnels.look_at_once()
            self._routes.set_federation(federation)
            self._uplinks.set_federation(federation, file)

    def _uplinks_ports(self) -> list[str]:
        return [uplink.port for uplink in self._followed.site(self._site).uplinks]

    def _take_ports(self, ports: dict[str, Port] | None) -> None:
        self._ports = ports
        self._tell_ports()

    def _take_links(self, without_carrier: Set[str]) -> None:
        self._without_carrier = without_carrier
        self._tell_ports()

    def _tell_ports(self) -> None:
        """Tell the uplinks' monitor; a port counts as up if the bridge and the kernel say so."""
        if self._ports is None:
            self._uplinks.set_ports(None)
            return
        states = {True: PortState.UP, False: PortState.DOWN}
        self._uplinks.set_ports(
            {
                name: states[port.live and name not in self._without_carrier]
                for name, port in self._ports.items()
            }
        )

    def _look_at_tunnels(self) -> None:
        self._tunnels.look()

    def _need(self, peers: Set[str]) -> None:
        self._uplinks.need(peers)

    async def _restore(self, wanted: Iterable[Restoration]) -> list[str | None]:
        return await self._restorer.restore(wanted)

    def _restoring_flows(self, wanted: Restoration) -> tuple[Flow, ...]:
        federation = self._watched.current
        return restoring_flows(federation, federation.site(self._site), wanted)
