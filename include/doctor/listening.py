"""Which addresses a port is listened on, from the kernel's own tables."""

from __future__ import annotations

import ipaddress
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"
_WORD_CHARS = 8


def listening_addresses(port: int) -> list[str]:
    """Return the addresses of this machine on which somebody listens at a TCP port.

    Source: the kernel's document proc_net_tcp; addresses are 32-bit words in the machine's byte order.
    """
    found = []
    for table in _TABLES:
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        fields = [line.split() for line in lines]
        found += [_address(local) for _, local, _, state, *_ in fields if state == _LISTEN and _port(local) == port]
    return sorted(set(found))


def open_to_others(addresses: list[str]) -> list[str]:
    """Return the addresses that other machines can reach.

    >>> open_to_others(["127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"])
    ['0.0.0.0', '::']
    """
    return [text for text in addresses if not _is_loopback(text)]


def _is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _port(local: str) -> int:
    return int(local.rpartition(":")[2], 16)


def _address(local: str) -> str:
    text = local.rpartition(":")[0]
    words = [text[start : start + _WORD_CHARS] for start in range(0, len(text), _WORD_CHARS)]
    raw = b"".join(bytes.fromhex(word)[::-1] for word in words)
    return str(ipaddress.ip_address(raw))
