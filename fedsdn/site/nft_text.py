"""Words of the packet filter's rulesets, as text for ``nft -f -``."""

from __future__ import annotations

from collections.abc import Iterable

from fedsdn.config.model import Address, Network


def chain(name: str, rules: Iterable[str]) -> str:
    """Write a chain."""
    body = "".join(f"\t\t{rule}\n" for rule in rules)
    return f"\tchain {name} {{\n{body}\t}}\n"


def dynamic_set(name: str, family: int, most: int, seconds: int) -> str:
    """Write a set to which packets add addresses of a family, for so long and so many at most."""
    return (
        f"\tset {name} {{\n\t\ttype ipv{family}_addr\n\t\tsize {most}\n"
        f"\t\tflags dynamic,timeout\n\t\ttimeout {seconds}s\n\t}}\n"
    )


def drop(comment: str) -> str:
    """Write what drops a packet, counts it and says why."""
    return f'counter drop comment "{comment}"'


def of(family: int, values: Iterable[Address | Network]) -> list[Address | Network]:
    """Return those of a family, each once."""
    return sorted({value for value in values if value.version == family}, key=str)


def listed(values: Iterable[Address | Network | str]) -> str:
    """Write the values that something may have."""
    return f"{{ {', '.join(str(value) for value in values)} }}"
