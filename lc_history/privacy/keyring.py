r"""Keys that seal what is stored: encrypted and bound to its place; what was moved, swapped or altered is refused.

The cipher is AES-256-GCM-SIV. Many processes seal under one key, and virtual machines are restored from snapshots: a
nonce that repeats costs AES-GCM its key, and GCM-SIV no more than the news that two texts were equal. It is fast enough
(4 us for 800 bytes), and where OpenSSL lacks it no keyring can be made: there is no weaker second choice.

    \xffLH1   length of the key's id (1 byte)   the id   nonce (12)   ciphertext (as long as the plaintext)   tag (16)

All of it is authenticated, together with the context. A record that is put back in its own place, as it once was
there, opens.
"""

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Self

from typing_extensions import override

from lc_history.errors import DecodeError, extra
from lc_history.model import SessionKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

SEAL: Final = b"\xffLH"
"""How a sealed body begins, and neither UTF-8 nor JSON ever does."""
VERSION: Final = b"1"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

_KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY_TEXT: Final = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")


class Keyring:
    """One key that seals, and any number of older ones that still open.

    keys: ids, which are stored beside what they sealed, and at least 32 random bytes each.
    current: the id of the key that seals from now on.

    `MissingExtraError` without the package ``cryptography``, `ValueError` for keys that are too short.

    >>> keys = Keyring({"2026-11": bytes(32)}, current="2026-11")
    >>> sealed = keys.seal(b"hello", bind("a place"))
    >>> keys.open(sealed, bind("a place"))
    b'hello'
    >>> keys.open(sealed, bind("another place"))
    Traceback (most recent call last):
    lc_history.errors.DecodeError: altered, or moved here from another place, or another key is called '2026-11'
    """

    def __init__(self, keys: Mapping[str, bytes], current: str) -> None:
        for key_id, key in keys.items():
            _check_key(key_id, key)
        if current not in keys:
            raise ValueError(f"the current key {current!r} is not among the keys: {', '.join(keys) or 'none'}")
        self._keys = dict(keys)
        self._ciphers = {key_id: _cipher(key) for key_id, key in keys.items()}
        self.current = current

    @classmethod
    def generate(cls, key_id: str = "1") -> Self:
        """Return a keyring of one new random key; keep its `to_env` in a safe place before anything is sealed."""
        return cls({key_id: os.urandom(KEY_BYTES)}, current=key_id)

    @classmethod
    def from_env(cls, variable: str = "LC_HISTORY_KEYS") -> Self:
        """Read ``id:base64,id:base64`` from an environment variable: the first seals, the others open.

        `ValueError` where it is not set or not of that form; the message never contains a key.
        """
        pairs = [pair.strip().partition(":") for pair in os.environ.get(variable, "").split(",")]
        keys: dict[str, bytes] = {}
        for number, (key_id, _, text) in enumerate(pairs, start=1):
            if key_id in keys or not _KEY_TEXT.fullmatch(text):
                raise ValueError(f"{variable}: entry {number} is no new id:base64; expected id:base64,id:base64,...")
            padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
            try:
                keys[key_id] = urlsafe_b64decode(padded.translate(str.maketrans("+/", "-_")))
            except ValueError:
                raise ValueError(f"{variable}: the key of entry {number} is not base64") from None
        return cls(keys, current=pairs[0][0])

    def to_env(self) -> str:
        """Return the keys themselves, in the form that `from_env` reads: a secret."""
        ordered = sorted(self._keys, key=lambda key_id: key_id != self.current)
        return ",".join(f"{key_id}:{urlsafe_b64encode(self._keys[key_id]).decode()}" for key_id in ordered)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys, the current one first."""
        return tuple(sorted(self._keys, key=lambda key_id: key_id != self.current))

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """Encrypt with the current key, so that it opens only with the same context."""
        header = SEAL + VERSION + bytes([len(self.current)]) + self.current.encode()
        nonce = os.urandom(NONCE_BYTES)
        return header + nonce + self._ciphers[self.current].encrypt(nonce, plain, header + context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Return what was sealed with this context.

        `DecodeError` for plaintext, a key that is not in the ring, and whatever was altered or moved.
        """
        from cryptography.exceptions import InvalidTag

        key_id = self.key_id(sealed)
        if key_id is None:
            raise DecodeError("not sealed, and with keys plaintext is refused: seal it first, or read without keys")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise DecodeError(f"the key {key_id!r} is missing: the keyring has {', '.join(self.ids)}")
        header, rest = _split(sealed)
        try:
            return cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], header + context)
        except InvalidTag:
            message = f"altered, or moved here from another place, or another key is called {key_id!r}"
            raise DecodeError(message) from None

    def key_id(self, sealed: bytes) -> str | None:
        """Return the id of the key that sealed this, also one that is missing here; None for plaintext.

        `DecodeError` where the seal itself is damaged or of a newer version.
        """
        if not is_sealed(sealed):
            return None
        if sealed[len(SEAL) : len(SEAL) + 1] != VERSION:
            raise DecodeError("sealed by a newer lc-history, or altered")
        header, rest = _split(sealed)
        key_id = header[len(SEAL) + 2 :].decode("ascii", "replace")
        if not _KEY_ID.fullmatch(key_id) or len(rest) < NONCE_BYTES + TAG_BYTES:
            raise DecodeError("the seal is cut short or altered")
        return key_id

    @override
    def __repr__(self) -> str:
        return f"Keyring(ids={list(self.ids)}, current={self.current!r})"


def is_sealed(body: bytes) -> bool:
    """Tell whether this was sealed by a keyring, without opening it."""
    return body.startswith(SEAL)


def bind(*parts: str) -> bytes:
    """Return a context for a place named by these parts; different parts never give the same context."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def bound_to(key: SessionKey, lane: str, record_id: str) -> bytes:
    """Return the context of one record of one session."""
    return bind("record", key.user_id, key.session_id, lane, record_id)


def _split(sealed: bytes) -> tuple[bytes, bytes]:
    start = len(SEAL) + len(VERSION)
    end = start + 1 + sum(sealed[start : start + 1])
    return sealed[:end], sealed[end:]


def _check_key(key_id: object, key: object) -> None:
    if not isinstance(key_id, str) or not isinstance(key, bytes):
        raise TypeError("a keyring takes ids of type str and keys of type bytes")
    if not _KEY_ID.fullmatch(key_id):  # not shown: id and key may have been interchanged
        raise ValueError("a key id must have 1 to 64 letters, digits, dots, dashes or underscores")
    if len(key) < KEY_BYTES:
        raise ValueError(f"{len(key)} bytes are too few for a key: at least {KEY_BYTES} random ones are needed")


def _cipher(key: bytes) -> AESGCMSIV:
    """Return the cipher of a subkey, so that the same key may also serve another purpose under another name."""
    with extra("crypto"):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    subkey = HKDF(SHA256(), length=KEY_BYTES, salt=None, info=b"lc-history seal 1").derive(key)
    try:
        return AESGCMSIV(subkey)
    except UnsupportedAlgorithm as error:
        message = "this OpenSSL has no AES-256-GCM-SIV (it came with 3.2): use the cryptography wheel from PyPI"
        raise RuntimeError(message) from error
