"""fedsdn trace: a packet's path through a site, and why."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from fedsdn.cli.common import ConfigFile, FederationFile, SiteName, settings
from fedsdn.config.loader import load_federation
from fedsdn.errors import FedsdnError
from fedsdn.inspect.trace.answer import ask
from fedsdn.inspect.trace.question import Question, parse_question
from fedsdn.inspect.trace.report import document, lines
from fedsdn.lab.lab import open_lab


def trace(
    source: Annotated[str, typer.Argument(metavar="SRC[:PORT]", help="The client.")],
    destination: Annotated[
        str, typer.Argument(metavar="DST:PORT", help="The server; of ICMP without a port.")
    ],
    *,
    reply: Annotated[bool, typer.Option("--reply", help="A packet back, from DST to SRC.")] = False,
    protocol: Annotated[
        Literal["tcp", "udp", "icmp"], typer.Option("--protocol", help="Of what it is.")
    ] = "tcp",
    lab: Annotated[
        str | None, typer.Option("--lab", help="In a lab: at both sites of the connection.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
) -> None:
    """Trace a packet of an open or a new connection, or flow, through this site."""
    question = parse_question(source, destination, reply=reply, protocol=protocol)
    if lab is not None:
        _in_lab(lab, question, (source, destination), as_json=as_json)
        return
    local = settings(config_file, site, federation)
    whole = load_federation(local.federation)
    answer = ask(whole, whole.local_site(local.site), question)
    if as_json:
        print(json.dumps(document(answer, local.federation), indent=2, default=str))
    else:
        print("\n".join(lines(answer, local.federation)))


def _in_lab(name: str, question: Question, words: tuple[str, str], *, as_json: bool) -> None:
    lab = open_lab(name)
    ends = (question.client, question.destination.address)
    sites = [
        site
        for site in lab.topology.federation.sites
        if any(end in prefix.network for end in ends for prefix in site.prefixes)
    ]
    if not sites:
        raise FedsdnError(f"no site of lab {name} has {ends[0]} or {ends[1]} in a prefix")
    options = [
        "--protocol",
        question.protocol,
        *(["--reply"] if question.reply else []),
        *(["--json"] if as_json else []),
    ]
    if question.reply:
        sites.reverse()
    answers = [lab.host(site.name).run("fedsdn", "trace", *words, *options) for site in sites]
    print(f"[{', '.join(answers)}]" if as_json else "\n".join(answers))
