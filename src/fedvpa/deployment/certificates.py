"""Whether the certificates and keys of a federation will work, before Flower refuses them."""

from __future__ import annotations

import datetime
import ipaddress
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from fedvpa.deployment.network import STRICT_ADVICE
from fedvpa.deployment.strict import authority_faults, server_faults

Loaded = TypeVar("Loaded")

Chain = list[x509.Certificate]


@dataclass(frozen=True)
class Certificates:
    """What a folder of certificates and keys holds.

    Attributes:
        expires: File → the day on which the first certificate in it ends, as ``YYYY-MM-DD``.
        hosts: The names and addresses that the server's certificate is valid for.
        problems: What will not work, and what to do.
    """

    expires: dict[str, str]
    hosts: tuple[str, ...]
    problems: tuple[str, ...]


def check_certificates(folder: Path, host: str | None = None, now: datetime.datetime | None = None) -> Certificates:
    """Check a folder as ``fedvpa export keys`` writes it, or what of it a server or a node was given.

    Certificates must be readable, in date, complete enough for a strict check and, for the server's, issued by
    ``ca.crt`` and valid for ``host``; keys must match their certificate or public key, and be readable by their owner
    alone. The CA's own key must not be there.

    Args:
        folder: With ``ca.crt`` and, as far as this machine has them, ``server.crt``, ``server.key``, and the ``.key``
            and ``.pub`` of nodes.
        host: The name or address under which nodes reach the server; not checked if not given.
        now: The time to check for; the present if not given.
    """
    if not (folder / "ca.crt").is_file():
        fix = "Make one with fedvpa export keys, or copy the federation's here."
        return Certificates({}, (), (f"{folder}: there is no ca.crt. {fix}",))
    problems: list[str] = []
    found = {name: _read(folder / name, _certificates, problems) for name in ("ca.crt", "server.crt")}
    chains = {name: chain for name, chain in found.items() if chain}
    for name, chain in chains.items():
        problems += _in_date(folder / name, chain, now or datetime.datetime.now(datetime.UTC))
    problems += _incomplete(folder, chains)
    authority, server = chains.get("ca.crt"), chains.get("server.crt")
    hosts = _hosts(server[0]) if server else ()
    if authority and server and not _issued(server, authority):
        problems.append(
            f"{folder / 'server.crt'}: ca.crt has not issued it, so nodes will refuse the server. Take both from the "
            "same export, or append the certificates in between to server.crt."
        )
    if server and host is not None and not any(_covers(name, host) for name in hosts):
        problems.append(
            f"{folder / 'server.crt'}: is valid for {', '.join(hosts) or 'no name'}, and not for {host}. Make another "
            f"with fedvpa export keys --host {shlex.quote(host)}, or let nodes use a name that it has."
        )
    problems += _keys(folder, server)
    if (folder / "ca.key").exists():
        problems.append(
            f"{folder / 'ca.key'}: whoever has it can pass for the server, and no machine of the federation needs it. "
            "Move it to a place apart."
        )
    ends = {name: min(one.not_valid_after_utc for one in chain).date().isoformat() for name, chain in chains.items()}
    return Certificates(ends, hosts, tuple(problems))


def _incomplete(folder: Path, chains: Mapping[str, Chain]) -> Iterator[str]:
    """What a strict check would refuse."""
    for name, chain in chains.items():
        for place, one in enumerate(chain):
            leaf = name == "server.crt" and place == 0
            faults = server_faults(one) if leaf else authority_faults(one, root=name == "ca.crt")
            if faults:
                yield f"{folder / name}: {', '.join(faults)}. {STRICT_ADVICE}"


def _keys(folder: Path, server: Chain | None) -> Iterator[str]:
    for path in sorted(path for path in folder.glob("*.key") if path.name != "ca.key"):
        problems: list[str] = []
        public = _read(path, _public_of_private, problems)
        yield from problems
        if path.stat().st_mode & 0o077:
            yield f"{path}: others on this machine can read it. chmod 600 {shlex.quote(str(path))}"
        theirs = path.with_suffix(".pub")
        if path.name == "server.key":
            other, expected = "server.crt", _raw(server[0].public_key()) if server else None
        else:
            other, expected = theirs.name, _read(theirs, _public, problems := []) if theirs.exists() else None
            yield from problems
        if public is not None and expected is not None and public != expected:
            yield f"{path}: does not belong to {other}. Take both from the same export."


def _read(path: Path, load: Callable[[bytes], Loaded], problems: list[str]) -> Loaded | None:
    """What ``path`` holds; None if it does not exist, or if it cannot be read, which is a problem then."""
    if not path.exists():
        return None
    try:
        return load(path.read_bytes())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged, encrypted, or not a PEM file"
        problems.append(f"{path}: cannot be read: {reason}. Copy it again.")
        return None


def _certificates(text: bytes) -> Chain:
    return x509.load_pem_x509_certificates(text)


def _public_of_private(text: bytes) -> bytes:
    ssh = b"OPENSSH" in text
    load = serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key
    return _raw(load(text, password=None).public_key())


def _public(text: bytes) -> bytes:
    return _raw(serialization.load_ssh_public_key(text))


def _raw(key: object) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_bytes(serialization.Encoding.DER, form))  # type: ignore[attr-defined]


def _in_date(path: Path, chain: Chain, now: datetime.datetime) -> Iterator[str]:
    for one in chain:
        if one.not_valid_after_utc < now:
            yield f"{path}: expired on {one.not_valid_after_utc:%Y-%m-%d}. Make another with fedvpa export keys."
        if one.not_valid_before_utc > now:
            yield f"{path}: is valid from {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on. Check this machine's clock."


def _issued(chain: Chain, roots: Sequence[x509.Certificate]) -> bool:
    """Whether each certificate of a chain has issued the one before it, and one of the roots the last."""
    return all(_issued_by(*pair) for pair in pairwise(chain)) and any(_issued_by(chain[-1], root) for root in roots)


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    )


def _covers(name: str, host: str) -> bool:
    """Whether a name of a certificate covers a host; ``*`` stands for the first label, as in RFC 9525."""
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(name)
    except ValueError:
        first, _, rest = host.lower().partition(".")
        return name.lower() in (host.lower(), f"*.{rest}" if first and rest else None)
