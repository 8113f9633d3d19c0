"""What a certificate lacks for the strict check of Python 3.13 and later (``ssl.VERIFY_X509_STRICT``).

Older Pythons, and the openssl command without ``-x509_strict``, accept it, so that a federation works until its first
machine with a newer Python. The rules are those of RFC 5280, 4.2.1, as OpenSSL 3 checks them (``check_extensions`` of
``x509_vfy.c``), and what TLS asks of a server: a test compares them with OpenSSL's own verdict.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

Kind = TypeVar("Kind", bound=x509.ExtensionType)


def authority_faults(certificate: x509.Certificate, *, root: bool) -> list[str]:
    """What is wrong with the certificate of a CA.

    Args:
        certificate: The CA's.
        root: Whether nodes are given it to trust; a CA between it and the server needs more.
    """
    return [*_authority(certificate), *([] if root else _issued(certificate)), *_criticality(certificate)]


def server_faults(certificate: x509.Certificate) -> list[str]:
    """What is wrong with the certificate of a server."""
    return [*_server(certificate), *_issued(certificate), *_criticality(certificate)]


def _authority(certificate: x509.Certificate) -> Iterator[str]:
    basic, usage = _find(certificate, x509.BasicConstraints), _find(certificate, x509.KeyUsage)
    if basic is None or not basic.value.ca:
        yield "has no basic constraints that make it a CA"
    elif not basic.critical:
        yield "has basic constraints that are not critical"
    if usage is None or not usage.value.key_cert_sign:
        yield "has no key usage that lets it sign certificates"
    if _find(certificate, x509.SubjectKeyIdentifier) is None:
        yield "has no subject key identifier"


def _server(certificate: x509.Certificate) -> Iterator[str]:
    basic, usage = _find(certificate, x509.BasicConstraints), _find(certificate, x509.KeyUsage)
    signs = usage is not None and usage.value.key_cert_sign
    if signs and not (basic is not None and basic.value.ca):
        yield "has a key usage that lets it sign certificates, and is no CA's"
    if usage is not None and not (usage.value.digital_signature or usage.value.key_agreement):
        yield "has a key usage without digital signature, which TLS needs"
    extended = _find(certificate, x509.ExtendedKeyUsage)
    wanted = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if extended is not None and not wanted & set(extended.value):
        yield "has an extended key usage without TLS server"


def _issued(certificate: x509.Certificate) -> Iterator[str]:
    identifier = _find(certificate, x509.AuthorityKeyIdentifier)
    if identifier is None or identifier.value.key_identifier is None:
        yield "has no authority key identifier"


def _criticality(certificate: x509.Certificate) -> Iterator[str]:
    for kind, name in (
        (x509.SubjectKeyIdentifier, "subject key identifier"),
        (x509.AuthorityKeyIdentifier, "authority key identifier"),
    ):
        found = _find(certificate, kind)
        if found is not None and found.critical:
            yield f"has a critical {name}"


def _find(certificate: x509.Certificate, kind: type[Kind]) -> x509.Extension[Kind] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
