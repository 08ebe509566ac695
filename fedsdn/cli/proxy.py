"""fedsdn proxy: run the proxy, and look at what it counts."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from fedsdn import namespace
from fedsdn.cli.common import ConfigFile, FederationFile, SiteName, service, settings
from fedsdn.cli.tables import print_table
from fedsdn.config.loader import load_federation
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import MOST_WORKERS, PROXY_NAMESPACE
from fedsdn.proxy.process import workers
from fedsdn.proxy.process.handed_on import CHECK, is_handed_on
from fedsdn.proxy.process.settings import Settings
from fedsdn.proxy.process.stats_socket import (
    STATISTICS_SOCKET,
    check_namespace,
    read_refused,
    read_reloads,
    read_statistics,
    running_process,
    workers_in_words,
)
from fedsdn.proxy.stats import counted_reasons
from fedsdn.site.locks import wait_until_set_up
from fedsdn.units import ago

_LOG = logging.getLogger(__name__)

app = typer.Typer(help="Run the proxy, and look at what it counts.")

_OF_A_REASON = ("ended_", "last_", "now")
_RELOAD_SECONDS = 120.0
_LOOK_SECONDS = 0.1
_MPTCP = Path("/proc/sys/net/mptcp/enabled")


@app.command()
def run(
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, max=MOST_WORKERS, help="Processes; one per core if not given."
        ),
    ] = None,
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="What a stop leaves to running connections, in seconds.")
    ] = 30.0,
    verbose: Annotated[bool, typer.Option(help="Log every connection that fails.")] = False,
    check: Annotated[
        bool, typer.Option(CHECK, help="Only say whether it would run, beside one that does.")
    ] = False,
) -> None:
    """Run socksifier and SOCKS server until SIGTERM; SIGHUP reloads, as 'fedsdn proxy reload'."""
    goes_on = is_handed_on()  # a file that was well a moment ago may be so again in the next
    with service(again=goes_on):
        local = settings(config_file, site, federation)
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if not namespace.exists(PROXY_NAMESPACE):
        with service(again=goes_on):  # nobody is to wait in vain
            load_federation(local.federation).local_site(local.site)
        wait_until_set_up(PROXY_NAMESPACE, _LOG.warning)
    if namespace.own_identity() != namespace.identity(PROXY_NAMESPACE):  # else: after a reload
        namespace.enter(PROXY_NAMESPACE)
    _check_mptcp()
    how = Settings(
        site=local.site,
        federation=local.federation,
        workers=processes or min(len(os.sched_getaffinity(0)), MOST_WORKERS),
        drain_seconds=drain_seconds,
        namespace=PROXY_NAMESPACE,
        identity=local.identity,
    )
    with service(again=goes_on):
        if check:
            workers.check(how)
        else:
            workers.run(how, STATISTICS_SOCKET)


@app.command()
def reload() -> None:
    """Have the running proxy become what is on disk now, program and federation file.

    New workers take the places of those that run; these end with what they carry, and no
    connection is lost. If the program on disk does not run, all goes on as before.
    """
    check_namespace(PROXY_NAMESPACE)
    done, failed = read_reloads()
    process = running_process()
    os.kill(process, signal.SIGHUP)
    latest = time.monotonic() + _RELOAD_SECONDS
    while time.monotonic() < latest:
        time.sleep(_LOOK_SECONDS)
        try:
            now_done, now_failed = read_reloads()
        except FedsdnError:  # it becomes another program, and answers later
            if not _is_running(process):
                raise
            continue
        if now_failed > failed:
            raise FedsdnError(
                "not reloaded, the proxy goes on as before: its log says why "
                "(journalctl -u fedsdn-proxy)"
            )
        if now_done > done:
            print(f"reloaded: {workers_in_words(read_statistics())}")
            return
    raise FedsdnError(
        f"not reloaded within {_RELOAD_SECONDS:g} s: see the proxy's log "
        "(journalctl -u fedsdn-proxy)"
    )


@app.command()
def stats(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print what the running proxy has counted since it started."""
    check_namespace(PROXY_NAMESPACE)
    found, refused = read_statistics(), read_refused()
    if as_json:
        print(json.dumps({**found, "refused": [one.document() for one in refused]}, indent=2))
    else:
        counters = [(name, n) for name, n in found.items() if not name.startswith(_OF_A_REASON)]
        print_table("proxy", ["counter", "value"], [[name, str(n)] for name, n in counters])
        print_table(
            "connections that failed or were ended, by reason",
            ["reason", "connections", "the last"],
            [
                [str(reason), str(count), f"{ago(last, found['now'])} ago"]
                for reason, count, last in counted_reasons(found)
            ],
        )
        if refused:
            print_table(
                "of these refused, by peer",
                ["peer", "reason", "connections", "the last"],
                [
                    [one.peer, one.reason, str(one.count), f"{ago(one.last, found['now'])} ago"]
                    for one in refused
                ],
            )


def _is_running(process: int) -> bool:
    """Whether a process, which was ours to signal, has not ended."""
    return Path(f"/proc/{process}").exists()


def _check_mptcp() -> None:
    try:
        enabled = _MPTCP.read_text().strip()
    except FileNotFoundError:
        raise FedsdnError(
            f"{_MPTCP} is missing: this kernel has no MPTCP; use one with CONFIG_MPTCP"
        ) from None
    if enabled != "1":
        raise FedsdnError(
            f"{_MPTCP} is {enabled}: MPTCP is off in namespace {PROXY_NAMESPACE}; "
            "run 'fedsdn site up'"
        )
