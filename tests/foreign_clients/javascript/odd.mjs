// Events of every type that the JavaScript client can send, and what it reads of them.
//
//     node odd.mjs send CONNECTION_STRING HUB COUNT SEED
//     node odd.mjs compare CONNECTION_STRING HUB COPIES
//
// As odd.py beside it has it.

import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { EventHubConsumerClient, EventHubProducerClient } from "@azure/event-hubs";
import rhea from "rhea";

globalThis.crypto ??= webcrypto;

const { types } = rhea;
const LIMIT_MS = 120_000;
const [command, connectionString, hub, ...rest] = process.argv.slice(2);

/// Numbers from a seed: mulberry32.
function chance(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const base64 = (bytes) => ({ base64: Buffer.from(bytes).toString("base64") });
const uuidText = (bytes) => {
  const hex = Buffer.from(bytes).toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
};

const SIMPLE = [
  () => [null, null],
  () => [true, true],
  () => [false, false],
  () => [types.wrap_ubyte(255), { ubyte: 255 }],
  () => [types.wrap_ushort(65535), { ushort: 65535 }],
  () => [4294967295, { uint: 4294967295 }],
  () => [1, { uint: 1 }],
  () => [0, { int: 0 }],
  () => [-5, { int: -5 }],
  () => [types.wrap_ulong(2 ** 52), { ulong: 2 ** 52 }],
  () => [types.wrap_ulong(300), { ulong: 300 }],
  () => [types.wrap_byte(-128), { byte: -128 }],
  () => [types.wrap_short(-32768), { short: -32768 }],
  () => [types.wrap_long(-3000000000), -3000000000],
  () => [types.wrap_float(1.5), { float: 1.5 }],
  () => [0.25, 0.25],
  () => [types.wrap_double(NaN), { double: "NaN" }],
  () => [types.wrap_char(0x1f980), { char: "🦀" }],
  () => [new Date(0), { timestamp: 0 }],
  () => [new Date(-1000), { timestamp: -1000 }],
  () => [new Date(-62135596800000), { timestamp: -62135596800000 }],
  () => [types.wrap_uuid(Buffer.alloc(16, 7)), { uuid: uuidText(Buffer.alloc(16, 7)) }],
  () => [Buffer.from([0, 255]), base64([0, 255])],
  () => [types.wrap_symbol("com.example:symbol"), { symbol: "com.example:symbol" }],
  () => ["grüße, 世界", "grüße, 世界"],
  () => ["", ""],
];

function any(random, depth = 3) {
  const which = Math.floor(random() * 10);
  const many = () => Array.from({ length: Math.floor(random() * 4) }, () => any(random, depth - 1));
  if (depth === 0 || which < 6) return SIMPLE[Math.floor(random() * SIMPLE.length)]();
  if (which < 8) {
    const values = many();
    return [values.map(([value]) => value), { list: values.map(([, shown]) => shown) }];
  }
  if (which === 8) {
    const values = many();
    const map = Object.fromEntries(values.map(([value], index) => [`k${index}`, value]));
    return [map, { map: values.map(([, shown], index) => [`k${index}`, shown]) }];
  }
  // Of two descriptors the client keeps one.
  const [value, shown] = SIMPLE[Math.floor(random() * SIMPLE.length)]();
  return [types.wrap_described(value, "com.example:odd"), { described: ["com.example:odd", shown] }];
}

const NOT_ALLOWED = [["a", "b"], [], { a: { b: 1 } }, [{ clientId: "x" }], new Map([[1, "int key"]])];

let run = 0;
function event(random) {
  const kind = Math.floor(random() * 3);
  let body, bodyType, shownBody;
  if (kind === 0) {
    let [value, shown] = any(random);
    // The client sends no body for none, and loses the descriptor of a body that is described.
    if (value === null || shown?.described) value = shown = "instead of it";
    [body, bodyType, shownBody] = [value, "value", { value: shown }];
  } else if (kind === 1) {
    const values = [any(random, 2), any(random, 2)];
    body = values.map(([value]) => value);
    [bodyType, shownBody] = ["sequence", { sequence: [values.map(([, shown]) => shown)] }];
  } else {
    body = Buffer.from([1, 2, Math.floor(random() * 256)]);
    [bodyType, shownBody] = ["data", { data: [base64(body)] }];
  }
  const applicationProperties = {};
  const properties = {};
  for (let number = 0; number < Math.floor(random() * 4); number += 1) {
    const [value, shown] = SIMPLE[Math.floor(random() * SIMPLE.length)]();
    applicationProperties[`p${number}`] = value;
    properties[`p${number}`] = shown;
  }
  const messageAnnotations = {};
  const annotations = {};
  for (let number = 0; number < Math.floor(random() * 3); number += 1) {
    const [value, shown] = any(random);
    messageAnnotations[`x-odd-${number}`] = value;
    annotations[`x-odd-${number}`] = shown;
  }
  const chosen = {};
  const message = {};
  if (random() < 0.5) {
    chosen.messageId = message.message_id = "id";
    chosen.correlationId = 7;
    message.correlation_id = { ulong: 7 };
    chosen.contentEncoding = message.content_encoding = "gzip";
    chosen.subject = message.subject = "about";
    chosen.groupId = message.group_id = "group";
  }
  let expected = { body: shownBody, properties, annotations, numbered_annotations: {}, message };
  if (random() < 0.02 || run > 0) {
    run = run > 0 ? run - 1 : [0, 0, 0, 3, 40][Math.floor(random() * 5)];
    applicationProperties.odd = NOT_ALLOWED[Math.floor(random() * NOT_ALLOWED.length)];
    expected = null;
  }
  return [{ body, bodyType, applicationProperties, messageAnnotations, properties: chosen }, expected];
}

async function send(count, seed) {
  const random = chance(Number(seed));
  const events = Array.from({ length: Number(count) }, () => event(random));
  const client = new EventHubProducerClient(connectionString, hub);
  for (let first = 0; first < events.length; first += 150) {
    const batch = await client.createBatch({ partitionId: "0" });
    for (const [message] of events.slice(first, first + 150)) assert(batch.tryAdd(message));
    await client.sendBatch(batch);
  }
  await client.close();
  for (const [, expected] of events) console.log(JSON.stringify(expected));
}

async function read(name, count) {
  const client = new EventHubConsumerClient("$Default", connectionString, name);
  const events = [];
  const failures = [];
  client.subscribe(
    "0",
    {
      processEvents: async (received) => void events.push(...received),
      processError: async (error) => void failures.push(error),
    },
    {
      startPosition: { offset: "-1" },
      maxBatchSize: 500,
      maxWaitTimeInSeconds: 1,
      skipParsingBodyAsJson: true,
    },
  );
  const givenUp = Date.now() + LIMIT_MS;
  while (events.length < count) {
    if (Date.now() > givenUp) throw new Error(`${events.length} of ${count}: ${failures}`);
    await sleep(20);
  }
  // Its goodbyes take half a minute after some of these events: the end of the process is one too.
  return events;
}

const OF_THE_BROKER = ["x-opt-sequence-number", "x-opt-offset", "x-opt-enqueued-time"];

function content(received) {
  const raw = received.getRawAmqpMessage();
  const own = Object.entries(raw.messageAnnotations ?? {}).filter(([key]) => !OF_THE_BROKER.includes(key));
  return {
    body: raw.body,
    bodyType: raw.bodyType,
    properties: raw.applicationProperties ?? {},
    annotations: Object.fromEntries(own),
    message: raw.properties ?? {},
  };
}

async function compare(copies) {
  const pairs = [];
  for await (const line of createInterface({ input: process.stdin })) {
    pairs.push(line.split(" ").map(Number));
  }
  const most = (index) => Math.max(...pairs.map((pair) => pair[index])) + 1;
  const originals = await read(hub, most(0));
  const copied = await read(copies, most(1));
  for (const [of, copy] of pairs) {
    const [left, right] = [content(originals[of]), content(copied[copy])];
    // The publisher's SDK gives one to an event that has none.
    if (left.message.messageId === undefined) delete right.message.messageId;
    assert.deepStrictEqual(right, left, `${of} and ${copy}`);
  }
  process.stdout.write(`${pairs.length} copies are equal\n`, () => process.exit(0));
}

await { send, compare }[command](...rest);
