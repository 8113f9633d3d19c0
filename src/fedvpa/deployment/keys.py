"""Certificates and keys for a federation of your own: a CA, the server's certificate, a key pair per node.

For organisations without a certificate authority of their own. Keep the ``*.key`` files secret: give each node its own
key pair and ``ca.crt``, and nothing else.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedvpa.core.errors import ConfigError, RunError

DAYS = 365
"""How long certificates are valid. Chosen by us."""


def make_keys(folder: Path, *, host: str, nodes: int) -> None:
    """Write ``ca.crt``, ``ca.key``, ``server.crt``, ``server.key`` and for each node ``node-<i>.key`` and ``.pub``.

    Args:
        folder: Where to; must be empty or not exist.
        host: The name or address under which nodes reach the server; the certificate is valid for it alone.
        nodes: How many nodes.

    Raises:
        ConfigError: If there is no node.
        RunError: If ``folder`` holds files.
    """
    if nodes < 1:
        raise ConfigError("There is no node to make a key for.", fix="Give --nodes.")
    if folder.exists() and any(folder.iterdir()):
        raise RunError("holds files already.", fix="Choose an empty folder.", where=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    authority, server = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    issuer = _name("fedvpa federation CA")
    root = _authority_builder(issuer, authority)
    certificate = _server_builder(host, server, issuer, authority)
    for name, builder in (("ca", root), ("server", certificate)):
        signed = builder.sign(authority, hashes.SHA384())
        (folder / f"{name}.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    _write_secret(folder / "ca.key", authority, serialization.PrivateFormat.PKCS8)
    _write_secret(folder / "server.key", server, serialization.PrivateFormat.PKCS8)
    for number in range(nodes):
        key = ec.generate_private_key(ec.SECP384R1())
        _write_secret(folder / f"node-{number}.key", key, serialization.PrivateFormat.OpenSSH)
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        (folder / f"node-{number}.pub").write_bytes(public + b"\n")


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
        _builder(_name(host), key, issuer, issuer_key)
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
