"""The fedsdn command."""

from __future__ import annotations

import sys

import typer

from fedsdn.cli import bench, flows, lab, proxy, site, topology
from fedsdn.cli.connections import connections
from fedsdn.cli.demo import demo
from fedsdn.cli.status import status, support_bundle
from fedsdn.cli.trace import trace
from fedsdn.cli.uplinks import uplinks
from fedsdn.cli.verify import verify
from fedsdn.errors import FedsdnError

app = typer.Typer(
    name="fedsdn",
    help="Joins private clouds over several uplinks with Multipath TCP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(topology.app, name="topology")
app.add_typer(lab.app, name="lab")
app.add_typer(site.app, name="site")
app.add_typer(proxy.app, name="proxy")
app.add_typer(flows.app, name="flows")
app.add_typer(bench.app, name="bench")
app.command()(verify)
app.command()(demo)
app.command()(uplinks)
app.command()(connections)
app.command()(trace)
app.command()(status)
app.command("support-bundle")(support_bundle)


def main() -> None:
    """Run the command line; an error a user can mend is one line and exit status 1."""
    try:
        app()
    except FedsdnError as error:
        print(f"fedsdn: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
