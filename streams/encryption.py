"""Sealing payloads at rest: which codec and keys, from the settings, for this process."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from importlib import import_module
from typing import cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from streams.errors import ConfigurationError, SettingsError
from streams.records.codec import use_payload_codec
from streams.records.payloads import PayloadCodec

KEYS_SETTING = "STREAMS_ENCRYPTION__KEYS"
KEY_BYTES = 32


class EncryptionSettings(BaseModel):
    """Encryption of payloads in topics and tables; off without keys.

    Attributes:
        keys: Name to 32 bytes in base64. Keep old ones as long as something that they sealed may be read.
        current: Name of the key for what is written; by default the last of *keys*.
        codec: `aes-gcm`, or `module:factory` of a function from {name: bytes} and the current name to a `PayloadCodec`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: dict[str, SecretStr] = Field(default_factory=dict)
    current: str = ""
    codec: str = "aes-gcm"


def protect_payloads(settings: EncryptionSettings) -> None:
    """Seal and open the payloads of every record of this process as *settings* say; call it before anything is read.

    Raises:
        SettingsError: A key that is none; names it, never its value.
        ConfigurationError: The extra `encryption` is not installed, or the codec cannot be made.
    """
    if not settings.keys:
        use_payload_codec(None)
        return
    keys = {name: _decoded(name, key) for name, key in settings.keys.items()}
    current = settings.current or next(reversed(keys))
    if current not in keys:
        raise SettingsError(f"encryption.current is {current!r}, which is not among the keys {', '.join(keys)}")
    use_payload_codec(_factory(settings.codec)(keys, current))


def _factory(codec: str) -> Callable[[dict[str, bytes], str], PayloadCodec]:
    module, _, name = ("streams.records.aes_gcm:AesGcm" if codec == "aes-gcm" else codec).partition(":")
    try:
        return cast(Callable[[dict[str, bytes], str], PayloadCodec], getattr(import_module(module), name))
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"encryption.codec {codec!r} needs {error.name}, which is not installed; pip install "
            "'agent-streams[encryption]' has what aes-gcm needs"
        ) from None
    except (AttributeError, ValueError) as error:
        raise ConfigurationError(f"encryption.codec {codec!r} is not aes-gcm or module:factory: {error}") from None


def _decoded(name: str, key: SecretStr) -> bytes:
    try:
        data = b64decode(key.get_secret_value(), validate=True)
    except ValueError:
        data = b""
    if len(data) != KEY_BYTES or not 1 <= len(name.encode()) <= 255:
        raise SettingsError(
            f"key {name!r} of {KEYS_SETTING} is not {KEY_BYTES} bytes in base64 under a name of 1 to 255 bytes; make "
            "one with `openssl rand -base64 32`"
        )
    return data
