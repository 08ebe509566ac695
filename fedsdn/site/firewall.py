"""The packet filter of the proxy's namespace, loaded and compared through nft."""

from __future__ import annotations

import re
import subprocess

from fedsdn import namespace
from fedsdn.errors import FedsdnError
from fedsdn.site.nft import TABLE

_IN_SETS = re.compile(r"^(\tset [^}]*?)\t\telements = \{[^}]*\}\n", re.MULTILINE)
"""Elements of a set that has a name: here, packets add them. Those of maps are the ruleset's."""


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


def apply(name: str, ruleset: str) -> bool:
    """Make ``ruleset`` all that filters in the namespace; say whether anything had to change.

    The change is atomic: there is no moment without rules.
    """
    if read(name) == listing(ruleset):
        return False
    fresh = f"flush ruleset\n{ruleset}"
    namespace.inside(name, lambda: _nft(["nft", "-f", "-"], fresh))
    return True


def _nft(command: list[str], text: str = "") -> str:
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError as error:
        raise FedsdnError(
            f"{command[0]} is not installed: install package nftables (and util-linux)"
        ) from error
    if done.returncode != 0:
        said = " ".join(done.stderr.split())
        raise FedsdnError(
            f"table {TABLE} cannot be loaded: {said}; the kernel needs nf_tables with nft_tproxy "
            "and nft_socket"
        )
    return done.stdout
