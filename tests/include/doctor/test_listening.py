from __future__ import annotations

import socket

from include.doctor.listening import listening_addresses, open_to_others


def test_tells_loopback_from_all_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as private, socket.create_server(("0.0.0.0", 0)) as public:
        own, everywhere = (listening_addresses(listener.getsockname()[1]) for listener in (private, public))

    assert (own, open_to_others(own)) == (["127.0.0.1"], [])
    assert (everywhere, open_to_others(everywhere)) == (["0.0.0.0"], ["0.0.0.0"])


def test_a_free_port_has_no_address(free_port: int) -> None:
    assert listening_addresses(free_port) == []


def test_the_newer_protocol_is_seen_too() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        assert listening_addresses(listener.getsockname()[1]) == ["::1"]
