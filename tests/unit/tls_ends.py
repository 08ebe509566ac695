"""Both ends of TLS between two proxies, over loopback."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from fedsdn.config.model import Federation, Identity, Site
from fedsdn.identity import store
from fedsdn.identity.new import NewIdentity
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.sockets.exchange import readable, receive, send_all
from fedsdn.proxy.tls.contexts import Tls, server_context
from fedsdn.proxy.tls.secured import Secured
from tests.unit.federations import own_identity, three_sites
from tests.unit.loopback import tcp_pair

FEDERATION = three_sites()
A, B, C = FEDERATION.sites


def own_files(directory: Path, *own: NewIdentity) -> Path:
    for one in own:
        store.save(directory, one)
    return directory


def tls_of(
    directory: Path,
    site: Site,
    federation: Federation = FEDERATION,
    *,
    own: NewIdentity | None = None,
    server: ssl.SSLContext | None = None,
) -> Tls:
    """What a worker of a site has; ``server`` is what its workers share."""
    files = own_files(directory / site.name, own or own_identity(site.name))
    policy = Policy.at(federation, site.name)
    return Tls(server or server_context(), lambda: store.load(files), policy)


def with_identities(federation: Federation, **identities: tuple[Identity, ...]) -> Federation:
    """The same federation, where these sites have these identities."""
    sites = tuple(
        replace(site, identities=identities.get(site.name, site.identities))
        for site in federation.sites
    )
    return replace(federation, sites=sites)


async def meeting(
    client: Tls, server: Tls, peer: Site = A, called: Site = B
) -> tuple[Secured, Secured]:
    """Connect; return both ends. If one end refuses the other, raise what it says."""
    near, far = tcp_pair()
    begun = client.calling(near, called)
    calling = asyncio.create_task(client.prove(begun, called))
    await readable(far)
    answered = server.called(far, peer)
    results = await asyncio.gather(calling, server.prove(answered, peer), return_exceptions=True)
    for error in results:
        if isinstance(error, BaseException) and not isinstance(error, ConnectionResetError):
            begun.close()
            answered.close()
            raise error
    return begun, answered


@asynccontextmanager
async def met(client: Tls, server: Tls) -> AsyncIterator[tuple[Secured, Secured]]:
    begun, answered = await meeting(client, server)
    with begun, answered:
        await send_all(answered, b"hello")
        assert await receive(begun, 100) == b"hello"
        client.remember(begun, B)
        yield begun, answered
