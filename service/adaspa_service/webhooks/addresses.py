"""Addresses that a webhook may go to, and connections that go to no other.

A URL comes from a client, and the gateway stands inside the operator's network: a name is resolved here, every address
that it has is judged, and the connection is made to an address that was judged, not to the name. A name whose answer
changes between the two (DNS rebinding) leads nowhere else.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from weakref import WeakValueDictionary

import httpcore
from adaspa_jobs.settings import Network

Resolve = Callable[[str, int], Sequence[str]]
"""Host and port to addresses. Raises OSError when there are none."""

RESOLVE_SECONDS = 5.0
RESOLVERS = 32
"""Names that are looked up at a time."""
OWNER_LOOKUPS = 4
"""Lookups of one owner. Python cannot cancel a lookup: it keeps its thread beyond RESOLVE_SECONDS, and is counted
until it ends, so an owner's slow name servers do not hold up the others' receivers."""
NO_ANSWER = (socket.EAI_AGAIN, socket.EAI_MEMORY, socket.EAI_SYSTEM)
"""Error codes of a lookup that say nothing about the name."""
ADDRESSES_TRIED = 4
"""Maximum number of a host's addresses to try."""
CONNECT_SECONDS = 4.0
"""Then the host's next address is tried."""
METADATA = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",  # AWS, Azure, GCP, OpenStack and others
            "169.254.170.2",  # credentials of an ECS task
            "169.254.170.23",  # of an EKS pod
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",  # GCP
            "100.100.100.200",  # Alibaba Cloud
            "192.0.0.192",  # Oracle Cloud, classic
            "168.63.129.16",  # Azure's platform, a public address
        ),
    )
)
"""They give out credentials, and are refused whatever the settings allow."""
NAT64 = IPv6Network("64:ff9b::/96")
INSIDE = (IPv6Network("64:ff9b:1::/48"), IPv6Network("fec0::/10"))
"""A network's own NAT64, and the former site-local addresses: not every version of Python takes them for private."""


class AddressRefused(Exception):
    """A host is at no address that may be called; the message says which."""


class LookupFailed(Exception):
    """Failure to learn whether a host may be called: its lookup got no answer; a later one may."""


def system_resolve(host: str, port: int) -> list[str]:
    """Look up a host by the system's resolver. Raises OSError."""
    return [str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def embedded(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address stands for: mapped, by 6to4, by Teredo or by NAT64; else itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1]) or address


def permitted(text: str, networks: Iterable[Network]) -> bool:
    """Tell whether this address may be called: a public one, or one of the networks that the operator allows."""
    address = embedded(ip_address(text))
    if address in METADATA:
        return False
    if any(address.version == network.version and address in network for network in networks):
        return True
    if isinstance(address, IPv6Address) and any(address in network for network in INSIDE):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class Addresses:
    """Looks hosts up.

    Args:
        networks: not public, and allowed nevertheless.
        resolve: how; it may block.
    """

    def __init__(self, networks: Iterable[Network], resolve: Resolve = system_resolve) -> None:
        self._networks, self._resolve = tuple(networks), resolve
        self._threads = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolve")
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def of(self, host: str, port: int, owner: str) -> list[str]:
        """Look up the host's addresses for an owner of jobs; each of them may be called.

        Raises:
            AddressRefused: it has none, or one that may not be.
            LookupFailed: that cannot be told now.
        """
        turns = self._turns.setdefault(owner, asyncio.Semaphore(OWNER_LOOKUPS))
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                await turns.acquire()
                found = list(dict.fromkeys(await asyncio.shield(self._look_up(host, port, turns))))
        except TimeoutError as error:
            raise LookupFailed(f"looking up {host} took over {RESOLVE_SECONDS:g} s") from error
        except (OSError, UnicodeError) as error:
            if isinstance(error, OSError) and error.errno in NO_ANSWER:
                raise LookupFailed(f"looking up {host} failed: {error}") from error
            raise AddressRefused(f"{host} does not exist: {error}") from error
        refused = [address for address in found if not permitted(address, self._networks)]
        if refused or not found:
            raise AddressRefused(f"{host} has {', '.join(refused) or 'no address'}, which may not be called")
        return found

    def _look_up(self, host: str, port: int, turns: asyncio.Semaphore) -> asyncio.Future[Sequence[str]]:
        """A lookup, which gives its turn back when it ends and not when nobody waits for it any longer."""

        def end(lookup: asyncio.Future[Sequence[str]]) -> None:
            turns.release()
            if not lookup.cancelled():
                lookup.exception()  # is known, also when nobody waits for it any longer

        lookup = asyncio.get_running_loop().run_in_executor(self._threads, self._resolve, host, port)
        lookup.add_done_callback(end)
        return lookup

    def close(self) -> None:
        """Wait for no lookup any longer."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class CheckedConnections(httpcore.AsyncNetworkBackend):
    """Connects to a host's judged addresses, for an owner of jobs. TLS and the Host header still go by the name."""

    def __init__(self, addresses: Addresses, owner: str) -> None:
        self._addresses, self._owner, self._network = addresses, owner, httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of a few addresses that accepts.

        Raises:
            AddressRefused, LookupFailed, httpcore.ConnectError.
        """
        failed: Exception | None = None
        for address in (await self._addresses.of(host, port, self._owner))[:ADDRESSES_TRIED]:
            try:
                return await self._network.connect_tcp(
                    address, port, timeout or CONNECT_SECONDS, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed or httpcore.ConnectError(host)
