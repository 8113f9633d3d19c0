"""Certificates and keys for a federation of your own: a CA, the server's certificate, a key pair per node.

For organisations without a certificate authority of their own. A ``*.key`` file never leaves the machine that it was
made on: each node makes its own key pair, and sends its ``.pub`` alone to where the SuperLink is. The CA's own key lies
in a folder apart, because no machine of the federation needs it, and whoever has it can pass for the server.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.files import output_folder, storing
from fedvpa.core.options import option

DAYS = 365
"""How long certificates are valid. Chosen by us."""

MOST_NODES = 10_000
"""Keys made at once. Chosen by us: more is a slip of the keyboard."""

NODE = "node"
"""What a node's key is called unless it is given a name."""

_KEY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.IGNORECASE)
_LONGEST_NAME = 64
"""Of a common name (X.520)."""


@dataclass(frozen=True)
class NodeKey:
    """The key pair of a node.

    Attributes:
        private: The private key's file, which only its owner can read.
        public: The public key's, which goes to where the SuperLink is.
        fingerprint: Of the public key, as ``ssh-keygen -lf`` prints it: equal on both machines if it arrived whole.
    """

    private: Path
    public: Path
    fingerprint: str


def make_node_key(folder: Path, name: str = NODE) -> NodeKey:
    """Write ``<name>.key`` and ``<name>.pub``, on the node that they are for.

    Flower wants a key on a NIST curve, the private one as PKCS 8 or OpenSSH writes it, and the public one as OpenSSH.

    Args:
        folder: Where to; other files may be there.
        name: What to call them; the server's operator sees it as the name of the file.

    Raises:
        ConfigError: If ``name`` cannot name the files, or names the server's or the CA's key.
        RunError: If there is such a key already.
        StorageError: If the folder cannot be written to.
    """
    if not _KEY_NAME.fullmatch(name) or name in ("server", "ca"):
        fix = "Take letters, digits, dots, dashes and underscores, and not 'server' or 'ca', which name other keys."
        raise ConfigError(f"{option('name', repr(name))} cannot name the key of a node.", fix=fix)
    folder = output_folder(folder, "keys")
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    for path in (private, public):
        if path.exists():
            fix = f"Use it, or give another {option('name')}: a node with a new key is a new node to the SuperLink."
            raise RunError("there is such a key already.", fix=fix, where=str(path))
    key = ec.generate_private_key(ec.SECP384R1())
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    with storing(private):
        folder.mkdir(parents=True, exist_ok=True)
        _write_secret(private, key, serialization.PrivateFormat.OpenSSH)
        public.write_bytes(line + b"\n")
    return NodeKey(private, public, _fingerprint(line))


def _fingerprint(line: bytes) -> str:
    """Of a public key as OpenSSH writes it: ``SHA256:`` and the hash of its blob in base64, without padding."""
    blob = base64.b64decode(line.split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def make_keys(folder: Path, *, host: str, nodes: int = 0) -> Path:
    """Write ``ca.crt``, ``server.crt`` and ``server.key``.

    Args:
        folder: Where to; must be empty or not exist, as must ``<folder>-ca`` beside it.
        host: The name or address under which nodes reach the server; the certificate is valid for it alone.
        nodes: For how many nodes to write ``node-<i>.key`` and ``node-<i>.pub`` too, in a federation that one person
            tries out. Elsewhere nodes make their own: see :func:`make_node_key`.

    Returns:
        ``<folder>-ca``, with ``ca.key`` in it.

    Raises:
        ConfigError: If there are less than no nodes, or far too many, or ``host`` is neither a name nor an address.
        RunError: If a folder holds files.
    """
    if not 0 <= nodes <= MOST_NODES:
        fix = f"Give {option('nodes')} from 0 to {MOST_NODES}."
        raise ConfigError(f"There are no keys for {nodes} nodes.", fix=fix)
    check_host(host)
    folder = folder.absolute()
    apart = folder.with_name(f"{folder.name}-ca")
    for place in (folder, apart):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            what = "holds files already." if place.is_dir() else "is a file, and keys need a folder."
            raise RunError(what, fix="Choose an empty folder.", where=str(place))
    folder.mkdir(parents=True, exist_ok=True)
    apart.mkdir(mode=0o700, exist_ok=True)
    authority, server = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    issuer = _name("fedvpa federation CA")
    root = _authority_builder(issuer, authority)
    certificate = _server_builder(host, server, issuer, authority)
    for name, builder in (("ca", root), ("server", certificate)):
        signed = builder.sign(authority, hashes.SHA384())
        (folder / f"{name}.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    _write_secret(apart / "ca.key", authority, serialization.PrivateFormat.PKCS8)
    _write_secret(folder / "server.key", server, serialization.PrivateFormat.PKCS8)
    for number in range(nodes):
        make_node_key(folder, f"{NODE}-{number}")
    return apart


def check_host(host: str) -> None:
    """Raise ConfigError if a certificate cannot name a host: it is neither an address nor a DNS name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if len(host) > 253 or not all(map(_LABEL.fullmatch, host.removesuffix(".").split("."))):
            raise ConfigError(
                f"{host!r} is no name or address of a server.",
                fix="Give it without a port, as in --host server.example.org; a name with other letters as xn--….",
            ) from None


def _write_secret(path: Path, key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> None:
    """Write a private key that its owner alone can read."""
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _authority_builder(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    """The CA's own certificate: it signs certificates and revocation lists, and none of them may sign others."""
    return (
        _builder(name, key, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    )


def _server_builder(
    host: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    """The server's certificate: valid for ``host`` alone, and for nothing but a TLS server."""
    return (
        _builder(_name(host if len(host) <= _LONGEST_NAME else "fedvpa server"), key, issuer, issuer_key)
        .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    """What both certificates have; RFC 5280, 4.2.1 wants both key identifiers, and Python 3.13 refuses one without."""
    now = datetime.datetime.now(datetime.UTC)
    public, issuer_public = key.public_key(), issuer_key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public), critical=False)
    )
