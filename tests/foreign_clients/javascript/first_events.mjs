// A processor of the SDK over the checkpoints in Blob Storage: what it receives first.
//
//     first_events.mjs CLIENTS CONTAINER_URL CONNECTION_STRING HUB:PARTITIONS,...
//
// Prints, as its last line, the number of the first event of each partition of each hub as JSON; what
// did not come within the limit is missing. It writes no checkpoint, and begins with what is new
// where there is none: so a checkpoint that it cannot use shows.
//
// The store here reads what @azure/eventhubs-checkpointstore-blob reads, by the same rules: a listing
// below the lower-cased path, an offset and a whole sequence number in the metadata of each blob, or
// an error. Ownership is nobody's but this process's.

import { createRequire } from "node:module";
import { argv } from "node:process";

const [clients, containerUrl, connectionString, hubs] = argv.slice(2);
const { EventHubConsumerClient, latestEventPosition } = createRequire(`${clients}/`)(
  "@azure/event-hubs",
);
const LIMIT_MS = 60_000;

class Store {
  owned = new Map();

  async listOwnership() {
    return [...this.owned.values()];
  }

  async claimOwnership(claims) {
    for (const claim of claims) {
      const known = { ...claim, etag: "known", lastModifiedTimeInMs: Date.now() };
      this.owned.set(claim.partitionId, known);
    }
    return claims.map((claim) => this.owned.get(claim.partitionId));
  }

  async updateCheckpoint() {
    throw new Error("it only looks");
  }

  async listCheckpoints(fullyQualifiedNamespace, eventHubName, consumerGroup) {
    const scopePath = `${fullyQualifiedNamespace}/${eventHubName}/${consumerGroup}`;
    const path = `${scopePath}/checkpoint/`.toLowerCase();
    const url = new URL(containerUrl);
    for (const [name, value] of Object.entries({
      restype: "container",
      comp: "list",
      include: "metadata",
      prefix: path,
    })) {
      url.searchParams.set(name, value);
    }
    const answer = await fetch(url, { headers: { "x-ms-version": "2021-12-02" } });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${answer.status}: ${text}`);
    return [...text.matchAll(/<Blob>(.*?)<\/Blob>/gs)].map(([, blob]) => {
      const value = (tag) => blob.match(new RegExp(`<${tag}>(.*?)</${tag}>`, "s"))?.[1];
      const name = value("Name");
      const offset = value("offset") ?? (/<offset ?\/>/.test(blob) ? "" : undefined);
      if (offset === undefined) throw new Error(`${name} has no offset`);
      const sequenceNumber = parseInt(value("sequencenumber"), 10);
      if (isNaN(sequenceNumber)) throw new Error(`${name} has no sequence number`);
      const partitionId = name.split("/").at(-1);
      const scope = { fullyQualifiedNamespace, eventHubName, consumerGroup };
      return { ...scope, partitionId, offset, sequenceNumber };
    });
  }
}

async function look(hub, partitions, first) {
  const client = new EventHubConsumerClient("$Default", connectionString, hub, new Store(), {
    loadBalancingOptions: { strategy: "greedy", updateIntervalInMs: 500 },
  });
  const complaints = new Set();
  await new Promise((done) => {
    const limit = setTimeout(() => {
      console.error(`${hub}: given up`);
      done();
    }, LIMIT_MS);
    client.subscribe(
      {
        processEvents: async (events, { partitionId }) => {
          if (events.length) first[partitionId] ??= events[0].sequenceNumber;
          if (Object.keys(first).length === partitions) {
            clearTimeout(limit);
            done();
          }
        },
        processError: async (error, { partitionId }) => {
          complaints.add(`${hub}, ${partitionId}: ${error}`);
        },
      },
      { startPosition: latestEventPosition, maxWaitTimeInSeconds: 1 },
    );
  });
  complaints.forEach((complaint) => console.error(complaint));
}

const firsts = {};
const looks = hubs.split(",").map((text) => {
  const [hub, partitions] = text.split(":");
  firsts[hub] = {};
  return look(hub, Number(partitions), firsts[hub]);
});
await Promise.all(looks);
console.log(JSON.stringify(firsts));
// The goodbyes of so many links are of no interest.
process.exit(0);
