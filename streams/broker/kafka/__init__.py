"""The port to the log on Kafka, with aiokafka. Nothing of aiokafka leaves this folder.

It hands out `KafkaBroker` and `KafkaSettings`; the modules behind them are one idea each: `client` (connecting, and
what errors mean), `reader`, `producer`, `transactions`, `membership`, `admin`.
"""

from typing import TYPE_CHECKING, Any

from streams.broker.kafka.settings import ADDRESS_SETTING, KafkaSettings

if TYPE_CHECKING:
    from streams.broker.kafka.broker import KafkaBroker

__all__ = ["ADDRESS_SETTING", "KafkaBroker", "KafkaSettings"]


def __getattr__(name: str) -> Any:
    # Settings are read by every command; aiokafka takes 200 ms to import and is needed by few.
    if name == "KafkaBroker":
        from streams.broker.kafka.broker import KafkaBroker

        return KafkaBroker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
