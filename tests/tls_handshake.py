"""A TLS handshake in memory, checked as strictly as Python checks from 3.13 on."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path


def strict_refusal(keys: Path, host: str) -> str | None:
    """Why a client that trusts ``ca.crt`` refuses ``server.crt`` for ``host``; None if it does not."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(keys / "server.crt", keys / "server.key")
    trusting = ssl.create_default_context(cafile=str(keys / "ca.crt"))
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = trusting.wrap_bio(down, up, server_hostname=host), serving.wrap_bio(up, down, server_side=True)
    try:
        for side in (client, server, client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    assert server.version() == client.version() == "TLSv1.3"
    return None
