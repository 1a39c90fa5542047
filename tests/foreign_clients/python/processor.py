"""A processor as other teams run it beside ours: checkpoints in Blob Storage, one after each event.

    processor.py CONNECTION_STRING STORE CONTAINER JOURNALS

Goes on until its standard input ends or says so. Appends to JOURNALS.handled a line for each event
when it is handled, and to JOURNALS.checkpointed one when its checkpoint is acknowledged, as JSON,
with times of the monotonic clock."""

import asyncio
import json
import os
import sys
import threading
import time

from azure.eventhub import TransportType
from azure.eventhub.aio import EventHubConsumerClient
from azure.eventhub.extensions.checkpointstoreblobaio import BlobCheckpointStore

CONNECTION_STRING, STORE, CONTAINER, JOURNALS = sys.argv[1:]


def journal(kind):
    path = f"{JOURNALS}.{kind}"
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def append(file, context, event):
    line = {"p": context.partition_id, "n": event.sequence_number, "e": 0}
    line["t"] = time.monotonic_ns()
    os.write(file, (json.dumps(line) + "\n").encode())


async def main():
    handled, checkpointed = journal("handled"), journal("checkpointed")
    store = BlobCheckpointStore.from_connection_string(STORE, CONTAINER)
    client = EventHubConsumerClient.from_connection_string(
        CONNECTION_STRING,
        "$Default",
        transport_type=TransportType.Amqp,
        checkpoint_store=store,
        load_balancing_interval=2,
        partition_ownership_expiration_interval=30,
    )

    async def on_event(context, event):
        append(handled, context, event)
        await context.update_checkpoint(event)
        append(checkpointed, context, event)

    async def on_error(context, error):
        where = context.partition_id if context else "no partition"
        print(f"{where}: {error}", flush=True)

    task = asyncio.create_task(
        client.receive(on_event=on_event, on_error=on_error, starting_position="-1")
    )
    told, loop = asyncio.Event(), asyncio.get_running_loop()

    def listen():
        sys.stdin.readline()
        loop.call_soon_threadsafe(told.set)

    threading.Thread(target=listen, daemon=True).start()
    await told.wait()
    await client.close()
    await asyncio.wait([task], timeout=30)
    await store.close()


asyncio.run(main())
