"""Every setting, typed and validated: from the environment, then from `streams.toml`, then the defaults.

Parsed once, at the edge, into frozen objects. A name in the environment is `STREAMS_` and the path with `__` between:
`STREAMS_KAFKA__BOOTSTRAP_SERVERS`. Each room declares its own settings; here they come together.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings import SettingsError as SourceError

from streams.breakers.settings import BreakerSettings
from streams.broker.kafka.settings import KafkaSettings
from streams.client.settings import ClientSettings
from streams.control.settings import ControlSettings
from streams.encryption import EncryptionSettings
from streams.errors import SettingsError
from streams.gateway.settings import GatewaySettings
from streams.llm.settings import LlmSettings
from streams.memory.settings import MemorySettings
from streams.observe.settings import ObserveSettings
from streams.records.topics import DEAD_LETTER_EXTRA_BYTES, PAYLOAD_OVERHEAD_BYTES, Catalogue
from streams.shards.settings import ShardSettings
from streams.tools.settings import ToolSettings

TOML_FILE = "streams.toml"
PREFIX = "STREAMS_"
TEST_PREFIX = "STREAMS_TEST_"
"""Variables of this prefix are for the fixtures of `streams.testing`."""

OTHER_VARIABLES = frozenset({"STREAMS_CACHE", "STREAMS_CONFIG"})
"""Variables of that prefix that are no settings: where downloads are kept, which settings file is read."""


class Settings(BaseSettings):
    """All settings of a process.

    Attributes:
        namespace: Prefix of all topics; by default the app's name.
        partitions: Shards of the namespace. Chosen for good when it is created: 4 on a single node, 48 on a cluster.
        replication: Replicas of each topic; 3 on a cluster, with `min.insync.replicas` of 2.
        history_s: Seconds that results, and consumed work for replay, are kept.
        max_payload_bytes: Largest input, result, argument or state record.
        instance_id: Name of this process, unique in the fleet: restarted with the same one it keeps its shards.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, toml_file=TOML_FILE
    )

    namespace: str = ""
    partitions: int = Field(4, ge=1, le=10_000)
    replication: int = Field(1, ge=1, le=10)
    history_s: float = Field(7 * 86_400.0, gt=0)
    max_payload_bytes: int = Field(1_000_000, ge=1_000, le=100_000_000)
    instance_id: str | None = None

    kafka: KafkaSettings = KafkaSettings()
    client: ClientSettings = ClientSettings()
    shards: ShardSettings = ShardSettings()
    tools: ToolSettings = ToolSettings()
    llm: LlmSettings = LlmSettings()
    memory: MemorySettings = MemorySettings()
    control: ControlSettings = ControlSettings()
    breakers: BreakerSettings = BreakerSettings()
    encryption: EncryptionSettings = EncryptionSettings()
    gateway: GatewaySettings = GatewaySettings()
    observe: ObserveSettings = ObserveSettings()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """Arguments first, then the environment, then the file."""
        path = os.environ.get("STREAMS_CONFIG", TOML_FILE)
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(path))

    def catalogue(self, app_name: str, lanes: dict[str, Collection[str]] | None = None) -> Catalogue:
        """Return the topics of the namespace that these settings describe."""
        return Catalogue(
            self.namespace or app_name,
            partitions=self.partitions,
            history_s=self.history_s,
            max_payload_bytes=self.max_payload_bytes,
            lanes=lanes or {},
        )

    def kafka_for_payloads(self) -> KafkaSettings:
        """Return the Kafka settings with room for the largest record that payloads make."""
        largest = 2 * (self.max_payload_bytes + PAYLOAD_OVERHEAD_BYTES) + DEAD_LETTER_EXTRA_BYTES
        return self.kafka.model_copy(update={"max_request_bytes": max(self.kafka.max_request_bytes, largest)})


def load_settings(**overrides: Any) -> Settings:
    """Return the settings of this process.

    Args:
        overrides: Values that win over environment and file.

    Raises:
        SettingsError: A setting is unknown or does not validate; names it.
    """
    config = os.environ.get("STREAMS_CONFIG")
    if config and not Path(config).is_file():
        raise SettingsError(f"STREAMS_CONFIG names {config!r}, which is not a file; correct the path or unset it")
    known = {PREFIX + name.upper() for name in Settings.model_fields} | OTHER_VARIABLES
    for variable in os.environ:
        if variable.startswith(TEST_PREFIX):
            continue
        if variable.startswith(PREFIX) and variable.split("__")[0] not in known:
            raise SettingsError(f"{variable} is not a setting; known are {', '.join(sorted(known))}")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = PREFIX + "__".join(str(part).upper() for part in first["loc"])
        # Without the value: it may be a password or a token.
        raise SettingsError(f"setting {name}: {first['msg'].removeprefix('Value error, ')}") from None
    except SourceError as error:
        raise SettingsError(_not_json(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{config or TOML_FILE} is not TOML: {error}") from None


def _not_json(error: SourceError) -> str:
    problem = error.__cause__
    if not isinstance(problem, json.JSONDecodeError):
        return str(error)
    names = sorted(name for name, value in os.environ.items() if name.startswith(PREFIX) and value == problem.doc)
    return (
        f"setting {' or '.join(names)} is not JSON: {problem.msg} at character {problem.pos + 1}; write "
        f'{{"name": ...}} or ["name", ...], or set it in {TOML_FILE}'
    )
