// The npm client through a proxy: TLS and credentials. The server is at CHROMA_ASYNC_TEST_URL.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";

import { ChromaClient } from "chromadb";

const server = new URL(process.env.CHROMA_ASYNC_TEST_URL);
const address = { host: server.hostname, port: Number(server.port), ssl: true };
const basic = (user) => ({ Authorization: `Basic ${Buffer.from(user).toString("base64")}` });
const client = new ChromaClient({ ...address, headers: basic(process.env.CHROMA_ASYNC_TEST_USER) });

const name = `films/${randomUUID().slice(0, 8)}`.replace("/", "-");
const films = await client.createCollection({ name, embeddingFunction: null });
await films.add({
  ids: ["alien", "amelie"],
  embeddings: [[1, 0], [0, 1]],
  documents: ["a crew meets a stranger", "love in Paris"],
  metadatas: [{ year: 1979 }, { year: 2001 }],
});
const found = await films.query({ queryEmbeddings: [[0.9, 0.1]], nResults: 1, where: { year: { $lt: 2000 } } });
assert.deepEqual(found.ids, [["alien"]]);
assert.equal(await films.count(), 2);
await client.deleteCollection({ name });

const stranger = new ChromaClient({ ...address, headers: basic("somebody:else") });
await assert.rejects(stranger.listCollections(), /401|[Uu]nauthori[sz]ed/);
console.log("done");
