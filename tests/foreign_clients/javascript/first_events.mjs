// A processor of the SDK over the checkpoints in Blob Storage: what it receives first.
//
//     first_events.mjs CLIENTS CONTAINER_URL CONNECTION_STRING HUB:PARTITIONS,...
//
// Prints, as its last line, the number of the first event of each partition of each hub as JSON; what
// did not come within the limit is missing. It writes no checkpoint, and begins with what is new
// where there is none: so a checkpoint that it cannot use shows.

import { createRequire } from "node:module";
import { argv } from "node:process";

const [clients, containerUrl, connectionString, hubs] = argv.slice(2);
const require = createRequire(`${clients}/`);
const { EventHubConsumerClient, latestEventPosition } = require("@azure/event-hubs");
const { BlobCheckpointStore } = require("@azure/eventhubs-checkpointstore-blob");
const { ContainerClient } = require("@azure/storage-blob");
const LIMIT_MS = 60_000;

async function look(hub, partitions, first) {
  const store = new BlobCheckpointStore(new ContainerClient(containerUrl));
  const client = new EventHubConsumerClient("$Default", connectionString, hub, store, {
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
