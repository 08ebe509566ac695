"""``make test`` runs three tests at a time: one may load the machine, and the others ask little.

A test that moves data at the wires' speed, or counts milliseconds, has none of its kind beside it:
all of these run in one process, in turn. The files of ``unit``, and those named here, run in the
others, with less priority, and in all when the first is done. ``pytest FILE`` runs all in turn.
Most of what tests do is to wait: three take no more than half of two processors.
"""

from __future__ import annotations

import os
import sys
from pathlib import PurePath

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

BESIDE = frozenset(
    {
        "test_allow",
        "test_bridge_returns",
        "test_ended",
        "test_fallback",
        "test_datagram_filter",
        "test_flow_tables",
        "test_flows",
        "test_hostile_wire",
        "test_interop",
        "test_known_destinations",
        "test_lab_life",
        "test_links",
        "test_lost_sessions",
        "test_networks",
        "test_neutron",
        "test_next_hops",
        "test_others_flows",
        "test_ovn",
        "test_port_vlans",
        "test_prerequisites",
        "test_proxy_file",
        "test_proxy_life",
        "test_proxy_policy",
        "test_proxy_start",
        "test_proxy_tls",
        "test_proxy_uplinks",
        "test_recipe",
        "test_restore",
        "test_revocation",
        "test_rights",
        "test_rotation",
        "test_silence",
        "test_site_bridge",
        "test_site_endpoints",
        "test_site_errors",
        "test_site_foreign",
        "test_site_reload",
        "test_site_traffic",
        "test_site_up",
        "test_sites_come_and_go",
        "test_start_order",
        "test_strangers",
        "test_this_machine",
        "test_tunnels",
        "test_tunnel_routes",
        "test_traffic_class",
        "test_unheard_end",
        "test_upkeep",
        "test_uplink_loop",
        "test_verify_datagrams",
        "test_wire",
        "test_worker_parts",
    }
)
"""Files of ``real`` that wait more than they work, on hosts and in labs of their own, and measure
nothing."""

BESIDE_NICE = 10
"""What runs beside others gets a tenth of a processor that both want."""

# A busy machine draws slowly, too.
settings.register_profile("fedsdn", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("the same each time", settings.get_profile("fedsdn"), derandomize=True)
settings.load_profile("the same each time" if "PYTEST_XDIST_WORKER" in os.environ else "fedsdn")
"""What fails by chance fails when somebody looks for it: ``pytest tests/unit`` draws other examples
each time."""


def _is_beside(file: PurePath) -> bool:
    return "unit" in file.parts or file.stem in BESIDE


class OneMayLoad(LoadScopeScheduling):  # type: ignore[misc]
    """Gives one process everything that may load the machine, and the others file by file."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the name of what stays together: tests of one process, in their order."""
        file, _, _ = nodeid.partition("::")
        return file if _is_beside(PurePath(file)) else "all that may load the machine"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneMayLoad:
    """Tell pytest-xdist how tests are shared out."""
    return OneMayLoad(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let what runs beside others give way."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.setpriority(os.PRIO_PROCESS, 0, BESIDE_NICE if _is_beside(item.path) else 0)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say at once what failed: a run that is ended from outside never comes to its summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        sys.stdout.write(f"\nfailed: {report.nodeid} ({report.when})\n{report.longreprtext}\n")
