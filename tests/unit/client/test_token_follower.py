"""Pieces of answers reach those who follow their invocation, best effort and bounded."""

import asyncio
from contextlib import aclosing
from random import Random

from streams.broker.port import Message, Partition, TopicSpec
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.client.token_follower import MAX_PIECES, TokenFollower
from streams.records import encode
from streams.records.steps import TokenChunk
from streams.testing.virtual_time import run

PARTITIONS = [Partition("tokens", 0), Partition("tokens", 1)]


class World:
    def __init__(self):
        self.log = SimulatedLog(Random(0))
        self.log.create_topics([TopicSpec("tokens", 2, 1, {})])
        self.follower = TokenFollower(SimulatedBroker(self.log, "client"), PARTITIONS)

    def write(self, invocation, index, text, partition=0):
        key = invocation.rpartition("/")[0].encode()
        self.log.write([Message("tokens", key, encode(TokenChunk(invocation, 0, 1, index, text)), partition)])


async def take(pieces, count):
    return [(await anext(pieces)).text for _ in range(count)]


def test_each_follower_gets_the_pieces_of_its_invocation():
    async def body():
        world = World()
        world.write("a/x/1", 0, "before")
        async with aclosing(world.follower.follow("a/x/1")) as one, aclosing(world.follower.follow("a/y/2")) as two:
            first, second = (asyncio.ensure_future(take(pieces, 2)) for pieces in (one, two))
            await asyncio.sleep(2)
            for index in range(2):
                world.write("a/x/1", index, f"one {index}")
                world.write("a/y/2", index, f"two {index}", 1)
                world.write("a/x/3", index, "nobody's")
            world.log.write([Message("tokens", b"a/x", b"?", 0)])
            return await first, await second

    assert run(body()) == (["one 0", "one 1"], ["two 0", "two 1"])


def test_reading_ends_with_the_last_follower_and_begins_again_with_the_next():
    async def body():
        world, told = World(), []
        for text in ("first", "second"):
            async with aclosing(world.follower.follow("a/x/1")) as pieces:
                coming = asyncio.ensure_future(take(pieces, 1))
                await asyncio.sleep(2)
                world.write("a/x/1", 0, text)
                told += await coming
            told.append(world.follower._reading)
            world.write("a/x/1", 1, "while nobody follows")
        return told

    assert run(body()) == ["first", None, "second", None]


def test_a_follower_that_falls_behind_loses_the_oldest_pieces():
    async def body():
        world = World()
        async with aclosing(world.follower.follow("a/x/1")) as pieces:
            coming = asyncio.ensure_future(take(pieces, 1))
            await asyncio.sleep(2)
            for index in range(MAX_PIECES + 11):
                world.write("a/x/1", index, str(index))
            await coming
            await asyncio.sleep(20)
            return (await anext(pieces)).index, world.follower.missed

    index, missed = run(body())
    assert index == missed + 1
    assert missed >= 10


def test_after_an_outage_it_goes_on():
    async def body():
        world = World()
        async with aclosing(world.follower.follow("a/x/1")) as pieces:
            coming = asyncio.ensure_future(take(pieces, 1))
            await asyncio.sleep(2)
            world.log.outage(60.0)
            await asyncio.sleep(120)
            world.write("a/x/1", 0, "again")
            return await coming

    assert run(body()) == ["again"]
