"""Which open connections a changed federation file revokes, and why: pure code."""

from __future__ import annotations

from fedsdn.channel.connection import Direction
from fedsdn.config.model import Address, AddressPair, ProviderNetwork, Site
from fedsdn.config.special import special
from fedsdn.proxy.admission.carried import PeerConnection
from fedsdn.proxy.admission.policy import Policy


def revoked(judged: PeerConnection, before: Policy, now: Policy) -> str | None:
    """Say why ``now`` does not allow a connection that ``before`` allowed; None if it does.

    The same cause has the same text.
    """
    peer, known = _peer(now, judged.peer), _peer(before, judged.peer)
    if peer is None:
        return f"site {judged.peer} is no longer in the federation file"
    if known is None:
        return f"site {judged.peer} is another one than before in the federation file"
    return (
        _network_changed(before.site, now.site)
        or _in_clear((before, known), (now, peer))
        or (_replaced(known, peer) if before.is_encrypted(known) else None)
        or _foreign(judged, peer, before, now)
        or _ruled_out(judged, peer, before, now)
        or _cut_off(judged, _paths(before, known), _paths(now, peer))
        or _shown_otherwise(judged, (before, known), (now, peer))
    )


def _peer(policy: Policy, name: str) -> Site | None:
    return None if name == policy.site.name else policy.federation.find_site(name)


def _network_changed(before: Site, now: Site) -> str | None:
    """Compare the sites' networks: the same address in another network is another VM."""
    was, is_now = (_name(site.provider_network) for site in (before, now))
    return None if was == is_now else f"the provider network is {is_now} now, no longer {was}"


def _name(network: ProviderNetwork) -> str:
    vlan = network.segmentation_id
    return f"{network.bridge} " + ("untagged" if vlan is None else f"VLAN {vlan}")


def _in_clear(before: tuple[Policy, Site], now: tuple[Policy, Site]) -> str | None:
    """Check that what is carried in clear still may be."""
    was, is_now = (policy.is_encrypted(peer) for policy, peer in (before, now))
    return f"connections with site {now[1].name} are encrypted now" if is_now and not was else None


def _replaced(known: Site, peer: Site) -> str | None:
    """Check that what a peer has proven may count still: identities overlap where one is rotated.

    With none in common, those before are in wrong hands, or lost.
    """
    before, now = ({one.fingerprint for one in site.identities} for site in (known, peer))
    if not before or before & now:
        return None
    return f"site {peer.name} has none of the identities in the federation file that it had before"


def _foreign(judged: PeerConnection, peer: Site, before: Policy, now: Policy) -> str | None:
    """Check that client and destination are still VMs of their sites."""
    if judged.client is None or judged.destination is None:
        return None
    client, destination = judged.client.address, judged.destination.address
    if judged.direction is Direction.OUTBOUND:
        return _left(client, now.site, before, now) or _left(destination, peer, before, now)
    # The client behind another's proxy is not known: the caller is the proxy itself.
    foreign_client = _left(client, peer, before, now) if peer.proxy == "fedsdn" else None
    return foreign_client or _left(destination, now.site, before, now)


def _left(address: Address, site: Site, before: Policy, now: Policy) -> str | None:
    prefix, earlier = now.prefix_at(site, address), before.prefix_at(site, address)
    if kind := special(address, prefix):
        return f"{address} is {kind} now"
    if prefix is not None:
        return None
    what = "the client's address" if earlier is None else str(earlier.network)
    return f"{what} is no longer a prefix of site {site.name}"


def _ruled_out(judged: PeerConnection, peer: Site, before: Policy, now: Policy) -> str | None:
    """Check that a rule allows it still; which one may be another than before."""
    rules = now.federation.rules
    if rules is None or judged.client is None or judged.destination is None:
        return None
    origin = now.site if judged.direction is Direction.OUTBOUND else peer
    wanted = now.contact(origin, judged.client.address, judged.destination)
    if rules.first(wanted) is not None:
        return None
    earlier = before.federation.rules
    rule = None if earlier is None else earlier.first(wanted)
    if rule is None:
        return "no rule allows it"
    return f"no rule allows it any more: until now {rule.name} did, {rule}"


def _paths(policy: Policy, peer: Site) -> set[AddressPair]:
    return {(own.address.ip, other.peer_address) for own, other in policy.paths(peer, 0)}


def _cut_off(judged: PeerConnection, before: set[AddressPair], now: set[AddressPair]) -> str | None:
    """Check that a path is left; a path that never was in the file is not judged."""
    if judged.path is not None:
        if judged.path in before - now:
            own, other = judged.path
            return f"site {judged.peer} is no longer reached from {own} to {other}"
        return None
    if before and not before & now:
        return f"no uplink is left over which site {judged.peer} was reached"
    return None


def _shown_otherwise(
    judged: PeerConnection, before: tuple[Policy, Site], now: tuple[Policy, Site]
) -> str | None:
    """Check that the proxy still serves the address that the VM sees as its client's.

    It always serves the client's own, however other sources are restored.
    """
    if judged.direction is Direction.OUTBOUND or judged.destination is None:
        return None
    was, is_now = (policy.source_restore(peer) for policy, peer in (before, now))
    if was == "transparent":
        return None
    if was != is_now:
        return f"source_restore is {is_now} now, no longer {was}, for clients at site {judged.peer}"
    destination = judged.destination.address
    own, own_now = (policy.own_address(destination) for policy, _ in (before, now))
    return None if own == own_now else f"the proxy's own address is {own_now} now, no longer {own}"
