"""Ports and connections of a federation, checked before Flower needs them."""

from __future__ import annotations

import errno
import socket
import ssl
from pathlib import Path

from fedvpa.core.errors import ConfigError

PORTS = {"flower-superlink": 8000, "flower-supernode": 9094}
"""Where Flower's programs listen unless told otherwise."""

SECONDS = 5.0
"""How long a connection may take. Chosen by us."""


def ports() -> dict[str, str]:
    """Program → whether its port is free on loopback and, if not, what to do."""
    return {program: _port(program, number) for program, number in PORTS.items()}


def _port(program: str, number: int) -> str:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", number))
        except OSError as error:
            what = "in use" if error.errno == errno.EADDRINUSE else f"not to be had ({error.strerror})"
            return f"{number} is {what}: if that is not {program} itself, start it with --port and another one"
    return f"{number} is free"


def reach(address: str, authority: Path | None = None) -> str | None:
    """Try to connect to a SuperLink.

    Args:
        address: ``HOST:PORT``.
        authority: The CA's certificate; without it TLS is not tried.

    Returns:
        What is wrong and what to do; None if nothing is.

    Raises:
        ConfigError: If the address is none.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{address!r} is no address.", fix="Write HOST:PORT, as in server.example.org:9092.")
    try:
        with socket.create_connection((host, int(port)), timeout=SECONDS) as plain:
            if authority is not None:
                with ssl.create_default_context(cafile=str(authority)).wrap_socket(plain, server_hostname=host):
                    pass
    except ssl.SSLCertVerificationError as error:
        return (
            f"{address}: its certificate is refused: {error.verify_message}. Take ca.crt from the server's export, "
            "or make new ones with fedvpa export keys."
        )
    except ssl.SSLError as error:
        return f"{address}: answers, but not with TLS ({error.reason}). Start flower-superlink with --ssl-certfile."
    except OSError as error:
        reason = error.strerror or str(error)
        return f"{address}: no SuperLink answers ({reason}). Check that it runs there, and that no firewall is between."
    return None
