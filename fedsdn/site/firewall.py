"""The packet filter of the proxy's namespace, loaded and compared through nft."""

from __future__ import annotations

import re
import subprocess

from fedsdn import namespace
from fedsdn.config.model import Federation, Site
from fedsdn.errors import FedsdnError
from fedsdn.site.nft import TABLE, TABLES
from fedsdn.site.nft_datagrams import changed_rules
from fedsdn.site.nft_policy import policy

_IN_SETS = re.compile(r"^(\tset [^}]*?)\t\telements = \{[^}]*\}\n", re.MULTILINE)
"""Elements of a set that has a name: here, packets add them. Those of maps are the ruleset's."""

_JUDGE = re.compile(r"^\tchain judge \{\n.*?^\t\}\n", re.MULTILINE | re.DOTALL)

_PATIENCE_SECONDS = 20.0
"""A whole ruleset for 1,000 sites takes a second; a slow machine may need ten."""

_OUR_TABLES = re.compile(rf"^table (?:{'|'.join(TABLES)}) \{{\n.*?^\}}\n", re.MULTILINE | re.DOTALL)


def read(name: str) -> str:
    """Return all rules of the namespace as nft lists them, without what packets have changed."""
    found = namespace.inside(name, lambda: _nft(["nft", "--stateless", "list", "ruleset"]))
    return _IN_SETS.sub(r"\1", found)


def listing(ruleset: str) -> str:
    """Return how nft lists ``ruleset`` once it is loaded: its wording differs between versions.

    It is loaded into a network namespace that ends with the command.
    """
    load_and_list = "nft -f - && nft --stateless list ruleset"
    return _nft(["unshare", "--net", "sh", "-c", load_and_list], ruleset)


def apply(name: str, ruleset: str, *, alone: bool = True) -> bool:
    """Make our tables in the namespace as ``ruleset`` has it; say whether anything had to change.

    ``alone``, nothing else filters there afterwards; otherwise others' tables, as they serve for
    looking at packets (nft(8), ``monitor trace``), stay. The change is atomic: there is no moment
    without rules.
    """
    there = read(name)
    if (there if alone else _ours(there)) == listing(ruleset):
        return False
    ours = "\n".join(f"table {table}\ndelete table {table}" for table in TABLES)
    before = "flush ruleset" if alone else ours
    namespace.inside(name, lambda: _nft(["nft", "-f", "-"], f"{before}\n{ruleset}"))
    return True


def apply_rules(name: str, federation: Federation, site: Site) -> bool:
    """Have the namespace's filter judge datagrams by the rules of ``federation``; say if by others.

    Everything else of it waits for ``fedsdn site up``; without our table nothing is done.

    Raises:
        FedsdnError: there is no such namespace, or nft is missing or fails.

    """
    rules = policy(federation, site)
    there = namespace.inside(name, lambda: _nft(["nft", "--stateless", "list", "ruleset"]))
    chain = _JUDGE.search(there)
    if chain is None or f"{rules.mark:#010x}/" in chain[0]:
        return False
    namespace.inside(name, lambda: _nft(["nft", "-f", "-"], changed_rules(TABLE, rules)))
    return True


def _ours(listed: str) -> str:
    return "".join(_OUR_TABLES.findall(listed))


def _nft(command: list[str], text: str = "") -> str:
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_PATIENCE_SECONDS,
        )
    except FileNotFoundError as error:
        raise FedsdnError(
            f"{command[0]} is not installed: install package nftables (and util-linux)"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise FedsdnError(
            f"{command[0]} does not end within {_PATIENCE_SECONDS:.0f} s: look at the kernel's log "
            "(dmesg) and at the load of this host"
        ) from error
    if done.returncode != 0:
        said = " ".join(done.stderr.split())
        raise FedsdnError(
            f"table {TABLE} cannot be loaded: {said}; the kernel needs nf_tables with nft_tproxy "
            "and nft_socket"
        )
    return done.stdout
