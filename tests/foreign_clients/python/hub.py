"""What a Python client does with a hub of two partitions, against the broker it is told of.

    hub.py CONNECTION_STRING tcp|websocket [AUTHORITY]

Prints a line for each thing that held; the first that does not ends it with a traceback."""

import asyncio
import contextlib
import datetime
import re
import sys
import time
import uuid

from azure.eventhub import EventData, TransportType
from azure.eventhub.aio import CheckpointStore, EventHubConsumerClient, EventHubProducerClient

GROUP = "$Default"
LIMIT_SECONDS = 30
CONNECTION_STRING, TRANSPORT = sys.argv[1], sys.argv[2]
AUTHORITY = sys.argv[3] if len(sys.argv) > 3 else None


def options():
    kind = TransportType.AmqpOverWebsocket if TRANSPORT == "websocket" else TransportType.Amqp
    chosen = {"transport_type": kind, "retry_total": 3}
    if TRANSPORT == "websocket":
        # The client takes no port from a connection string.
        chosen["custom_endpoint_address"] = re.search("sb://[^;/]+", CONNECTION_STRING).group()
    if AUTHORITY:
        chosen["connection_verify"] = AUTHORITY
    return chosen


def producer():
    return EventHubProducerClient.from_connection_string(CONNECTION_STRING, **options())


def consumer(**more):
    return EventHubConsumerClient.from_connection_string(
        CONNECTION_STRING, GROUP, **options(), **more
    )


async def until(what, condition):
    given_up = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if time.monotonic() > given_up:
            raise TimeoutError(what)
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def receiving(client, on_event, **more):
    """Runs `receive` while the block does."""
    task = asyncio.create_task(client.receive(on_event=on_event, **more))
    try:
        yield task
    finally:
        await client.close()
        task.cancel()
        await asyncio.wait([task], timeout=LIMIT_SECONDS)


async def read(count, partition, position="-1", inclusive=False):
    events = []

    async def on_event(_, event):
        events.append(event)

    where = {"starting_position": position, "starting_position_inclusive": inclusive}
    async with receiving(consumer(), on_event, partition_id=partition, **where):
        await until(f"{count} events of partition {partition}", lambda: len(events) >= count)
    return events


def body(event):
    return b"".join(event.body)


def prefix(events):
    return [event.body_as_str() for event in events]


async def batches_and_sizes():
    largest = bytes(range(256)) * 4_000
    async with producer() as client:
        batch = await client.create_batch(partition_id="0")
        for number in range(500):
            batch.add(EventData(f"event {number}"))
        await client.send_batch(batch)
        await client.send_batch([EventData(b"")], partition_id="0")
        await client.send_batch([EventData(largest)], partition_id="0")
    events = await read(502, "0")
    assert prefix(events[:500]) == [f"event {number}" for number in range(500)]
    assert body(events[500]) == b"" and body(events[501]) == largest
    assert [event.sequence_number for event in events] == list(range(502))
    print("a batch of 500, an empty event and one of a megabyte")


async def offsets():
    events = await read(10, "0")
    at = events[4].offset
    assert (await read(1, "0", at))[0].sequence_number == 5
    assert (await read(1, "0", at, inclusive=True))[0].sequence_number == 4
    assert (await read(1, "0", 7))[0].sequence_number == 8
    assert (await read(1, "0", events[0].enqueued_time - datetime.timedelta(hours=1)))[
        0
    ].sequence_number == 0
    print("positions by offset, sequence number and time, the event itself or after it")


async def keys_and_properties():
    sent = {
        "text": "ä",
        "number": -7,
        "fraction": 0.5,
        "truth": True,
        "bytes": b"\x00\xff",
        "uuid": uuid.uuid4(),
        "nothing": None,
    }
    async with producer() as client:
        before = {
            id: (await client.get_partition_properties(id))["last_enqueued_sequence_number"]
            for id in await client.get_partition_ids()
        }
        event = EventData("x")
        event.properties = sent
        event.content_type, event.message_id, event.correlation_id = "text/plain", "m 1", "c 1"
        await client.send_batch([event, EventData("y")], partition_key="customer 7")
        after = {
            id: (await client.get_partition_properties(id))["last_enqueued_sequence_number"]
            for id in before
        }
    moved = [id for id in before if after[id] != before[id]]
    assert len(moved) == 1, "events of one key share a partition"
    first, second = (await read(2, moved[0], before[moved[0]]))[:2]
    received = {key.decode(): value for key, value in first.properties.items()}
    received["text"] = received["text"].decode()
    assert received == sent, received
    assert (first.content_type, first.message_id, first.correlation_id) == (
        "text/plain",
        "m 1",
        "c 1",
    )
    assert first.partition_key == second.partition_key == b"customer 7"
    print("keys and properties of every type")


async def owner_levels():
    taken = asyncio.Event()
    seen = {1: [], 2: []}

    async def lose(_, error):
        assert "stolen" in str(error).lower() or "epoch" in str(error).lower(), error
        taken.set()

    def note(level):
        async def on_event(_, event):
            seen[level].append(event)

        return on_event

    where = {"partition_id": "0", "starting_position": "-1"}
    async with receiving(consumer(), note(1), owner_level=1, on_error=lose, **where):
        await until("the first owner reads", lambda: seen[1])
        async with receiving(consumer(), note(2), owner_level=2, **where):
            await until("the second owner reads", lambda: seen[2])
            await asyncio.wait_for(taken.wait(), LIMIT_SECONDS)
    print("the higher owner level takes the partition")


class MemoryStore(CheckpointStore):
    """What a processor shares with others: owners and checkpoints, by partition."""

    def __init__(self):
        self.owners, self.checkpoints = {}, {}

    async def list_ownership(self, namespace, hub, group, **_):
        return [dict(owner) for owner in self.owners.values()]

    async def claim_ownership(self, ownership_list, **_):
        claimed = []
        for wanted in ownership_list:
            id = wanted["partition_id"]
            if id in self.owners and self.owners[id]["etag"] != wanted.get("etag"):
                continue
            new = {**wanted, "etag": str(uuid.uuid4()), "last_modified_time": time.time()}
            self.owners[id] = new
            claimed.append(dict(new))
        return claimed

    async def update_checkpoint(self, checkpoint, **_):
        self.checkpoints[checkpoint["partition_id"]] = dict(checkpoint)

    async def list_checkpoints(self, namespace, hub, group, **_):
        return list(self.checkpoints.values())


async def processors():
    store = MemoryStore()
    seen = {}

    def note(name):
        async def on_event(context, event):
            seen.setdefault(name, []).append((context.partition_id, event.sequence_number))
            await context.update_checkpoint(event)

        return on_event

    def processor():
        return consumer(checkpoint_store=store, load_balancing_interval=1)

    async def publish():
        async with producer() as client:
            for id in ("0", "1"):
                await client.send_batch([EventData("x")] * 10, partition_id=id)
            properties = [await client.get_partition_properties(id) for id in ("0", "1")]
        return {(p["id"], p["last_enqueued_sequence_number"]) for p in properties}

    def all_seen():
        return [event for events in seen.values() for event in events]

    last = await publish()
    where = {"starting_position": "-1"}
    async with receiving(processor(), note("first"), **where):
        async with receiving(processor(), note("second"), **where):
            owners = lambda: {owner["owner_id"] for owner in store.owners.values()}
            await until("a partition each", lambda: len(store.owners) == 2 and len(owners()) == 2)
            await until("both ends", lambda: last <= set(all_seen()))
    before = len(all_seen())
    last = await publish()
    for owner in store.owners.values():
        owner["owner_id"] = ""
    async with receiving(processor(), note("third"), **where):
        await until("both ends again", lambda: last <= set(all_seen()))
    assert len(seen["third"]) == 20, "it went on behind the checkpoints"
    assert before >= 20
    print("two processors share the partitions, and a third goes on behind their checkpoints")


async def main():
    for part in (
        batches_and_sizes,
        offsets,
        keys_and_properties,
        owner_levels,
        processors,
    ):
        await part()


asyncio.run(main())
