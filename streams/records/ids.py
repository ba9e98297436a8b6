"""Names that other names are built from: agent IDs, invocation IDs, step identities.

An invocation ID is `name/key/idempotency-key`. Agent names and keys must not contain `/`, so that everything that knows
an invocation ID knows its agent ID, and with it its shard; idempotency keys may contain anything printable.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import orjson

from streams.errors import InvalidInput

MAX_PART_CHARS = 256


class StepId(NamedTuple):
    """Identity of a step over restarts: a restarted invocation gets a new incarnation."""

    invocation: str
    incarnation: int
    step: int

    def __str__(self) -> str:
        return f"{self.invocation}#{self.incarnation}.{self.step}"


def agent_id(agent: str, key: str) -> str:
    """Return `agent/key` after checking both parts.

    Raises:
        InvalidInput: A part is empty, too long, or contains a slash or a control character.
    """
    check_part("agent name", agent)
    check_part("agent key", key)
    return f"{agent}/{key}"


def invocation_id(agent: str, key: str, idempotency_key: str) -> str:
    """Return `agent/key/idempotency_key` after checking the parts (see `agent_id`)."""
    check_part("idempotency key", idempotency_key, slash=True)
    return f"{agent_id(agent, key)}/{idempotency_key}"


def split_invocation_id(text: str) -> tuple[str, str, str]:
    """Return agent name, agent key and idempotency key of an invocation ID.

    Raises:
        InvalidInput: *text* does not have the three parts.
    """
    parts = text.split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise InvalidInput(f"{text!r} is not an invocation ID; expected name/key/idempotency-key")
    return parts[0], parts[1], parts[2]


def agent_of(invocation: str) -> str:
    """Return the agent ID of an invocation ID. Does not validate: for IDs that this package made."""
    return invocation[: invocation.index("/", invocation.index("/") + 1)]


def shared_id(name: str, key: str) -> str:
    """Return `shared/name/key`, which is no agent ID: those have two parts.

    Raises:
        InvalidInput: A part is empty, is no text, is too long, or has characters that it cannot carry.
    """
    check_part("name of shared records", name)
    check_part(f"key in shared records {name!r}", key, slash=True)
    return f"shared/{name}/{key}"


def child_key(parent: str, incarnation: int, step: int) -> str:
    """Return the idempotency key of a child invocation: a digest of the step that starts it."""
    identity = f"{parent}#{incarnation}.{step}".encode()
    return f"child-{hashlib.blake2b(identity, digest_size=12).hexdigest()}"


def digest(payload: bytes) -> bytes:
    """Return 16 bytes that tell two payloads apart."""
    return hashlib.blake2b(payload, digest_size=16).digest()


def input_digest(payload: bytes) -> bytes:
    """Return 16 bytes that tell two JSON inputs apart, whatever the order of their members."""
    try:
        return digest(orjson.dumps(orjson.loads(payload), option=orjson.OPT_SORT_KEYS))
    except orjson.JSONDecodeError:
        return digest(payload)


def check_part(what: str, text: object, *, slash: bool = False) -> None:
    """Check one part of an ID.

    Raises:
        InvalidInput: It is no text, empty, longer than 256 characters, or has a character that IDs cannot carry.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"{what} is {text!r}, not text; convert it")
    if not text:
        raise InvalidInput(f"{what} is empty; give 1 to {MAX_PART_CHARS} characters")
    if len(text) > MAX_PART_CHARS:
        raise InvalidInput(f"{what} of {len(text)} characters exceeds {MAX_PART_CHARS}; use a digest of it")
    if ("/" in text and not slash) or not text.isprintable():
        raise InvalidInput(f"{what} {text!r} contains a slash or a control character; replace it")
