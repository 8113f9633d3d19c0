"""What doctor finds missing in given certificates is what OpenSSL refuses under a strict check."""

from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedvpa.deployment import keys
from fedvpa.deployment.certificates import check_certificates
from fedvpa.deployment.keys import make_keys
from tls_handshake import strict_refusal

HOST = "server.example.org"
Changes = Mapping[type, tuple[x509.ExtensionType, bool] | None]

SIGNING = keys._key_usage(digital_signature=True, key_cert_sign=True)
CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
NO_CA, CA = x509.BasicConstraints(ca=False, path_length=None), x509.BasicConstraints(ca=True, path_length=0)
CRITICAL = "critical"


def rebuilt(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, changes: Changes) -> x509.Certificate:
    """The certificate with some extensions replaced, dropped (None) or made critical (``CRITICAL``)."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.issuer)
        .public_key(certificate.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
    )
    for extension in certificate.extensions:
        kind = type(extension.value)
        found = changes.get(kind, (extension.value, extension.critical))
        if found == CRITICAL:
            found = (extension.value, True)
        if found is not None:
            builder = builder.add_extension(found[0], critical=found[1])
    return builder.sign(key, hashes.SHA384())


@pytest.fixture
def change(tmp_path: Path):
    """Change the extensions of a certificate of a new export."""

    def changed(name: str, changes: Changes) -> Path:
        apart = make_keys(tmp_path / "keys", host=HOST, nodes=1)
        key = serialization.load_pem_private_key((apart / "ca.key").read_bytes(), None)
        path = tmp_path / "keys" / f"{name}.crt"
        new = rebuilt(x509.load_pem_x509_certificate(path.read_bytes()), key, changes)
        path.write_bytes(new.public_bytes(serialization.Encoding.PEM))
        return tmp_path / "keys"

    return changed


CASES = [
    ("server", {x509.AuthorityKeyIdentifier: None}, "has no authority key identifier"),
    ("server", {x509.AuthorityKeyIdentifier: CRITICAL}, "has a critical authority key identifier"),
    ("server", {x509.SubjectKeyIdentifier: CRITICAL}, "has a critical subject key identifier"),
    ("server", {x509.ExtendedKeyUsage: (CLIENT, False)}, "has an extended key usage without TLS server"),
    ("server", {x509.KeyUsage: (SIGNING, True)}, "lets it sign certificates, and is no CA's"),
    ("ca", {x509.SubjectKeyIdentifier: None}, "has no subject key identifier"),
    ("ca", {x509.BasicConstraints: (CA, False)}, "has basic constraints that are not critical"),
    ("ca", {x509.BasicConstraints: (NO_CA, True)}, "has no basic constraints that make it a CA"),
    ("ca", {x509.KeyUsage: None}, "has no key usage that lets it sign certificates"),
    ("ca", {x509.KeyUsage: (keys._key_usage(digital_signature=True), True)}, "has no key usage that lets it sign"),
    ("ca", {x509.SubjectKeyIdentifier: CRITICAL}, "has a critical subject key identifier"),
]
FINE = [
    ("server", {}),
    ("server", {x509.SubjectKeyIdentifier: None}),
    ("server", {x509.ExtendedKeyUsage: None}),
    ("server", {x509.KeyUsage: None}),
    ("server", {x509.BasicConstraints: None}),
    ("ca", {x509.AuthorityKeyIdentifier: None}),
]


@pytest.mark.reference
@pytest.mark.parametrize(("name", "changes", "said"), CASES)
def test_what_openssl_refuses_is_found_with_what_to_do(name: str, changes: Changes, said: str, change):
    folder = change(name, changes)
    assert strict_refusal(folder, HOST) is not None, "the case is none"
    problems = [one for one in check_certificates(folder).problems if one.startswith(f"{folder / name}.crt: has")]
    assert len(problems) == 1, problems
    assert said in problems[0]
    assert "Python 3.13 and later refuse such a certificate. Make others with fedvpa export keys" in problems[0]


@pytest.mark.reference
@pytest.mark.parametrize(("name", "changes"), FINE)
def test_what_openssl_accepts_is_no_problem(name: str, changes: Changes, change):
    folder = change(name, changes)
    assert strict_refusal(folder, HOST) is None
    assert check_certificates(folder, HOST).problems == ()
