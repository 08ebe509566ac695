"""Runs the cases near and far, many at a time, and compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from queue import SimpleQueue

from fedsdn.bench.behaviour import (
    crowd,
    data,
    datagram_programs,
    datagrams,
    headers,
    life,
    opening,
    programs,
)
from fedsdn.bench.behaviour.case import CHAPTER, Case, Ends, Lengths, Where, error_word
from fedsdn.bench.guests import Guest, guests, unused
from fedsdn.config.model import Family, Site
from fedsdn.errors import FedsdnError
from fedsdn.lab.build import Progress
from fedsdn.lab.lab import Lab

CASES: tuple[Case, ...] = (
    *opening.CASES,
    *data.CASES,
    *headers.CASES,
    *life.CASES,
    *programs.CASES,
    *crowd.CASES,
    *datagrams.CASES,
    *datagram_programs.CASES,
)

_LANES = 10
"""Cases that run at a time near, and as many far; each has VMs of its own."""
_MISSING = 3


class Verdict(StrEnum):
    """What the comparison of one case came to."""

    SAME = "same"
    EXPLAINED = "no: explained"
    UNEXPLAINED = "NO"
    UNEXPECTED = "same, but NOT as it should be"
    """Even near it is not what it is to be: the case is broken, or this machine's kernel."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What was seen of a case, near and far."""

    name: str
    does: str
    family: Family
    near: str
    far: str
    verdict: Verdict
    why: str = ""


@dataclass(slots=True)
class BehaviourResults:
    """All cases so far."""

    compared: list[Compared] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """Say which differences nobody has explained."""
        return [
            f"{one.name}, IPv{one.family}: near '{one.near}', far '{one.far}'"
            for one in self.compared
            if one.verdict in (Verdict.UNEXPLAINED, Verdict.UNEXPECTED)
        ]


def compare(case: Case, family: Family, near: str, far: str) -> Compared:
    """Judge what was seen."""
    difference, why = case.difference, ""
    if near != case.near[family]:
        verdict = Verdict.UNEXPECTED if near == far else Verdict.UNEXPLAINED
        why = f"near is to be '{case.near[family]}'"
    elif near == far:
        verdict = Verdict.SAME
    elif difference is not None and far == difference.far:
        verdict, why = Verdict.EXPLAINED, f"{difference.why} (README, '{CHAPTER}')"
    else:
        verdict = Verdict.UNEXPLAINED
    return Compared(case.name, case.does, family, near, far, verdict, why)


def run(
    lab: Lab,
    cases: Sequence[Case],
    lengths: Lengths,
    results: BehaviourResults,
    report: Progress,
) -> None:
    """Run cases, the longest first; ``results`` has what was compared so far at any time.

    Raises:
        FedsdnError: the VMs cannot be made.

    """
    seen: dict[tuple[str, Family], dict[Where, str]] = {}
    jobs = [
        (case, family, where)
        for case in sorted(cases, key=lambda case: -case.seconds)
        for family in case.near
        for where in Where
    ]
    with _lanes(lab, lengths) as lanes, ExitStack() as stack:
        threads = {where: stack.enter_context(ThreadPoolExecutor(_LANES)) for where in Where}
        running: dict[Future[str], tuple[Case, Family, Where]] = {
            threads[where].submit(_run_case, case, family, lanes[where]): (case, family, where)
            for case, family, where in jobs
        }
        for done in as_completed(running):
            case, family, where = running[done]
            by_where = seen.setdefault((case.name, family), {})
            by_where[where] = done.result()
            if len(by_where) == len(Where):
                one = compare(case, family, by_where[Where.NEAR], by_where[Where.FAR])
                results.compared.append(one)
                report(f"{one.name}, IPv{family}: {one.verdict}")
    order = {case.name: number for number, case in enumerate(cases)}
    results.compared.sort(key=lambda one: (order[one.name], one.family))


@dataclass(frozen=True, slots=True)
class _Lane:
    """VMs for one case at a time."""

    client: Guest
    server: Guest
    spare: Guest
    sites: tuple[Site, Site]
    """The client's, and the others'."""
    number: int
    lengths: Lengths

    def ends(self, family: Family) -> Ends:
        numbers = range(self.number * _MISSING, (self.number + 1) * _MISSING)
        missing = tuple(str(unused(self.sites[1], family, number)) for number in numbers)
        here, there = (_proxy(site, family) for site in self.sites)
        vms = (self.client, self.server, self.spare)
        return Ends(*vms, missing, family, self.lengths, (here, there))


def _proxy(site: Site, family: Family) -> str:
    return str(next(p.proxy_address for p in site.prefixes if p.network.version == family))


_Lanes = dict[Where, SimpleQueue[_Lane]]


@contextmanager
def _lanes(lab: Lab, lengths: Lengths) -> Iterator[_Lanes]:
    """Have VMs for all lanes: clients at the first site, and there or at the second the others."""
    near, far = [site.name for site in lab.topology.sites][:2]
    federation = lab.topology.federation
    with guests(lab, {near: 4 * _LANES, far: 2 * _LANES}) as made:
        here, there = iter(made[near]), iter(made[far])
        lanes: _Lanes = {where: SimpleQueue() for where in Where}
        for number in range(_LANES):
            for where, site, others in ((Where.NEAR, near, here), (Where.FAR, far, there)):
                vms = (next(here), next(others), next(others))
                sites = (federation.site(near), federation.site(site))
                lanes[where].put(_Lane(*vms, sites, number, lengths))
        yield lanes


def _run_case(case: Case, family: Family, lanes: SimpleQueue[_Lane]) -> str:
    lane = lanes.get()
    try:
        return case.run(lane.ends(family))
    except OSError as error:
        return error_word(error)
    except FedsdnError as error:
        return str(error)
    except Exception as error:
        return repr(error)
    finally:
        lanes.put(lane)
