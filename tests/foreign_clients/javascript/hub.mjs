// What a JavaScript client does with a hub of two partitions, against the broker it is told of.
//
//     node hub.mjs CONNECTION_STRING tcp|websocket      (NODE_EXTRA_CA_CERTS names the authority)
//
// Prints a line for each thing that held; the first that does not ends it with a stack trace.

import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { EventHubConsumerClient, EventHubProducerClient } from "@azure/event-hubs";
import WebSocket from "ws";

// Node.js 18, which Debian 12 has, does not give it to everyone by itself.
globalThis.crypto ??= webcrypto;

const GROUP = "$Default";
const LIMIT_MS = 30_000;
const [connectionString, transport] = process.argv.slice(2);
const options = transport === "websocket" ? { webSocketOptions: { webSocket: WebSocket } } : {};

const producer = () => new EventHubProducerClient(connectionString, options);
const consumer = () => new EventHubConsumerClient(GROUP, connectionString, options);
const processorClient = (store) =>
  new EventHubConsumerClient(GROUP, connectionString, store, {
    ...options,
    loadBalancingOptions: { updateIntervalInMs: 500, strategy: "balanced" },
  });

async function until(what, condition) {
  const givenUp = Date.now() + LIMIT_MS;
  while (!condition()) {
    if (Date.now() > givenUp) throw new Error(`never came: ${what}`);
    await sleep(20);
  }
}

async function publish(events, where) {
  const client = producer();
  try {
    await client.sendBatch(events, where);
  } finally {
    await client.close();
  }
}

/// Receives until there are `count` events of a partition.
async function read(count, partition, startPosition) {
  const client = consumer();
  const events = [];
  const failures = [];
  const subscription = client.subscribe(
    partition,
    {
      processEvents: async (received) => void events.push(...received),
      processError: async (error) => void failures.push(error),
    },
    { startPosition, maxWaitTimeInSeconds: 1 },
  );
  try {
    await until(`${count} events of partition ${partition}`, () => {
      if (failures.length > 0) throw failures[0];
      return events.length >= count;
    });
  } finally {
    await subscription.close();
    await client.close();
  }
  return events;
}

const earliest = { sequenceNumber: -1 };

async function batchesAndSizes() {
  const largest = Buffer.alloc(1_000_000, 7);
  const client = producer();
  const batch = await client.createBatch({ partitionId: "0" });
  for (let number = 0; number < 500; number++) assert(batch.tryAdd({ body: `event ${number}` }));
  await client.sendBatch(batch);
  await client.close();
  await publish([{ body: Buffer.alloc(0) }], { partitionId: "0" });
  await publish([{ body: largest }], { partitionId: "0" });
  const events = await read(502, "0", earliest);
  assert.deepEqual(
    events.slice(0, 500).map((event) => event.body),
    Array.from({ length: 500 }, (_, number) => `event ${number}`),
  );
  assert.equal(events[500].body.length, 0);
  assert(largest.equals(events[501].body));
  assert.deepEqual(
    events.map((event) => event.sequenceNumber),
    Array.from(events.keys()),
  );
  console.log("a batch of 500, an empty event and one of a megabyte");
}

async function offsets() {
  const [, , third] = await read(3, "0", earliest);
  const first = async (position) => (await read(1, "0", position))[0].sequenceNumber;
  assert.equal(await first({ offset: third.offset }), 3);
  assert.equal(await first({ offset: third.offset, isInclusive: true }), 2);
  assert.equal(await first({ sequenceNumber: 7 }), 8);
  assert.equal(await first({ enqueuedOn: new Date(third.enqueuedTimeUtc.getTime() - 3_600_000) }), 0);
  console.log("positions by offset, sequence number and time, the event itself or after it");
}

async function keysAndProperties() {
  const client = producer();
  const ends = async () => {
    const ids = await client.getPartitionIds();
    const properties = await Promise.all(ids.map((id) => client.getPartitionProperties(id)));
    return properties.map((each) => each.lastEnqueuedSequenceNumber);
  };
  const before = await ends();
  const properties = { text: "ä", number: 7, fraction: 0.5, truth: true, nothing: null };
  const event = { body: { json: [1, 2] }, properties, contentType: "text/plain", messageId: "m 1" };
  await client.sendBatch([event, { body: "y" }], { partitionKey: "customer 7" });
  const after = await ends();
  await client.close();
  const moved = before.map((end, id) => [id, end]).filter(([id, end]) => after[id] !== end);
  assert.equal(moved.length, 1, "events of one key share a partition");
  const [[partition, end]] = moved;
  const start = end < 0 ? earliest : { sequenceNumber: end };
  const [first, second] = await read(2, String(partition), start);
  assert.deepEqual(first.body, { json: [1, 2] });
  assert.deepEqual(first.properties, properties);
  assert.deepEqual([first.contentType, first.messageId], ["text/plain", "m 1"]);
  assert.deepEqual([first.partitionKey, second.partitionKey], ["customer 7", "customer 7"]);
  console.log("keys and properties of every type");
}

async function ownerLevels() {
  const owner = (ownerLevel) => {
    const client = consumer();
    const state = { events: 0, errors: [] };
    const subscription = client.subscribe(
      "0",
      {
        processEvents: async (received) => void (state.events += received.length),
        processError: async (error) => void state.errors.push(error),
      },
      { startPosition: earliest, ownerLevel, maxWaitTimeInSeconds: 1 },
    );
    const close = async () => {
      await subscription.close();
      await client.close();
    };
    return { state, close };
  };
  const low = owner(1);
  await until("the first owner reads", () => low.state.events > 0);
  const high = owner(2);
  await until("the second owner reads", () => high.state.events > 0);
  await until("the first one loses it", () => low.state.errors.length > 0);
  assert.equal(low.state.errors[0].code, "ReceiverDisconnectedError");
  assert.deepEqual(high.state.errors, []);
  await low.close();
  await high.close();
  console.log("the higher owner level takes the partition");
}

/// What a processor shares with others: owners and checkpoints, by partition.
class MemoryStore {
  owners = new Map();
  checkpoints = new Map();
  #etags = 0;

  async listOwnership() {
    return [...this.owners.values()].map((owner) => ({ ...owner }));
  }

  async claimOwnership(wanted) {
    const claimed = [];
    for (const owner of wanted) {
      const found = this.owners.get(owner.partitionId);
      if (found && found.etag !== owner.etag) continue;
      const etag = String(this.#etags++);
      const next = { ...owner, etag, lastModifiedTimeInMs: Date.now() };
      this.owners.set(owner.partitionId, next);
      claimed.push({ ...next });
    }
    return claimed;
  }

  async updateCheckpoint(checkpoint) {
    this.checkpoints.set(checkpoint.partitionId, { ...checkpoint });
  }

  async listCheckpoints() {
    return [...this.checkpoints.values()];
  }
}

async function processors() {
  const store = new MemoryStore();
  const seen = new Map();
  const processor = (name) => {
    const client = processorClient(store);
    const subscription = client.subscribe(
      {
        processEvents: async (received, context) => {
          if (received.length === 0) return;
          const known = seen.get(name) ?? [];
          seen.set(name, known);
          for (const event of received) known.push(`${context.partitionId}:${event.sequenceNumber}`);
          await context.updateCheckpoint(received.at(-1));
        },
        processError: async () => {},
      },
      { startPosition: earliest, maxWaitTimeInSeconds: 1 },
    );
    return async () => {
      await subscription.close();
      await client.close();
    };
  };
  const publishAll = async () => {
    const client = producer();
    const last = [];
    for (const partitionId of ["0", "1"]) {
      await client.sendBatch(Array(10).fill({ body: "x" }), { partitionId });
      const { lastEnqueuedSequenceNumber } = await client.getPartitionProperties(partitionId);
      last.push(`${partitionId}:${lastEnqueuedSequenceNumber}`);
    }
    await client.close();
    return last;
  };
  const arrived = (last) => {
    const all = new Set([...seen.values()].flat());
    return last.every((event) => all.has(event));
  };
  let last = await publishAll();
  const [stopFirst, stopSecond] = [processor("first"), processor("second")];
  await until("both ends", () => arrived(last));
  await until("a partition each", () => {
    const owners = new Set([...store.owners.values()].map((owner) => owner.ownerId));
    return store.owners.size === 2 && owners.size === 2;
  });
  await stopFirst();
  await stopSecond();
  last = await publishAll();
  const stopThird = processor("third");
  await until("both ends again", () => arrived(last));
  await stopThird();
  assert.equal(seen.get("third").length, 20, "it went on behind the checkpoints");
  console.log("two processors share the partitions, and a third goes on behind their checkpoints");
}

for (const part of [batchesAndSizes, offsets, keysAndProperties, ownerLevels, processors]) {
  await part();
}
// Timers of the client would keep the process.
process.exit(0);
