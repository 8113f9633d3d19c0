"""Secure aggregation: a server that learns the sum over nodes and of one node nothing.

The protocol is that of Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS
2017), for a server that follows it and looks at everything that it is sent. Every node adds to its integers a mask of
its own and, for each other node, one that the other node subtracts. Before that it deals shares of the seed of its own
mask and of the key of its masks with others to the other nodes (``shamir.py``), encrypted for each of them. In the end
the nodes hand out, of each node that sent its vector, the share of the seed, and of each that fell silent, the share of
the key; of no node both. So the sum is unmasked if ``threshold`` nodes or more stay, and otherwise nothing is.

From Flower (``flwr.common.secure_aggregation``, what its SecAgg+ is made of): the key that two nodes agree on, the
encryption, and the content of what is encrypted. Not from there: the generator of masks, which is seeded with 32 bits
there, so that whoever tries all 2^32 seeds reads a vector, and which never gives the largest value, so that what it
masks is not uniform. Masks are ChaCha20's stream here (RFC 8439), under a key of 256 bits.
"""

from __future__ import annotations

import base64
import secrets as system
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import reduce
from hashlib import sha256

import numpy as np
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat, share_keys_plaintext_separate

from fedvpa.core.errors import DataError
from fedvpa.privacy.quantised import Words
from fedvpa.privacy.shamir import Random, number, secret_of, shares_of
from fedvpa.privacy.thresholds import FEWEST_NODES

CURVE = ec.SECP256R1()


@dataclass(frozen=True, repr=False)
class Secrets:
    """What one node knows alone in one request; 32 bytes each.

    Attributes:
        mask_key: Private key of the masks that it shares with others.
        cipher_key: Private key under which others encrypt for it.
        seed: Of its own mask.
    """

    mask_key: bytes
    cipher_key: bytes
    seed: bytes

    def __repr__(self) -> str:
        return "Secrets(…)"

    @classmethod
    def new(cls, random: Random = system.token_bytes) -> Secrets:
        """Fresh ones, from the operating system unless a test says otherwise."""
        return cls(*(number(random).to_bytes(32) for _ in range(3)))

    @property
    def public(self) -> PublicKeys:
        """What the others are told."""
        return PublicKeys(public_key(self.mask_key), public_key(self.cipher_key), sha256(self.seed).digest())


@dataclass(frozen=True)
class PublicKeys:
    """What a node tells all in one request.

    Attributes:
        mask: The public key to ``mask_key``, as a compressed point of P-256, 33 bytes.
        cipher: The public key to ``cipher_key``.
        seed: The SHA-256 of the seed, which tells nothing of it and by which it is known again.
    """

    mask: bytes
    cipher: bytes
    seed: bytes


@dataclass(frozen=True, repr=False)
class Share:
    """A share of a node's two secrets, as another node holds it.

    Attributes:
        seed: Of the seed of the node's own mask.
        mask_key: Of the private key of its masks with others.
    """

    seed: bytes
    mask_key: bytes

    def __repr__(self) -> str:
        return "Share(…)"


def check_round(nodes: Collection[int], keys: Mapping[int, PublicKeys], threshold: int) -> None:
    """What a node checks before it deals shares: a server that asks for less would learn more than a sum.

    Raises:
        DataError: If there are too few nodes, two of them have the same key, or so few shares give a secret away that
            two separate halves of the nodes could.
    """
    points = {key for one in keys.values() for key in (one.mask, one.cipher)}
    if len(nodes) < FEWEST_NODES or len(points) < 2 * len(nodes):
        raise DataError(f"secure aggregation needs {FEWEST_NODES} nodes with keys of their own")
    if not max(FEWEST_NODES, len(nodes) // 2 + 1) <= threshold <= len(nodes):
        raise DataError(f"a threshold of {threshold} of {len(nodes)} nodes is not safe")


def dealt(me: int, own: Secrets, keys: Mapping[int, PublicKeys], threshold: int) -> tuple[dict[int, bytes], Share]:
    """A node's secrets in shares.

    Args:
        me: The node.
        own: Its secrets.
        keys: Node → its public keys, of all nodes that take part.
        threshold: How many shares give a secret away.

    Returns:
        Other node → the share for it, encrypted so that it alone can read it; and the node's own.
    """
    nodes = sorted(keys)
    seeds = shares_of(own.seed, threshold, len(nodes))
    mask_keys = shares_of(own.mask_key, threshold, len(nodes))
    sealed = {
        other: encrypt(_agreed(own.cipher_key, keys[other].cipher), share_keys_plaintext_concat(me, other, *both))
        for other, *both in zip(nodes, seeds, mask_keys, strict=True)
        if other != me
    }
    place = nodes.index(me)
    return sealed, Share(seeds[place], mask_keys[place])


def opened(me: int, own: Secrets, keys: Mapping[int, PublicKeys], sealed: Mapping[int, bytes]) -> dict[int, Share]:
    """Node → its share, of what the other nodes dealt to this one.

    Raises:
        DataError: If one was changed on its way, or is another node's or meant for another one.
    """
    found = {}
    for other, content in sealed.items():
        try:
            sender, receiver, seed, mask_key = share_keys_plaintext_separate(
                decrypt(_agreed(own.cipher_key, keys[other].cipher), content)
            )
        except InvalidToken as error:
            raise DataError("a share of another node was changed on its way") from error
        if (sender, receiver) != (other, me):
            raise DataError("a share of another node is not what it was sent as")
        found[other] = Share(seed, mask_key)
    return found


def masked(words: Words, me: int, own: Secrets, keys: Mapping[int, PublicKeys]) -> Words:
    """A node's integers, hidden: uniform for whoever lacks its secrets, whatever they are.

    Args:
        words: The integers.
        me: The node.
        own: Its secrets.
        keys: Node → its public keys, of all nodes that dealt shares.
    """
    hidden = words + _stream(own.seed, words)
    for other in sorted(keys.keys() - {me}):
        hidden = _with_pair(hidden, me, other, _pair(own.mask_key, keys[other]))
    return hidden


def unmasked(
    vectors: Mapping[int, Words],
    keys: Mapping[int, PublicKeys],
    seeds: Mapping[int, Collection[bytes]],
    mask_keys: Mapping[int, Collection[bytes]],
) -> Words:
    """The sum of the integers of the nodes that sent theirs.

    Args:
        vectors: Node → its masked vector.
        keys: Node → its public keys, of all nodes that dealt shares.
        seeds: Node → shares of its seed, as many as the threshold or more; of the nodes that sent a vector.
        mask_keys: Node → shares of its key, as many; of the nodes that dealt shares and sent no vector.

    Raises:
        DataError: If shares do not give the secrets that they are of.
    """
    total = reduce(Words.__add__, vectors.values())
    for node in sorted(vectors):
        seed = secret_of(seeds[node])
        if sha256(seed).digest() != keys[node].seed:
            raise DataError("the shares of a seed do not give it")
        total = total - _stream(seed, total)
    for node in sorted(keys.keys() - vectors.keys()):
        key = secret_of(mask_keys[node])
        if public_key(key) != keys[node].mask:
            raise DataError("the shares of a key do not give it")
        for other in sorted(vectors):
            # What the silent node would have added is what the other one's mask lacks to cancel out.
            total = _with_pair(total, node, other, _pair(key, keys[other]))
    return total


def public_key(private: bytes) -> bytes:
    """The public key of a private one.

    Raises:
        DataError: If it is no private key.
    """
    try:
        point = ec.derive_private_key(int.from_bytes(private), CURVE).public_key()
    except ValueError as error:
        raise DataError("the shares of a key do not give it") from error
    return point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _agreed(private: bytes, public: bytes) -> bytes:
    """The key that two nodes agree on (Diffie-Hellman on P-256, HKDF), in URL-safe base64.

    Raises:
        DataError: If the other node's key is none.
    """
    try:
        point = ec.EllipticCurvePublicKey.from_encoded_point(CURVE, public)
    except ValueError as error:
        raise DataError("the public key of a node is none") from error
    return generate_shared_key(ec.derive_private_key(int.from_bytes(private), CURVE), point)


def _pair(private: bytes, other: PublicKeys) -> bytes:
    """The key of the mask that two nodes share, 32 bytes."""
    return base64.urlsafe_b64decode(_agreed(private, other.mask))


def _with_pair(words: Words, node: int, other: int, key: bytes) -> Words:
    """The integers with what ``node`` adds for ``other``: of two nodes the one with the smaller id adds."""
    mask = _stream(key, words)
    return words + mask if node < other else words - mask


def _stream(key: bytes, like: Words) -> Words:
    """Pseudo-random integers, as many as ``like`` has. A key is used once, so its nonce may be 0."""
    wide = like.wide.nbytes
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(wide + like.narrow.nbytes))
    return Words(np.frombuffer(stream, "<u4", offset=wide), np.frombuffer(stream, "<u8", count=len(like.wide)))
