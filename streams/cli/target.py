"""Which application a command is about, and where its Kafka is: from `--app`, `--namespace` and the settings.

Without an address in the settings, servers that `streams servers up` or `streams dev` keep in this directory are used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.loading import load_app
from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from streams.app import App
    from streams.broker.port import Broker
    from streams.client.client import Client
    from streams.records.topics import Catalogue
    from streams.settings import Settings

AppArgument = Annotated[
    str | None,
    typer.Argument(metavar="[MODULE:APP]", help="Where the App is, such as payments.agents:app.", show_default=False),
]
AppOption = Annotated[
    str | None,
    typer.Option("--app", "-a", metavar="MODULE:APP", help="Where the App is; needed where no namespace is named."),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-s", metavar="NAME", help="Prefix of the topics; the app's name by default."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@dataclass(frozen=True, slots=True)
class Target:
    """An application as a command sees it.

    Attributes:
        app: None where only the namespace was named, and the code is not at hand.
    """

    settings: Settings
    app: App | None
    catalogue: Catalogue

    def client(self) -> Client:
        """Return a client, not yet connected."""
        from streams.client.client import Client

        return Client(self.app or self.catalogue.namespace, settings=self.settings)

    @asynccontextmanager
    async def broker(self) -> AsyncIterator[Broker]:
        """Connect to Kafka.

        Raises:
            BrokerUnavailable: Kafka does not answer; names address and setting.
        """
        from streams.broker.connect import open_broker
        from streams.encryption import protect_payloads

        protect_payloads(self.settings.encryption)
        broker = open_broker(self.settings.kafka_for_payloads())
        try:
            await broker.connect()
            yield broker
        finally:
            await broker.close()

    async def existing(self, broker: Broker) -> Catalogue:
        """Return the catalogue with the partitions that the namespace has.

        Raises:
            TopicError: It does not exist; says how to create it.
        """
        from dataclasses import replace

        from streams.errors import TopicError

        name = self.catalogue.name("invocations")
        found = await broker.admin.describe([name], with_config=False)
        if name not in found:
            raise TopicError(
                f"topic {name} does not exist on {broker.address}; name the right namespace, or create it with "
                "`streams topics create`"
            )
        return replace(self.catalogue, partitions=found[name].partitions)


def target(module_app: str | None, namespace: str | None, **overrides: Any) -> Target:
    """Return what a command is about.

    Args:
        overrides: Settings that the command line sets; None leaves one as it is.

    Raises:
        ConfigurationError: Neither an app nor a namespace is named; or the app, or a setting, is wrong.
    """
    from streams.settings import load_settings

    given = {name: value for name, value in overrides.items() if value is not None}
    settings = at_hand(load_settings(**given, **({"namespace": namespace} if namespace else {})))
    app = load_app(module_app) if module_app else None
    name = settings.namespace or (app.name if app else "")
    if not name:
        raise ConfigurationError(
            "it is not said which application this is about; give MODULE:APP, or --namespace NAME where its code is "
            "not at hand (or set STREAMS_NAMESPACE)"
        )
    return Target(settings, app, settings.catalogue(name, dict(app.lanes()) if app else None))


def at_hand(settings: Settings) -> Settings:
    """Return the settings with the address of the servers kept in this directory, where none is set."""
    if "bootstrap_servers" in settings.kafka.model_fields_set:
        return settings
    from streams.cli.embedded import FOLDER
    from streams.cli.server_state import keeper

    kept = keeper(FOLDER)
    if kept is None or kept.addresses is None:
        return settings
    kafka = settings.kafka.model_copy(update={"bootstrap_servers": kept.addresses.bootstrap_servers})
    return settings.model_copy(update={"kafka": kafka})
