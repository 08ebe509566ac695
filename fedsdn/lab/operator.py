"""An operator's work at a site, done on a lab's host: the same commands, the same files."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from fedsdn import files
from fedsdn.config.loader import dump_federation
from fedsdn.config.local import IDENTITY_DIRECTORY
from fedsdn.config.model import Federation, Site
from fedsdn.config.reserved import SOCKSIFIER_LISTEN_PORTS
from fedsdn.errors import FedsdnError
from fedsdn.identity import store
from fedsdn.identity.new import NewIdentity
from fedsdn.lab import queues
from fedsdn.lab.host import CONFIG_FILE, FEDERATION_FILE, Daemon, Host
from fedsdn.lab.wait import wait_until
from fedsdn.openflow.bridge_socket import LIST_CONNECTIONS, is_connected
from fedsdn.pipeline.declarations import PROXY_NAMESPACE

CONTROLLER = "controller"
"""Name of the controller's log."""

CONTROLLER_PRIORITY = -10
"""``Nice=`` of systemd/fedsdn-app.service."""

PROXY = "proxy"
"""Name of the proxy's log."""

READY_SECONDS = 90.0
_OWN_TABLE = re.compile(r"\btable=1[0-9]{2},")
_CONFIG = f"--config-file={CONFIG_FILE}"


def write_settings(host: Host, federation: Federation) -> None:
    """Write the host's settings and the federation file."""
    directory = host.run_directory / CONFIG_FILE.parent.name
    files.make_directory(directory)
    file = directory / FEDERATION_FILE.name
    file.write_text(dump_federation(federation))
    file.chmod(0o644)  # whatever the umask: the proxy's workers read it
    (directory / CONFIG_FILE.name).write_text(
        f"[fedsdn]\nsite = {host.name}\nfederation = {FEDERATION_FILE}\n"
    )


def write_identity(host: Host, new: NewIdentity) -> None:
    """Write the private halves of the site's identity.

    Raises:
        FedsdnError: others may read the directory.

    """
    store.save(host.run_directory / FEDERATION_FILE.parent.name / IDENTITY_DIRECTORY, new)


def site_up(host: Host) -> None:
    """Run ``fedsdn site up``.

    Raises:
        FedsdnError: it failed.

    """
    host.run("fedsdn", "site", "up", _CONFIG)
    queues.widen(host)


def start_controller(host: Host) -> Daemon:
    """Start the application.

    Raises:
        FedsdnError: the host is gone.

    """
    nice = ("nice", f"--adjustment={CONTROLLER_PRIORITY}")
    return host.start(CONTROLLER, *nice, "osken-manager", _CONFIG, "fedsdn.app")


def start_proxy(host: Host) -> Daemon:
    """Start the proxy.

    Raises:
        FedsdnError: the host is gone.

    """
    return host.start(PROXY, "fedsdn", "proxy", "run", _CONFIG)


def wait_for_controller(host: Host, site: Site, controller: Daemon) -> None:
    """Wait until the application is on the bridge, with its flows, and the tunnels have peers.

    Raises:
        FedsdnError: the controller ended, or it takes longer than ``READY_SECONDS``.

    """
    bridge = site.provider_network.bridge
    _wait(controller, lambda: _connected(host, bridge), "has not connected to the bridge")
    _wait(controller, lambda: _has_flows(host, bridge), f"has installed no flows on {bridge}")
    _wait(controller, lambda: _has_tunnels(host), "has not given the tunnels their peers")


def wait_for_proxy(host: Host, federation: Federation, proxy: Daemon) -> None:
    """Wait until socksifier and SOCKS server listen.

    Raises:
        FedsdnError: the proxy ended, or it takes longer than ``READY_SECONDS``.

    """
    for port in (federation.proxy_port, SOCKSIFIER_LISTEN_PORTS[0]):
        _wait(proxy, partial(_listens, host, port), f"does not listen on port {port}")


def _wait(daemon: Daemon, condition: Callable[[], bool], not_yet: str) -> None:
    def satisfied() -> bool:
        if not daemon.alive():
            raise FedsdnError(f"{daemon.host.name}: the {daemon.name} ended: {daemon.last_line()}")
        return condition()

    wait_until(
        satisfied,
        READY_SECONDS,
        lambda: (
            f"{daemon.host.name}: the {daemon.name} {not_yet} after {READY_SECONDS:g} s: "
            f"{daemon.last_line()}"
        ),
    )


def _connected(host: Host, bridge: str) -> bool:
    return is_connected(host.run(*LIST_CONNECTIONS), bridge)


def _has_flows(host: Host, bridge: str) -> bool:
    return bool(_OWN_TABLE.search(host.run("ovs-ofctl", "-OOpenFlow13", "dump-flows", bridge)))


def _has_tunnels(host: Host) -> bool:
    interfaces = host.run("wg", "show", "interfaces", vm=PROXY_NAMESPACE).split()
    peers = host.run("wg", "show", "all", "peers", vm=PROXY_NAMESPACE).splitlines()
    return set(interfaces) == {line.split()[0] for line in peers}


def _listens(host: Host, port: int) -> bool:
    found = host.run("ss", "-Hltn", f"sport = :{port}", vm=PROXY_NAMESPACE)
    return bool(found.strip())
