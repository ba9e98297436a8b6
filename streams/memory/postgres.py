"""Connections to Postgres with a bound on everything, and what its errors mean.

Three kinds of failure, because each wants another answer: `StoreUnavailable` (it is away; try again later),
`Contended` (another writer was in the way; try again now), `RowRefused` (a value that it will never take).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from streams.errors import SettingsError, StoreError, StoreUnavailable
from streams.memory.refusals import Contended, RowRefused
from streams.memory.settings import DSN_SETTING, MemorySettings

# The pool gives up on a reconnect soon: each caller that asks for a connection starts a new one, so that the first
# attempt after an outage comes from the caller's own back-off and not from a pool that paused for minutes.
_RECONNECT_S = 3.0
_GRACE_S = 2.0
_NAME_BYTES = 63

_CONTENDED = (errors.UniqueViolation, errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable)
_REFUSED = (
    psycopg.DataError,
    psycopg.IntegrityError,
    errors.ProgramLimitExceeded,  # an operational error to psycopg; it is a key that no index can hold
    ValueError,
    TypeError,
    OverflowError,
)


class Postgres:
    """A pool of connections whose statements are bounded in time and find the namespace's tables.

    Args:
        namespace: Becomes the SQL schema in which the tables live.

    Raises:
        SettingsError: The connection string or the namespace cannot be used.
    """

    def __init__(self, settings: MemorySettings, namespace: str) -> None:
        if len(namespace.encode()) > _NAME_BYTES:
            raise SettingsError(
                f"namespace {namespace!r} is longer than the {_NAME_BYTES} bytes that Postgres keeps of a schema's "
                "name; choose a shorter one"
            )
        self.namespace = namespace
        self._settings = settings
        dsn = settings.dsn.get_secret_value()
        self.address = address_of(dsn)
        bounds: dict[str, Any] = {
            "connect_timeout": round(settings.connect_timeout_s),
            "application_name": f"streams {namespace}",
            "tcp_user_timeout": round(settings.statement_timeout_s * 1000),
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        }
        self._dsn, self._bounds = dsn, bounds
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] = AsyncConnectionPool(
            dsn,
            kwargs=bounds,
            min_size=0,
            max_size=settings.pool_size,
            open=False,
            timeout=settings.connect_timeout_s,
            reconnect_timeout=_RECONNECT_S,
            configure=self._configure,
            check=AsyncConnectionPool.check_connection,
            name=f"streams-{namespace}",
        )

    async def open(self) -> None:
        """Check that Postgres answers, and open the pool. Opening an open pool does nothing.

        Raises:
            StoreUnavailable: With address, reason and the setting's name, within `connect_timeout_s`.
        """
        # Outside the pool, because the pool keeps the reason of a failed connection to itself.
        async with (
            self._translated("connecting", self._settings.connect_timeout_s),
            await psycopg.AsyncConnection.connect(self._dsn, **self._bounds) as connection,
        ):
            await connection.execute("SELECT 1")
        await self._pool.open()

    async def close(self) -> None:
        """Close the pool. Idempotent; never raises."""
        await self._pool.close(timeout=_GRACE_S)

    @asynccontextmanager
    async def transaction(self, doing: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Give a connection with a transaction, committed at the end and rolled back on an error.

        Args:
            doing: What is being done, for error messages.

        Raises:
            StoreUnavailable: Postgres is away or did not answer in time.
            Contended: Another writer was in the way.
            RowRefused: A value that it will never take.
        """
        limit_s = self._settings.connect_timeout_s + self._settings.statement_timeout_s + _GRACE_S
        async with self._translated(doing, limit_s), self._pool.connection() as connection:
            yield connection

    async def _configure(self, connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(self.namespace)))
        timeout_ms = round(self._settings.statement_timeout_s * 1000)
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            await connection.execute(sql.SQL("SET {} TO {}").format(sql.Identifier(name), sql.Literal(timeout_ms)))
        await connection.commit()

    @asynccontextmanager
    async def _translated(self, doing: str, limit_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError as error:
            raise self._unavailable(doing, f"no answer within {limit_s:g} s") from error
        except _CONTENDED as error:
            raise Contended(f"{doing} met another writer: {_words(error)}") from error
        except _REFUSED as error:
            raise RowRefused(f"{type(error).__name__}: {_words(error)}") from error
        except errors.InsufficientPrivilege as error:
            raise StoreError(f"Postgres at {self.address} does not allow {doing}: {_words(error)}; grant it") from error
        except PoolTimeout as error:
            raise self._unavailable(doing, f"no connection within {self._settings.connect_timeout_s:g} s") from error
        except psycopg.Error as error:
            raise self._unavailable(doing, _words(error)) from error

    def _unavailable(self, doing: str, reason: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"Postgres at {self.address} is not available ({doing}: {reason}); start it, or set {DSN_SETTING}"
        )


def address_of(dsn: str) -> str:
    """Return where a connection string points to, without its password.

    Raises:
        SettingsError: It is no connection string.
    """
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        # The words of the error would repeat the string, and with it a password.
        raise SettingsError(
            f"{DSN_SETTING} is not a Postgres connection string; expected postgresql://user@host:port/database"
        ) from error
    user = f"{parts['user']}@" if parts.get("user") else ""
    return f"{user}{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"


def _words(error: BaseException) -> str:
    """Return the first line of what went wrong: the rest repeats the statement."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
