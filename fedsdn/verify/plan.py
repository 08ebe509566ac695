"""The list of everything that ``fedsdn verify`` checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from fedsdn.verify.checks import Check
from fedsdn.verify.connections import both_sides_check, path_checks
from fedsdn.verify.datagram_loss import datagram_loss_check
from fedsdn.verify.datagrams import datagram_checks
from fedsdn.verify.loss import PlugUplink, loss_check, losses
from fedsdn.verify.paths import paths
from fedsdn.verify.site import site_checks, traffic_counter_checks
from fedsdn.verify.throughput import Wires, throughput_checks
from fedsdn.verify.view import SiteView


@dataclass(frozen=True, slots=True)
class Effort:
    """How much traffic to send: parallel connections per path, seconds per measured transfer."""

    connections: int
    seconds: float


FULL = Effort(connections=1000, seconds=6.0)
QUICK = Effort(connections=50, seconds=3.0)


def all_checks(
    views: Sequence[SiteView], effort: Effort, plug: PlugUplink | None = None
) -> list[Check]:
    """Return the checks of all sites, then those with traffic between sites that have VMs.

    With ``plug``, uplinks are lost in mid-transfer, too.
    """
    checks = [check for view in views for check in site_checks(view)]
    every_path = paths(views)
    for path in every_path:
        checks += [*path_checks(path, effort.connections), *datagram_checks(path)]
    order = [view.name for view in views]
    there = [
        path
        for path in every_path
        if order.index(path.near.name) < order.index(path.far.name) and not path.forbidden()
    ]
    checks += [both_sides_check(path, path.back()) for path in there if not path.back().forbidden()]
    for near, far in combinations((view for view in views if view.vms), 2):
        same_sites = [path for path in there if (path.near, path.far) == (near, far)]
        if not same_sites:
            continue
        wires = Wires(near, far, effort.seconds)
        checks += throughput_checks(wires, same_sites)
        if plug is not None:
            every_loss = losses(wires.pairs, same_sites[0], plug)
            checks += [loss_check(loss) for loss in every_loss]
            checks += [check for loss in every_loss if (check := datagram_loss_check(loss))]
    return checks + [check for view in views for check in traffic_counter_checks(view)]
