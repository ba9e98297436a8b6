"""The port to the log on Kafka, with aiokafka. Nothing of aiokafka leaves this folder.

It hands out `KafkaBroker` and `KafkaSettings`; the modules behind them are one idea each: `client` (connecting, and
what errors mean), `reader`, `producer`, `transactions`, `membership`, `admin`.
"""

from streams.broker.kafka.broker import KafkaBroker
from streams.broker.kafka.settings import ADDRESS_SETTING, KafkaSettings

__all__ = ["ADDRESS_SETTING", "KafkaBroker", "KafkaSettings"]
