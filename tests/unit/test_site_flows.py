"""Flows by what changed are those made from nothing, whatever changes in a federation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fedsdn.bench import scale
from fedsdn.config.model import Federation, ProviderNetwork, Site
from fedsdn.pipeline.build import OWN, SiteFlows, pipeline_flows, site_flows
from fedsdn.pipeline.flows import Flow
from tests.unit.federations import tenants

HERE = "site-0"
EVERY = scale.federation(6, 4)
OTHERS = [site.name for site in EVERY.sites[1:]]


@st.composite
def changed_sites(draw: st.DrawFn, site: Site) -> Site:
    """Take prefixes or uplinks away, or change what else may be said of a site."""
    some_prefixes = st.lists(st.sampled_from(site.prefixes), min_size=1, unique=True).map(tuple)
    some_uplinks = st.lists(st.sampled_from(site.uplinks), min_size=1, unique=True).map(tuple)
    changes: dict[str, st.SearchStrategy[Any]] = {
        "prefixes": some_prefixes,
        "uplinks": some_uplinks,
        "source_restore": st.sampled_from(["transparent", "nat", "none"]),
        "proxy": st.sampled_from(["fedsdn", "socks5"]),
        "provider_network": st.builds(
            ProviderNetwork,
            st.just("br-provider"),
            st.sampled_from([None, 7]),
            st.sampled_from(["normal", "none"]),
        ),
    }
    return replace(site, **draw(st.fixed_dictionaries({}, optional=changes)))


@st.composite
def federations(draw: st.DrawFn) -> Federation:
    """Some of six sites, in any order, changed or not; and the site itself."""
    there = {HERE, *draw(st.lists(st.sampled_from(OTHERS)))}
    sites = draw(st.permutations([site for site in EVERY.sites if site.name in there]))
    changed = [draw(st.just(site) | changed_sites(site)) for site in sites]
    return replace(EVERY, sites=tuple(changed))


STEPS = st.lists(
    st.tuples(federations(), st.sampled_from([(), ("p",), ("p", "q")])), min_size=1, max_size=4
)
FEW = settings(deadline=None, max_examples=40)


def difference(before: SiteFlows | None, after: SiteFlows) -> tuple[set[Flow], set[Flow]]:
    """Compare as the application does: only groups that are not the same objects."""
    old = before.groups if before else {}
    new = after.groups
    fresh = [name for name in new if old.get(name) is not new[name]]
    gone = [name for name in old if old[name] is not new.get(name)]
    return (
        {flow for name in gone for flow in old[name]},
        {flow for name in fresh for flow in new[name]},
    )


@FEW
@given(STEPS)
def test_applying_differences_gives_what_is_made_from_nothing(
    steps: list[tuple[Federation, tuple[str, ...]]],
) -> None:
    present: set[Flow] = set()
    made: SiteFlows | None = None
    for federation, ports in steps:
        after = site_flows(federation, HERE, tenants(*ports), made)
        deleted, added = difference(made, after)
        assert deleted <= present
        present = (present - deleted) | added
        made = after
        whole = pipeline_flows(federation, HERE, tenants(*ports))
        assert present == set(whole)
        assert len(whole) == len({(flow.table, flow.priority, flow.match) for flow in whole})


@FEW
@given(federations(), federations())
def test_a_group_is_made_anew_only_if_it_changed(one: Federation, other: Federation) -> None:
    before = site_flows(one, HERE)
    after = site_flows(other, HERE, (), before)
    for name, group in after.groups.items():
        if name in before.groups and group == before.groups[name]:
            may_be_remade = name != OWN and one.site(HERE) != other.site(HERE)
            known = one.find_site(name) == other.find_site(name)
            assert group is before.groups[name] or may_be_remade or not known


def test_a_peer_that_comes_makes_its_own_group_alone() -> None:
    more = scale.federation(6)
    less = replace(more, sites=more.sites[:-1])
    before = site_flows(less, HERE)
    after = site_flows(more, HERE, (), before)
    assert {name for name in after.groups if after.groups[name] is not before.groups.get(name)} == {
        "site-5"
    }
