"""Hosts of private networks, where a public server may lead neither ``download.fetch`` nor huggingface_hub."""

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from fusionerlib.errors import FusionerError

LOCAL_NAMES = ("localhost", "localdomain", "local", "internal", "intranet", "lan", "home", "corp", "home.arpa", "svc")
"""Ends of names that no public server has. A proxy may resolve what this machine can't."""
_CARRIERS = ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "::ffff:0:0:0/96")
"""IPv6 networks whose last 32 bits are an IPv4 address (RFC 6052, 8215, 4291, 2765)."""
_INNER = ("fec0::/10", "5f00::/16", "192.88.99.0/24")
"""Networks that are not public either, and that older versions of Python take for public ones."""


def private(host: str) -> bool:
    """Whether ``host`` is, or has, an address outside the public network, or a name of a local one.

    False for any other name that has no address here.
    """
    name = host.strip("[]").rstrip(".").lower()
    if "%" in name:  # a zone of this machine, or letters that somebody else would decode
        return True
    if any(name == end or name.endswith(f".{end}") for end in LOCAL_NAMES):
        return True
    try:
        found = {str(row[4][0]).partition("%")[0] for row in socket.getaddrinfo(name, None)}
    except (OSError, UnicodeError):
        return "." not in name and ":" not in name
    return not all(_global(ipaddress.ip_address(address)) for address in found)


def _global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        carried = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if carried is None and any(address in ipaddress.ip_network(carrier) for carrier in _CARRIERS):
            carried = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if carried is not None:
            return _global(carried)
    inner = any(address in ipaddress.ip_network(network) for network in _INNER)
    return address.is_global and not address.is_multicast and not inner


class PrivateAddress(FusionerError):
    """The hub sends its caller to an address of a private network."""


class _Guard:
    """huggingface_hub's factory of clients while ``guarded_hub`` is entered; ``users`` counts how often it is."""

    lock, users = threading.Lock(), 0
    before: tuple[Callable[[], Any], bool]


@contextmanager
def guarded_hub() -> Iterator[None]:
    """In the ``with`` block huggingface_hub's client raises PrivateAddress where a public hub leads to a private host.

    By a redirect, or by an address in an answer, as for uploads. A hub that is private itself, such as a mirror that
    HF_ENDPOINT names, may. Files don't come by Xet then, whose client goes where the server says and asks nobody.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import _http

    with _Guard.lock:
        if _Guard.users == 0:
            made = getattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)
            _Guard.before = made, constants.HF_HUB_DISABLE_XET
            set_client_factory(lambda: _watched(made()))
            constants.HF_HUB_DISABLE_XET = True
        _Guard.users += 1
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, PrivateAddress):
            cause = cause.__cause__ or cause.__context__
        if cause is None or cause is error:
            raise
        raise PrivateAddress(str(cause)) from error  # the client has wrapped it into an error of its own
    finally:
        with _Guard.lock:
            _Guard.users -= 1
            if _Guard.users == 0:
                set_client_factory(_Guard.before[0])
                constants.HF_HUB_DISABLE_XET = _Guard.before[1]


def _watched(client: Any) -> Any:
    """huggingface_hub's ``client``, perhaps one of the user's, with ``_refuse_private_host`` before each request."""
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "request": [*hooks.get("request", []), _refuse_private_host]}
    return client


def _refuse_private_host(request: Any) -> None:
    from huggingface_hub import constants

    endpoint = httpx2.URL(constants.ENDPOINT).host
    if request.url.host != endpoint and private(request.url.host) and not private(endpoint):
        raise PrivateAddress(
            f"{endpoint} leads to {request.url.host}, an address of a private network, which is not asked: where a "
            "mirror of the hub there is meant, set the environment variable HF_ENDPOINT to its address"
        )
