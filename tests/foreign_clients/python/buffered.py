"""Sends an event of each key with Python's buffered producer.

    buffered.py CONNECTION_STRING KEYS

KEYS is a table whose first column is the key in hexadecimal UTF-8. The body is the number of its
line."""

import sys

from azure.eventhub import EventData, EventHubProducerClient

CONNECTION_STRING, KEYS = sys.argv[1], sys.argv[2]


def fail(events, partition, error):
    raise error


producer = EventHubProducerClient.from_connection_string(
    CONNECTION_STRING,
    buffered_mode=True,
    max_wait_time=1,
    on_success=lambda events, partition: None,
    on_error=fail,
)
with producer, open(KEYS, encoding="ascii") as table:
    for number, line in enumerate(table):
        key = bytes.fromhex(line.split("\t")[0]).decode("utf-8")
        producer.send_event(EventData(str(number)), partition_key=key)
    producer.flush(timeout=60)
