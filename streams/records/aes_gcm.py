"""Payloads sealed with AES-256-GCM, under a key that is named in each, so that keys can be exchanged.

A sealed payload is: length and name of the key, a nonce of 12 random bytes, ciphertext with its tag (NIST SP 800-38D).
Random nonces are good for some 2^32 payloads a key; exchange it long before. Needs the extra `encryption`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from streams.errors import CodecError, UnknownSchema

KEY_BYTES, NONCE_BYTES = 32, 12
MAX_NAME_BYTES = 255


class AesGcm:
    """A `PayloadCodec`.

    Args:
        keys: Name to 32 bytes; all that payloads may still be sealed with.
        current: Name of the key for what is written from now on.
    """

    def __init__(self, keys: Mapping[str, bytes], current: str) -> None:
        self._ciphers = {name.encode(): AESGCM(key) for name, key in keys.items()}
        self._name = current.encode()
        self._head = bytes([len(self._name)]) + self._name

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Return *data* sealed with the current key."""
        nonce = os.urandom(NONCE_BYTES)
        return self._head + nonce + self._ciphers[self._name].encrypt(nonce, data, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Return what was sealed, with the key that it names.

        Raises:
            UnknownSchema: The key is not here.
            CodecError: It was changed, or is of another record or field.
        """
        size = sealed[0] if sealed else 0
        name, rest = sealed[1 : 1 + size], sealed[1 + size :]
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise UnknownSchema(
                f"a payload is sealed with key {name.decode(errors='replace')!r}, which this process does not have; "
                "add it to STREAMS_ENCRYPTION__KEYS"
            )
        try:
            return cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise CodecError("a sealed payload was changed, or belongs to another record or field") from None
