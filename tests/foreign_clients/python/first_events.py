"""A processor of the SDK over the checkpoints in Blob Storage: what it receives first.

    first_events.py STORE CONTAINER CONNECTION_STRING HUB:PARTITIONS,...

Prints, as its last line, the number of the first event of each partition of each hub as JSON; what
did not come within the limit is missing. It writes no checkpoint, and begins with what is new where
there is none: so a checkpoint that it cannot use shows."""

import asyncio
import json
import sys

from azure.eventhub import TransportType
from azure.eventhub.aio import EventHubConsumerClient
from azure.eventhub.extensions.checkpointstoreblobaio import BlobCheckpointStore

STORE, CONTAINER, CONNECTION_STRING, HUBS = sys.argv[1:]
LIMIT_SECONDS = 60


async def look(hub, partitions, first, store):
    client = EventHubConsumerClient.from_connection_string(
        CONNECTION_STRING,
        "$Default",
        eventhub_name=hub,
        transport_type=TransportType.Amqp,
        checkpoint_store=store,
        load_balancing_interval=1,
    )
    done = asyncio.Event()

    async def on_event(context, event):
        first.setdefault(context.partition_id, event.sequence_number)
        if len(first) == partitions:
            done.set()

    async def on_error(context, error):
        where = context.partition_id if context else "no partition"
        print(f"{hub}, {where}: {error}", file=sys.stderr, flush=True)

    task = asyncio.create_task(
        client.receive(on_event=on_event, on_error=on_error, starting_position="@latest")
    )
    try:
        await asyncio.wait_for(done.wait(), LIMIT_SECONDS)
    except asyncio.TimeoutError:
        print(f"{hub}: given up", file=sys.stderr)
    await client.close()
    await asyncio.wait([task], timeout=10)


async def main():
    hubs = [hub.split(":") for hub in HUBS.split(",")]
    firsts = {hub: {} for hub, _ in hubs}
    store = BlobCheckpointStore.from_connection_string(STORE, CONTAINER)
    looks = [look(hub, int(partitions), firsts[hub], store) for hub, partitions in hubs]
    await asyncio.gather(*looks)
    await store.close()
    print(json.dumps(firsts))


asyncio.run(main())
