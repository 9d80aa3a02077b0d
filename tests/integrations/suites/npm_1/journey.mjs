// The npm client `chromadb` 1.10, as older programs use it, against the server at CHROMA_ASYNC_TEST_URL.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { afterEach, beforeEach, test } from "node:test";

import { ChromaClient, ChromaNotFoundError, ChromaUniqueError, IncludeEnum } from "chromadb";

const client = new ChromaClient({ path: process.env.CHROMA_ASYNC_TEST_URL });

const embeddingFunction = {
  generate: async (texts) =>
    texts.map((text) => [...["space", "love", "computer"].map((word) => text.split(word).length - 1), 1]),
};

const FILMS = {
  ids: ["alien", "2001", "amelie"],
  embeddings: [[1, 0, 0, 1], [1, 0, 1, 1], [0, 1, 0, 1]],
  documents: ["a crew in space meets a stranger", "a computer in space loses its mind", "love in Paris, and gnomes"],
  metadatas: [{ year: 1979, colour: true }, { year: 1968, colour: true }, { year: 2001, colour: false }],
};

let films;

beforeEach(async () => {
  const metadata = { about: "films", "hnsw:space": "cosine" };
  films = await client.createCollection({ name: `films-${randomUUID()}`, metadata, embeddingFunction });
  await films.add(FILMS);
});

afterEach(async () => {
  if ((await client.listCollections({ limit: 1000 })).includes(films.name)) {
    await client.deleteCollection({ name: films.name });
  }
});

test("client learns about the server", async () => {
  assert.ok((await client.heartbeat()) > 1.6e18);
  assert.match(await client.version(), /^\d+\.\d+/);
});

test("collections are found, listed, counted and deleted", async () => {
  const found = await client.getCollection({ name: films.name, embeddingFunction });
  assert.equal(found.id, films.id);
  assert.deepEqual(found.metadata, { about: "films", "hnsw:space": "cosine" });
  assert.equal((await client.getOrCreateCollection({ name: films.name, embeddingFunction })).id, films.id);
  const before = await client.countCollections();
  const listed = await client.listCollectionsAndMetadata({ limit: 1000 });
  assert.equal(listed.length, before);
  assert.deepEqual(listed.find(({ id }) => id === films.id).metadata, { about: "films", "hnsw:space": "cosine" });
  await client.deleteCollection({ name: films.name });
  assert.equal(await client.countCollections(), before - 1);
});

test("get returns what was added, in pages and by filter", async () => {
  const include = [IncludeEnum.Embeddings, IncludeEnum.Documents, IncludeEnum.Metadatas];
  const found = await films.get({ ids: ["amelie"], include });
  const rounded = found.embeddings.map((vector) => vector.map((number) => Number(number.toFixed(6))));
  assert.deepEqual(rounded, [[0, 1, 0, 1]]);
  assert.deepEqual(found.documents, [FILMS.documents[2]]);
  assert.deepEqual(found.metadatas, [FILMS.metadatas[2]]);
  assert.deepEqual((await films.get({ limit: 1, offset: 1 })).ids, ["2001"]);
  assert.deepEqual((await films.get({ where: { year: { $in: [1979, 2001] } } })).ids, ["alien", "amelie"]);
  assert.deepEqual((await films.get({ whereDocument: { $not_contains: "space" } })).ids, ["amelie"]);
  assert.deepEqual((await films.peek({ limit: 2 })).ids, ["alien", "2001"]);
  assert.equal(await films.count(), 3);
});

test("query takes texts or vectors, and filters", async () => {
  const found = await films.query({ queryTexts: ["a computer in space", "love"], nResults: 2 });
  assert.deepEqual([found.ids[0], found.ids[1][0]], [["2001", "alien"], "amelie"]);
  assert.ok(Math.abs(found.distances[0][0]) < 1e-6);
  const queryEmbeddings = [[1, 0, 1, 1]];
  const where = { $and: [{ colour: true }, { year: { $gt: 1970 } }] };
  assert.deepEqual((await films.query({ queryEmbeddings, nResults: 3, where })).ids, [["alien"]]);
  const whereDocument = { $or: [{ $contains: "crew" }, { $contains: "gnomes" }] };
  assert.deepEqual((await films.query({ queryEmbeddings, nResults: 3, whereDocument })).ids, [["alien", "amelie"]]);
});

test("update, upsert and delete change what they name", async () => {
  await films.update({ ids: ["alien"], metadatas: [{ year: 1980 }] });
  assert.deepEqual((await films.get({ ids: ["alien"] })).metadatas, [{ year: 1980, colour: true }]);
  await films.upsert({ ids: ["amelie", "brazil"], documents: ["love", "computer love"] });
  assert.deepEqual((await films.get({ ids: ["amelie", "brazil"] })).documents, ["love", "computer love"]);
  await films.delete({ where: { year: { $lt: 1970 } } });
  await films.delete({ ids: ["alien"] });
  assert.deepEqual((await films.get()).ids, ["amelie", "brazil"]);
});

test("modify renames", async () => {
  const name = `renamed-${randomUUID()}`;
  await films.modify({ name, metadata: { about: "cinema" } });
  const found = await client.getCollection({ name, embeddingFunction });
  assert.equal(found.id, films.id);
  assert.deepEqual(found.metadata, { about: "cinema" });
  assert.equal(films.name, name);
});

test("errors have the classes of the client", async () => {
  await assert.rejects(client.createCollection({ name: films.name, embeddingFunction }), ChromaUniqueError);
  await assert.rejects(client.getCollection({ name: `none-${randomUUID()}`, embeddingFunction }), ChromaNotFoundError);
  await assert.rejects(films.add({ ids: ["x"], embeddings: [[1, 2]] }), /dimension/i);
});
