"""The state of a site in one archive, for support."""

from __future__ import annotations

import io
import json
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from fedsdn import files
from fedsdn.config.loader import federation_document
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import CT_ZONE, PROXY_NAMESPACE
from fedsdn.verify.view import SiteView

_AT_ONCE = 4
"""Commands that are running at a time."""

_LONGEST_SECONDS = 60.0
"""So long a command may take: ``verify`` on a busy host has many of its own to wait for."""

_OWN = {
    "status.txt": ("status",),
    "flows.txt": ("flows", "dump", "--all"),
    "flows-diff.txt": ("flows", "diff"),
    "flows.html": ("flows", "dump", "--html", "/dev/stdout"),
    "uplinks.txt": ("uplinks",),
    "connections.txt": ("connections",),
    "connections.json": ("connections", "--json"),
    "connections-ended.txt": ("connections", "--ended"),
    "connections-ended.json": ("connections", "--ended", "--json"),
    "datagrams.txt": ("datagrams",),
    "datagrams.json": ("datagrams", "--json"),
    "proxy-stats.txt": ("proxy", "stats"),
    "site-show.txt": ("site", "show"),
    "verify.txt": ("verify",),
}
"""Our own commands, by the file that gets what they print."""


def write_bundle(view: SiteView, file: Path | None = None) -> Path:
    """Write the archive and return its path: ``file``, or one named by site and time.

    Its owner alone may read it. There is no secret in it: the federation file has none, private
    keys are not read, and wg(8) does not show them (``wg show all``).

    Raises:
        FedsdnError: it cannot be written.

    """
    written = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.localtime(written))
    name = f"fedsdn-{view.name}-{stamp}"
    target = file or Path(f"{name}.tar.gz")
    try:
        with (
            files.open_private(target) as opened,
            tarfile.open(fileobj=opened, mode="w:gz") as archive,
        ):
            for path, content in _contents(view).items():
                member = tarfile.TarInfo(f"{name}/{path}")
                data = content.encode()
                member.size, member.mtime = len(data), int(written)
                archive.addfile(member, io.BytesIO(data))
    except OSError as error:
        target.unlink(missing_ok=True)
        raise FedsdnError(f"{target}: {error.strerror}: name a file that can be written") from error
    return target


def _contents(view: SiteView) -> dict[str, str]:
    """Collect what each command prints; what fails says why in its place."""
    commands = {path: (*view.fedsdn, *words, *view.options) for path, words in _OWN.items()}
    commands |= _others(view.bridge)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        outputs = threads.map(partial(_output, view), commands.values())
        found = dict(zip(commands, outputs, strict=True))
    document = federation_document(view.federation)
    found["federation.json"] = json.dumps(document, indent=2)
    return found


def _others(bridge: str) -> dict[str, tuple[str, ...]]:
    """Return other programs' commands, as ``_OWN``."""
    inside = ("ip", "netns", "exec", PROXY_NAMESPACE)
    return {
        "host/uname.txt": ("uname", "-a"),
        "host/os-release.txt": ("cat", "/etc/os-release"),
        "host/packages.txt": ("pip", "list", "--disable-pip-version-check"),
        "bridge/show.txt": ("ovs-vsctl", "show"),
        "bridge/dump-flows.txt": (
            *("ovs-ofctl", "-O", "OpenFlow13", "--names", "dump-flows", bridge),
        ),
        "bridge/dump-ports.txt": ("ovs-ofctl", "-O", "OpenFlow13", "dump-ports", bridge),
        "bridge/fdb.txt": ("ovs-appctl", "fdb/show", bridge),
        "bridge/conntrack.txt": ("ovs-appctl", "dpctl/dump-conntrack", f"zone={CT_ZONE}"),
        "bridge/coverage.txt": ("ovs-appctl", "coverage/show"),
        "namespace/addresses.txt": (*inside, "ip", "address"),
        "namespace/routes.txt": (*inside, "ip", "route", "show", "table", "all"),
        "namespace/routes6.txt": (*inside, "ip", "-6", "route", "show", "table", "all"),
        "namespace/rules.txt": (*inside, "ip", "rule"),
        "namespace/nft.txt": (*inside, "nft", "list", "ruleset"),
        "namespace/mptcp.txt": (*inside, "ip", "mptcp", "endpoint"),
        "namespace/sockets.txt": (*inside, "ss", "-tanimH"),
        "namespace/mptcp-sockets.txt": (*inside, "ss", "-ManiH"),
        "namespace/links.txt": (*inside, "ip", "-s", "-d", "link"),
        "namespace/nexthops.txt": (*inside, "ip", "nexthop"),
        "namespace/tunnels.txt": (*inside, "wg", "show", "all"),
        "namespace/conntrack.txt": (
            *(*inside, "conntrack", "--dump", "--output", "extended,timestamp"),
        ),
        "namespace/counters.txt": (*inside, "nstat", "-asz"),
    }


def _output(view: SiteView, command: tuple[str, ...]) -> str:
    try:
        done = view.shell.run(*command, timeout=_LONGEST_SECONDS)
    except FedsdnError as error:
        return f"{error}\n"
    ending = "" if done.returncode == 0 else f"exit status {done.returncode}\n"
    return f"{done.stdout}{done.stderr}{ending}"
