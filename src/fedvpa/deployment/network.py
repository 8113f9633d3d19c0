"""Ports, connections and clocks of a federation, checked before Flower needs them."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path

from fedvpa.core.errors import ConfigError
from fedvpa.engines.flower.clocks import AHEAD_SECONDS, BEHIND_SECONDS, BOUNDS, clock_words

PORTS = {"flower-superlink": 8000, "flower-supernode": 9094}
"""Where Flower's programs listen unless told otherwise."""

STRICT_ADVICE = (
    "Python 3.13 and later refuse such a certificate. Make others with fedvpa export keys, or ask who issued it for "
    "one with subject and authority key identifiers, basic constraints and key usages (RFC 5280, 4.2.1)."
)
"""What to do about a certificate that only a strict check refuses."""

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
            return (
                f"{number} is {what}: if that is not {program} itself, start it with --port and another one, as "
                f"every further {program} of this machine"
            )
    return f"{number} is free"


def reach(address: str, authority: Path | None = None) -> str | None:
    """Try to connect to a SuperLink, as a Python that checks certificates strictly would (3.13 and later).

    Args:
        address: ``HOST:PORT``.
        authority: The CA's certificate; without it TLS is not tried.

    Returns:
        What is wrong and what to do; None if nothing is.

    Raises:
        ConfigError: If the address is none.
    """
    host, port = endpoint(address)
    try:
        with socket.create_connection((host, port), timeout=SECONDS) as plain:
            if authority is None:
                return None
            with _context(authority, strict=True).wrap_socket(plain, server_hostname=host):
                return None
    except ssl.SSLCertVerificationError as error:
        return _refused(address, error, authority)
    except ssl.SSLError as error:
        return f"{address}: answers, but not with TLS ({error.reason}). Start flower-superlink with --ssl-certfile."
    except OSError as error:
        reason = error.strerror or str(error)
        return f"{address}: no SuperLink answers ({reason}). Check that it runs there, and that no firewall is between."


def endpoint(address: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``.

    Raises:
        ConfigError: If it is none.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{address!r} is no address.", fix="Write HOST:PORT, as in server.example.org:9092.")
    return host, int(port)


def clock_difference(address: str, now: Callable[[], float] = time.time) -> float | None:
    """How far this machine's clock is ahead of a SuperLink's, in seconds, negative if it is behind.

    The SuperLink puts its time into every answer (``Date``, RFC 9110, 6.6.1), in whole seconds. The difference is exact
    to half a second and half the time that the answer took. Nothing is sent that needs trust: the certificate is not
    checked here.

    Args:
        address: ``HOST:PORT``.
        now: This machine's clock.

    Returns:
        The difference; None if no time came back.
    """
    host, port = endpoint(address)
    for connection in (
        http.client.HTTPSConnection(host, port, timeout=SECONDS, context=_context(None)),
        http.client.HTTPConnection(host, port, timeout=SECONDS),
    ):
        with closing(connection):
            try:
                sent = now()
                connection.request("GET", "/health")
                told = connection.getresponse().getheader("Date")
                received = now()
            except (OSError, http.client.HTTPException):
                continue
            try:
                theirs = parsedate_to_datetime(told or "").timestamp()
            except ValueError:
                continue
            return (sent + received) / 2 - (theirs + 0.5)
    return None


def clock_problem(address: str, ahead: float) -> str | None:
    """What is wrong with a clock that is so far ahead of the SuperLink's; None if Flower accepts it."""
    if -BEHIND_SECONDS < ahead < AHEAD_SECONDS:
        return None
    return f"{address}: this machine's clock is {clock_words(ahead)}. {BOUNDS}, and retries for ever: set it by NTP."


def _context(authority: Path | None, *, strict: bool = False) -> ssl.SSLContext:
    """A client's side of TLS that trusts a CA, or everybody."""
    if authority is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context = ssl.create_default_context(cafile=str(authority))
    context.verify_flags |= ssl.VERIFY_X509_STRICT if strict else ssl.VerifyFlags(0)
    return context


def _refused(address: str, error: ssl.SSLCertVerificationError, authority: Path | None) -> str:
    """Why a certificate is refused: by everybody, or by a strict Python alone."""
    said = f"{address}: its certificate is refused: {error.verify_message}."
    if authority is not None and _accepted_without_strictness(address, authority):
        return f"{said} {STRICT_ADVICE}"
    return f"{said} Take ca.crt from the server's export, or make new ones with fedvpa export keys."


def _accepted_without_strictness(address: str, authority: Path) -> bool:
    host, port = endpoint(address)
    context = _context(authority)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # which Python sets by itself from 3.13 on
    try:
        with (
            socket.create_connection((host, port), timeout=SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except OSError:
        return False
