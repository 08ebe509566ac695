"""What applications see between two sites is what they see between neighbours."""

from __future__ import annotations

import pytest

from fedsdn.bench.behaviour.case import QUICK
from fedsdn.bench.behaviour.run import CASES, BehaviourResults, Compared, Verdict, run
from fedsdn.config.model import Family
from fedsdn.lab.lab import Lab
from tests.real.test_proxy_lab import wait_until_all_ended

pytestmark = pytest.mark.real

_SEEN = [(case.name, family) for case in CASES for family in case.near]


@pytest.fixture(scope="module")
def compared(request: pytest.FixtureRequest, lab: Lab) -> dict[tuple[str, Family], Compared]:
    """Run all cases that are asked for side by side: some take long, and do little."""
    wanted = {
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    }
    results = BehaviourResults()
    run(lab, [case for case in CASES if case.name in wanted], QUICK, results, print)
    wait_until_all_ended(lab)
    return {(one.name, one.family): one for one in results.compared}


@pytest.mark.parametrize(("name", "family"), _SEEN, ids=[f"{n}, IPv{f}" for n, f in _SEEN])
def test_it_is_the_same_or_explained(
    compared: dict[tuple[str, Family], Compared], name: str, family: Family
) -> None:
    one = compared[name, family]
    assert one.verdict in (Verdict.SAME, Verdict.EXPLAINED), (
        f"near '{one.near}', far '{one.far}' {one.why}"
    )
