"""Events of every type that the Python client can send, and what it reads of them.

    odd.py send CONNECTION_STRING HUB COUNT SEED
        sends events to partition 0, and prints for each what is to arrive: a line of JSON, `null`
        where AMQP does not allow what it holds
    odd.py rows CONNECTION_STRING HUB COUNT...
        sends rows of so many events, every second one of events that AMQP does not allow
    odd.py compare CONNECTION_STRING HUB COPIES
        reads the pairs of sequence numbers on its input, and compares the event of HUB with that of
        COPIES: type and value of all that they hold"""

import asyncio
import base64
import datetime
import json
import random
import struct
import sys
import uuid
from decimal import Decimal

from azure.eventhub.aio import EventHubConsumerClient, EventHubProducerClient
from azure.eventhub.amqp import AmqpAnnotatedMessage, AmqpMessageProperties
from azure.eventhub._pyamqp import _decode
from azure.eventhub._pyamqp._encode import encode_decimal128
from azure.eventhub._pyamqp.types import TYPE, VALUE

LIMIT_SECONDS = 120

# The client does not read the decimals that it writes: here they are their bytes.
_decode._DECODE_BY_CONSTRUCTOR[0x94] = lambda buffer: (buffer[16:], bytes(buffer[:16]))


def typed(kind, value):
    return {TYPE: kind, VALUE: value}


def float32(value):
    return struct.unpack(">f", struct.pack(">f", value))[0]


def float_json(kind, value):
    # As text, which is read exactly.
    return {kind: "NaN" if value != value else repr(value)}


def binary_json(value):
    return {"base64": base64.b64encode(value).decode()}


def decimal(value):
    encoded = bytearray()
    encode_decimal128(encoded, value)
    return value, {"decimal128": encoded[1:].hex()}


TEXTS = ["", "text", "grüße, 世界", "e\u0301", "🦀", "\0", "x" * 300]


def integer(random, kind, bits, signed):
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    value = random.choice([least, most, 0, 1, random.randint(least, most)])
    return typed(kind.upper(), value), value if kind == "long" else {kind: value}


def simple(random):
    """A value that properties may hold, and its JSON."""
    which = random.randrange(21)
    if which == 0:
        return None, None
    if which == 1:
        return True, True
    if which == 2:
        return False, False
    if which < 11:
        kind, bits, signed = [
            ("ubyte", 8, False),
            ("ushort", 16, False),
            ("uint", 32, False),
            ("ulong", 64, False),
            ("byte", 8, True),
            ("short", 16, True),
            ("int", 32, True),
            ("long", 64, True),
        ][which - 3]
        return integer(random, kind, bits, signed)
    if which == 11:
        value = float32(random.choice([0.0, 1.5, -0.1, 3e38, float("inf"), float("nan")]))
        return typed("FLOAT", value), float_json("float", value)
    if which == 12:
        value = random.choice([0.0, 1.0, -0.1, 1e300, float("-inf"), float("nan"), random.random()])
        return value, float_json("double", value)
    if which == 13:
        # Before 1970, the year 1, and the ends.
        value = random.choice([0, 1, -1, -1000, -62135596800000, 253402300799999, -(1 << 63)])
        return typed("TIMESTAMP", value), {"timestamp": value}
    if which == 14:
        value = datetime.datetime(2020, 2, 29, tzinfo=datetime.timezone.utc)
        return value, {"timestamp": int(value.timestamp()) * 1000}
    if which == 15:
        value = uuid.UUID(int=random.getrandbits(128))
        return value, {"uuid": str(value)}
    if which == 16:
        value = random.randbytes(random.choice([0, 1, 300]))
        return value, binary_json(value)
    if which == 17:
        value = random.choice(["", "com.example:symbol", "s" * 300])
        return typed("SYMBOL", value), {"symbol": value}
    if which == 18:
        return decimal(Decimal(random.choice(["1.5", "-12345678901234567890", "0"])))
    value = random.choice(TEXTS)
    return value, value


def many(random, make, depth):
    pairs = [make(random, depth) for _ in range(random.randrange(4))]
    return [value for value, _ in pairs], [shown for _, shown in pairs]


def any_value(random, depth=3):
    """A value that annotations and bodies may hold, and its JSON."""
    which = random.randrange(10)
    if depth == 0 or which < 6:
        return simple(random)
    if which == 6:
        values, shown = many(random, any_value, depth - 1)
        return typed("LIST", values), {"list": shown}
    if which == 7:
        values, shown = many(random, any_value, depth - 1)
        pairs = list(enumerate(values))
        return typed("MAP", [(typed("INT", key), value) for key, value in pairs]), {
            "map": [[{"int": key}, shown[key]] for key, _ in pairs]
        }
    if which == 8:
        numbers = [random.randint(-5, 5) for _ in range(random.randrange(1, 4))]
        return typed("ARRAY", [typed("LONG", number) for number in numbers]), {"array": numbers}
    value, shown = any_value(random, depth - 1)
    return typed("DESCRIBED", (typed("SYMBOL", "com.example:odd"), value)), {
        "described": ["com.example:odd", shown]
    }


def not_allowed(random):
    """What the client sends as a property though AMQP allows it not."""
    return random.choice([["a", "b"], [], {"a": 1}, {1: "int key"}, typed("ARRAY", [typed("INT", 1)])])


def message_properties(random):
    chosen, shown = {}, {}
    if random.random() < 0.5:
        for field in ("message_id", "correlation_id"):
            value, json_value = random.choice(
                [
                    ("id", "id"),
                    (7, {"ulong": 7}),
                    (b"\x00\xff", binary_json(b"\x00\xff")),
                    (uuid.UUID(int=5), {"uuid": str(uuid.UUID(int=5))}),
                ]
            )
            chosen[field], shown[field] = value, json_value
    if random.random() < 0.5:
        for field in (
            "content_type",
            "content_encoding",
            "subject",
            "to",
            "reply_to",
            "group_id",
            "reply_to_group_id",
        ):
            if random.random() < 0.5:
                chosen[field] = shown[field] = f"{field} of it"
        if random.random() < 0.5:
            chosen["user_id"], shown["user_id"] = b"user", binary_json(b"user")
        if random.random() < 0.5:
            chosen["group_sequence"] = shown["group_sequence"] = 5
        if random.random() < 0.5:
            chosen["creation_time"] = shown["creation_time"] = 1_600_000_000_000
            chosen["absolute_expiry_time"] = shown["absolute_expiry_time"] = 1_700_000_000_000
    return chosen, shown


def event(random):
    """A message, and what is to arrive."""
    kind = random.randrange(4)
    if kind == 0:
        value, shown = any_value(random)
        if isinstance(value, dict):
            # The client takes the types of what is within a body, and not that of the body.
            value, shown = [value], {"list": [shown]}
        # In place of a value that is false the client sends an empty section of bytes.
        shown_body = {"value": shown} if value else {"data": [binary_json(b"")]}
        body = {"value_body": value}
    elif kind == 1:
        lists = [many(random, any_value, 2) for _ in range(random.randrange(1, 3))]
        body = {"sequence_body": [values for values, _ in lists]}
        shown_body = {"sequence": [shown for _, shown in lists]}
    else:
        sections = [random.randbytes(random.choice([0, 5, 300])) for _ in range(kind - 1)]
        body, shown_body = {"data_body": sections}, {"data": [binary_json(one) for one in sections]}
    properties, shown_properties = {}, {}
    for number in range(random.randrange(4)):
        properties[f"p{number}"], shown_properties[f"p{number}"] = simple(random)
    annotations, shown_annotations, shown_numbered = {}, {}, {}
    for number in range(random.randrange(3)):
        annotations[f"x-odd-{number}"], shown_annotations[f"x-odd-{number}"] = any_value(random)
    if random.random() < 0.1:
        annotations[77], shown_numbered["77"] = simple(random)
    chosen, shown_message = message_properties(random)
    expected = {
        "body": shown_body,
        "properties": shown_properties,
        "annotations": shown_annotations,
        "numbered_annotations": shown_numbered,
        "message": shown_message,
    }
    # Seldom, and now and then many in a row.
    if random.random() < 0.02 or event.run > 0:
        event.run = event.run - 1 if event.run > 0 else random.choice([0, 0, 0, 3, 40])
        properties["odd"] = not_allowed(random)
        expected = None
    message = AmqpAnnotatedMessage(
        application_properties=properties or None,
        annotations=annotations or None,
        **({"properties": AmqpMessageProperties(**chosen)} if chosen else {}),
        **body,
    )
    return message, expected


event.run = 0


async def send(connection_string, hub, count, seed):
    chance = random.Random(int(seed))
    events = [event(chance) for _ in range(int(count))]
    client = EventHubProducerClient.from_connection_string(connection_string, eventhub_name=hub)
    async with client:
        # A batch takes about a megabyte, and these are below five kilobytes each.
        for first in range(0, len(events), 150):
            batch = await client.create_batch(partition_id="0")
            for message, _ in events[first : first + 150]:
                batch.add(message)
            await client.send_batch(batch)
    for _, expected in events:
        print(json.dumps(expected))


async def rows(connection_string, hub, *counts):
    client = EventHubProducerClient.from_connection_string(connection_string, eventhub_name=hub)
    async with client:
        batch = await client.create_batch(partition_id="0")
        for number, count in enumerate(counts):
            for _ in range(int(count)):
                properties = {"tags": ["a"]} if number % 2 else None
                batch.add(AmqpAnnotatedMessage(data_body=b"x", application_properties=properties))
        await client.send_batch(batch)


async def read(connection_string, hub, count):
    events = []
    failures = []
    done = asyncio.Event()

    async def on_event(_, received):
        events.append(received)
        if len(events) >= count:
            done.set()

    async def on_error(_, error):
        failures.append(error)

    client = EventHubConsumerClient.from_connection_string(
        connection_string, "$Default", eventhub_name=hub
    )
    task = asyncio.create_task(
        client.receive(
            on_event=on_event, on_error=on_error, partition_id="0", starting_position="-1"
        )
    )
    try:
        await asyncio.wait_for(done.wait(), LIMIT_SECONDS)
    except asyncio.TimeoutError:
        raise TimeoutError(f"{len(events)} of {count}: {failures[:1]}") from None
    await client.close()
    task.cancel()
    await asyncio.wait([task])
    return events


def shape(value):
    """Type and value, NaN equal to itself."""
    if isinstance(value, dict):
        pairs = [(shape(key), shape(one)) for key, one in value.items()]
        return ("map", sorted(pairs, key=repr))
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, [shape(one) for one in value])
    return (type(value).__name__, repr(value))


OF_THE_BROKER = (b"x-opt-sequence-number", b"x-opt-offset", b"x-opt-enqueued-time")


def content(received):
    message = received.raw_amqp_message
    properties = message.properties
    annotations = {
        key: value for key, value in (message.annotations or {}).items() if key not in OF_THE_BROKER
    }
    fields = vars(properties) if properties else {}
    return {
        "kind": str(message.body_type),
        "body": shape(list(message.body) if hasattr(message.body, "__next__") else message.body),
        "properties": shape(message.application_properties or {}),
        "annotations": shape(annotations),
        "message": {key: shape(value) for key, value in fields.items() if value is not None},
    }


async def compare(connection_string, hub, copies):
    pairs = [tuple(map(int, line.split())) for line in sys.stdin]
    originals = await read(connection_string, hub, max(of for of, _ in pairs) + 1)
    copied = await read(connection_string, copies, max(copy for _, copy in pairs) + 1)
    for of, copy in pairs:
        left, right = content(originals[of]), content(copied[copy])
        if "message_id" not in dict(left["message"]):
            # The publisher's SDK gives one to an event that has none.
            right["message"].pop("message_id", None)
        assert left == right, f"{of} is not {copy}:\n{left}\n{right}"
    print(f"{len(pairs)} copies are equal")


command = {"send": send, "rows": rows, "compare": compare}[sys.argv[1]]
asyncio.run(command(*sys.argv[2:]))
