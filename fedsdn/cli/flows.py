"""fedsdn flows: the bridge's flows by table, and their faults."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fedsdn.cli.common import ConfigFile, FederationFile, SiteName, settings
from fedsdn.cli.watch import watch_blocks
from fedsdn.config.loader import load_federation
from fedsdn.config.model import Federation, Site
from fedsdn.errors import FedsdnError
from fedsdn.inspect.flows import report
from fedsdn.inspect.flows.names import table_name
from fedsdn.inspect.flows.page import page
from fedsdn.inspect.flows.purpose import table_purpose
from fedsdn.ovs.comparison import compare
from fedsdn.ovs.flows import DumpedFlow, bridge_flows, compared_flows, saved_flows
from fedsdn.ovs.wanted import wanted_flows
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.declarations import Table
from fedsdn.shell import Shell

app = typer.Typer(help="Read the bridge's flow tables by name.", no_args_is_help=True)

DumpFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]",
        help="A saved dump (ovs-ofctl -O OpenFlow13 --names dump-flows BRIDGE); "
        "without it, this host's bridge.",
    ),
]


_Html = Annotated[
    Path | None, typer.Option("--html", help="Write one page with the pipeline drawn.")
]


@app.command()
def dump(
    file: DumpFile = None,
    *,
    table: Annotated[
        str | None, typer.Option("--table", help="Only this table, by name or number.")
    ] = None,
    nonzero: Annotated[
        bool, typer.Option("--nonzero", help="Only flows that have matched packets.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Other owners' flows too, in all tables.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh every second, with rates, until Ctrl-C.")
    ] = False,
    html: _Html = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
) -> None:
    """Show every flow with its purpose, packets and bytes."""
    only = None if table is None else _table(table)

    def views(flows: Sequence[DumpedFlow]) -> list[report.TableView]:
        return report.tables(flows, only, others=everything, nonzero=nonzero)

    if file is None:
        local = _local(config_file, site, federation)[1]
        shell, bridge = Shell(local.name), local.provider_network.bridge
        collect, title = partial(bridge_flows, shell, bridge), f"bridge {bridge}"
        if watch:
            watch_blocks(
                collect,
                lambda now, before, seconds: _lines(
                    title, now, views(now), report.rates(before, now, seconds)
                ),
            )
            return
        flows = collect()
    else:
        if watch:
            raise FedsdnError(f"{file} does not change: leave out '--watch', or the file")
        flows, title = saved_flows(file), str(file)
    if html is not None:
        _write(html, page(title, views(flows)))
    if as_json:
        print(json.dumps({"source": title, "tables": report.document(views(flows))}, indent=2))
    elif html is None:
        print("\n".join(_lines(title, flows, views(flows))))


@app.command()
def diff(
    file: DumpFile = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
) -> None:
    """Compare the site's wanted flows with the bridge's.

    The exit status is 0 only if they are the same, and every flow can be reached.
    """
    whole, local = _local(config_file, site, federation)
    if file is None:
        shell = Shell(local.name)
        flows = compared_flows(shell, local.provider_network.bridge)
        wanted = wanted_flows(shell, whole, local.name)
    else:
        # Which ports its bridge had, a dump does not say.
        flows = [flow for flow in saved_flows(file) if not _is_of_a_port(flow)]
        wanted = pipeline_flows(whole, local.name)
    findings = compare(wanted, flows)
    if as_json:
        print(json.dumps([report.finding_document(one) for one in findings], indent=2))
    else:
        for finding in findings:
            print("\n".join(report.finding_text(finding)))
        if not findings:
            print(f"all {len(wanted)} flows of site {local.name} are there, and no others of ours")
    sys.exit(1 if findings else 0)


@app.command()
def render(
    name: Annotated[str, typer.Argument(metavar="SITE", help="A site of the federation file.")],
    config_file: ConfigFile = None,
    federation: FederationFile = None,
) -> None:
    """Print the flows that a site gets, as 'ovs-ofctl -O OpenFlow13 add-flows' reads them.

    All but those of single tenants' ports: which there are, only the site's bridge knows.
    """
    if federation is None:
        federation = settings(config_file, name, federation).federation
    whole = load_federation(federation)
    whole.local_site(name)
    above: Table | None = None
    why: str | None = None
    for flow in pipeline_flows(whole, name):
        if flow.table is not above:
            print(f"\n# {table_name(flow.table)}: {table_purpose(flow.table)}")
            above, why = flow.table, None
        if flow.why != why:
            print(f"# {flow.why}")
            why = flow.why
        print(flow)


def _local(
    config_file: Path | None, site: str | None, federation: Path | None
) -> tuple[Federation, Site]:
    local = settings(config_file, site, federation)
    whole = load_federation(local.federation)
    return whole, whole.local_site(local.site)


def _is_of_a_port(flow: DumpedFlow) -> bool:
    return flow.ours and flow.table == Table.NETWORK and bool(flow.match)


def _table(text: str) -> Table:
    for table in Table:
        if text.upper() == table.name or text == str(table.value):
            return table
    known = ", ".join(table.name for table in Table)
    raise FedsdnError(f"no table {text!r}: name one of {known}")


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise FedsdnError(f"{file}: {error.strerror}: name a file that can be written") from error


def _lines(
    title: str,
    flows: Sequence[DumpedFlow],
    views: Sequence[report.TableView],
    rates: report.Rates | None = None,
) -> list[str]:
    shown = sum(len(view.flows) for view in views)
    rest = f", {len(flows) - shown} more of other owners or left out" if len(flows) > shown else ""
    return [f"{title}: {shown} flows{rest}", "", *report.text(views, rates)]
