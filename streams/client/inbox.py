"""What comes back to a client: results and answers, each handed to whoever waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from weakref import WeakValueDictionary

from streams.broker.port import Broker, LogRecord, Partition, Reader
from streams.errors import BrokerUnavailable, CodecError, Conflict
from streams.records import decode_as, headers
from streams.records.invocations import Result
from streams.records.json import result_from_json
from streams.records.signals import Answer

log = logging.getLogger(__name__)

RETRY_S = 0.5


class Slot:
    """Where one result is waited for; shared by all handles of the same invocation and input."""

    __slots__ = ("__weakref__", "future")

    def __init__(self) -> None:
        self.future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def put(self, result: Result) -> None:
        """Hand over the result; a later one changes nothing."""
        if not self.future.done():
            self.future.set_result(result)


class Inbox:
    """Follows the result and answer topics from their ends.

    Memory is bounded by what is waited for: a slot lives as long as a handle holds it.
    """

    def __init__(self, broker: Broker, results: Mapping[Partition, int], answers: Mapping[Partition, int]) -> None:
        self._broker = broker
        self._positions = {**results, **answers}
        self._results = frozenset(p.topic for p in results)
        self._slots: WeakValueDictionary[tuple[str, bytes], Slot] = WeakValueDictionary()
        self._questions: dict[str, asyncio.Future[Answer]] = {}
        self.unreadable = 0

    def slot(self, invocation: str, digest: bytes) -> Slot:
        """Return the slot for the result of an invocation.

        Args:
            digest: Of the input that it was submitted with; empty when only the ID is known.
        """
        slot = self._slots.get((invocation, digest))
        if slot is None:
            slot = self._slots[invocation, digest] = Slot()
        return slot

    def question(self, request_id: str) -> asyncio.Future[Answer]:
        """Return the future of the answer to a request; call `forget` when it is no longer waited for."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._questions[request_id] = future
        return future

    def forget(self, request_id: str) -> None:
        """Stop waiting for an answer."""
        self._questions.pop(request_id, None)

    def put(self, result: Result) -> None:
        """Hand a result to those who wait for it.

        A conflict answers only who submitted the other input: whoever waits for the ID's own result goes on waiting.
        """
        if (slot := self._slots.get((result.id, result.input_digest))) is not None:
            slot.put(result)
        if result.error_type != Conflict.__name__ and (slot := self._slots.get((result.id, b""))) is not None:
            slot.put(result)

    async def follow(self, started: asyncio.Event) -> None:
        """Read for ever; sets *started* once nothing that is written from now on can be missed."""
        while True:
            try:
                async with self._broker.reader() as reader:
                    await reader.assign(self._positions)
                    started.set()
                    await self._read(reader)
            except BrokerUnavailable as error:
                log.warning("results cannot be read: %s; trying again", error)
                await asyncio.sleep(RETRY_S)

    async def _read(self, reader: Reader) -> None:
        while True:
            for source, records in (await reader.poll(max_records=2_000, timeout_s=1.0)).items():
                for record in records:
                    try:
                        self._take(source, record)
                    except CodecError as error:
                        self.unreadable += 1
                        log.warning("%s[%d]@%d is not readable: %s", *source, record.offset, error)
                self._positions[source] = records[-1].offset + 1

    def _take(self, source: Partition, record: LogRecord) -> None:
        if record.value is None:
            return
        if source.topic in self._results:
            self.put(read_result(record))
            return
        answer = decode_as(Answer, record.value)
        future = self._questions.get(answer.request_id)
        if future is not None and not future.done():
            future.set_result(answer)


def read_result(record: LogRecord) -> Result:
    """Return the result in a record of the result topic, in either encoding.

    Raises:
        CodecError: It is neither.
    """
    data = record.value or b""
    return result_from_json(data) if headers.is_json(record.headers) else decode_as(Result, data)
