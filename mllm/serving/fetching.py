"""Fetching an image from a public address of the network, and from no other."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from contextlib import closing, suppress
from http.client import HTTPConnection
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from data.errors import InputError, shorten, translated

REDIRECTS = 5
_GLOBAL = ipaddress.ip_network("2000::/3")  # without what stands for an IPv4 address, such as 64:ff9b::/96


def fetch(url: str, most: int, seconds: float, anywhere: bool = False) -> bytes:
    """Fetches what is at an http(s) address.

    Each host, a redirect's too, is looked up once, and it is connected to the address that was looked at: what a name
    means a moment later does not count. Proxies of the environment are not used.

    Args:
        most: bytes.
        seconds: for all of it.
        anywhere: also from hosts that are not public, as a person may who asks for it.

    Raises:
        InputError: there is no such thing, it is larger or takes longer, or it leads to a host that is not public.
    """
    name, end = shorten(url, 100), time.monotonic() + seconds
    with translated(f"image_url {name}"):
        for _ in range(REDIRECTS + 1):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
                raise InputError(f"image_url {name}: leads to what is no plain http(s) address")
            content, moved = _get(parts, most, end, anywhere)
            if moved is None:
                return content
            url = urljoin(url, moved)
        raise InputError(f"image_url {name}: is redirected more than {REDIRECTS} times")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public network: not private, loopback, link-local or for several hosts."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and (ip not in _GLOBAL or ip.sixtofour or ip.teredo):
        return False
    return ip.is_global and not ip.is_multicast


def _get(parts: SplitResult, most: int, end: float, anywhere: bool) -> tuple[bytes, str | None]:
    """Returns the content of an address, or where it has moved to."""
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    if not (anywhere or all(map(is_public, found))):
        raise InputError(f"image_url {shorten(parts.geturl(), 100)}: {host} is no host of the public network")
    left = max(end - time.monotonic(), 0.01)
    with socket.create_connection((min(found), port), timeout=left) as plain:
        ender = threading.Timer(left, _shut, (plain,))  # a timeout alone is for each piece that drips in
        ender.start()
        try:
            secure = parts.scheme == "https"
            connected = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
            with closing(HTTPConnection(host, port)) as connection:
                connection.sock = connected
                target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (f"?{parts.query}" if parts.query else "")
                connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "mllm"})
                return _read(connection, most)
        finally:
            ender.cancel()


def _read(connection: HTTPConnection, most: int) -> tuple[bytes, str | None]:
    response = connection.getresponse()
    moved = response.getheader("location")
    if response.status in (301, 302, 303, 307, 308) and moved:
        return b"", moved
    if response.status != 200:
        raise InputError(f"image_url: the server answers {response.status} {shorten(response.reason, 60)}")
    content = response.read(most + 1)
    if len(content) > most:
        raise InputError(f"image_url: has more than {most:,} bytes")
    return content, None


def _shut(plain: socket.socket) -> None:
    with suppress(OSError):
        plain.shutdown(socket.SHUT_RDWR)
