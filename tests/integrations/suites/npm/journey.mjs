// The npm client `chromadb` 3.x against the server at CHROMA_ASYNC_TEST_URL.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { afterEach, beforeEach, test } from "node:test";

import {
  ChromaClient,
  ChromaConnectionError,
  ChromaNotFoundError,
  ChromaUniqueError,
  AdminClient,
  K,
  Knn,
} from "chromadb";

const SERVER = new URL(process.env.CHROMA_ASYNC_TEST_URL);
const address = { host: SERVER.hostname, port: Number(SERVER.port), ssl: false };
const client = new ChromaClient(address);

class WordEmbedding {
  name = "words";
  async generate(texts) {
    return texts.map((text) => [...["space", "love", "computer"].map((word) => text.split(word).length - 1), 1]);
  }
}

const FILMS = {
  ids: ["alien", "2001", "amelie"],
  embeddings: [[1, 0, 0], [0.5, 0, 1], [0, 1, 0]],
  documents: ["a crew in space meets a stranger", "a computer in space loses its mind", "love in Paris, and gnomes"],
  metadatas: [
    { year: 1979, rating: 8.5, colour: true, genres: ["horror", "space"] },
    { year: 1968, rating: 8.3, colour: true, genres: ["space"] },
    { year: 2001, rating: 8.0, colour: false },
  ],
  uris: ["file:///alien", "file:///2001", "file:///amelie"],
};

let films;

beforeEach(async () => {
  const name = `films-${randomUUID()}`;
  films = await client.createCollection({ name, metadata: { about: "films" }, embeddingFunction: null });
  await films.add(FILMS);
});

afterEach(async () => {
  const names = (await client.listCollections({ limit: 1000 })).map((collection) => collection.name);
  if (names.includes(films.name)) await client.deleteCollection({ name: films.name });
});

const close = (found, expected) => {
  assert.equal(found.length, expected.length);
  found.forEach((number, position) => assert.ok(Math.abs(number - expected[position]) < 1e-6, `${found} != ${expected}`));
};

test("client learns about the server", async () => {
  assert.ok((await client.heartbeat()) > 1.6e18);
  assert.match(await client.version(), /^\d+\.\d+/);
  assert.ok((await client.getMaxBatchSize()) >= 5461);
  assert.equal(await client.supportsBase64Encoding(), true);
  const identity = await client.getUserIdentity();
  assert.equal(identity.tenant, "default_tenant");
  assert.deepEqual(identity.databases, ["default_database"]);
});

test("collections are created, found, listed, counted and deleted", async () => {
  const found = await client.getCollection({ name: films.name });
  assert.equal(found.id, films.id);
  assert.deepEqual(found.metadata, { about: "films" });
  assert.equal((await client.getOrCreateCollection({ name: films.name, embeddingFunction: null })).id, films.id);
  const listed = await client.listCollections({ limit: 1000 });
  assert.ok(listed.some((collection) => collection.id === films.id));
  assert.equal(await client.countCollections(), listed.length);
  await client.deleteCollection({ name: films.name });
  assert.equal(await client.countCollections(), listed.length - 1);
  await assert.rejects(client.getCollection({ name: films.name }), ChromaNotFoundError);
});

test("lists of collections are paged", async () => {
  const listed = (await client.listCollections({ limit: 1000 })).map((collection) => collection.name);
  const [last] = await client.listCollections({ limit: 1, offset: listed.length - 1 });
  assert.equal(last.name, listed.at(-1));
  assert.deepEqual(await client.listCollections({ limit: 1, offset: listed.length }), []);
});

test("configuration is kept, and ef_search can be changed", async () => {
  const name = `configured-${randomUUID()}`;
  const configuration = { hnsw: { space: "cosine", ef_construction: 150, max_neighbors: 24 } };
  const created = await client.createCollection({ name, configuration, embeddingFunction: null });
  assert.equal(created.configuration.hnsw.space, "cosine");
  await created.modify({ configuration: { hnsw: { ef_search: 77 } } });
  const { hnsw } = (await client.getCollection({ name })).configuration;
  assert.deepEqual([hnsw.space, hnsw.ef_construction, hnsw.max_neighbors, hnsw.ef_search], ["cosine", 150, 24, 77]);
  await created.add({ ids: ["a", "b"], embeddings: [[2, 0], [0, 3]] });
  const found = await created.query({ queryEmbeddings: [[1, 0]] });
  close(found.distances[0], [0, 1]);
  await client.deleteCollection({ name });
});

test("get returns what was added", async () => {
  const include = ["embeddings", "documents", "metadatas", "uris"];
  const found = await films.get({ ids: ["amelie"], include });
  assert.deepEqual(found.ids, ["amelie"]);
  assert.deepEqual(found.rows(), [
    { id: "amelie", document: FILMS.documents[2], embedding: [0, 1, 0], metadata: FILMS.metadatas[2], uri: FILMS.uris[2] },
  ]);
  assert.deepEqual((await films.get({ ids: ["alien"] })).metadatas, [FILMS.metadatas[0]]);
  assert.equal(await films.count(), 3);
});

test("get pages and peeks in the order of insertion", async () => {
  assert.deepEqual((await films.get({ limit: 1, offset: 1 })).ids, ["2001"]);
  assert.deepEqual((await films.peek({ limit: 2 })).ids, ["alien", "2001"]);
});

test("query returns the nearest first, with all that is asked for", async () => {
  const include = ["distances", "documents", "metadatas", "embeddings", "uris"];
  const found = await films.query({ queryEmbeddings: [[1, 0, 0], [0, 1, 0]], nResults: 2, include });
  assert.deepEqual(found.ids[0], ["alien", "2001"]);
  assert.equal(found.ids[1][0], "amelie");
  close(found.distances[0], [0, 1.25]);
  const [[nearest]] = found.rows();
  assert.equal(nearest.document, FILMS.documents[0]);
  assert.deepEqual(nearest.metadata, FILMS.metadatas[0]);
  assert.deepEqual(nearest.embedding, [1, 0, 0]);
  assert.equal(nearest.uri, "file:///alien");
});

// JavaScript sends 8.0 as 8, so that `rating` is a whole number in one record: it has to compare with fractions all the same.
const FILTERS = [
  [{ year: 1979 }, ["alien"]],
  [{ year: { $eq: 1979 } }, ["alien"]],
  [{ year: { $ne: 1979 } }, ["2001", "amelie"]],
  [{ year: { $gt: 1979 } }, ["amelie"]],
  [{ rating: { $gte: 8.3 } }, ["2001", "alien"]],
  [{ rating: { $lt: 8.3 } }, ["amelie"]],
  [{ year: { $lte: 1979 } }, ["2001", "alien"]],
  [{ colour: false }, ["amelie"]],
  [{ year: { $in: [1968, 2001] } }, ["2001", "amelie"]],
  [{ year: { $nin: [1968, 2001] } }, ["alien"]],
  [{ genres: { $contains: "space" } }, ["2001", "alien"]],
  [{ $and: [{ colour: true }, { year: { $gt: 1970 } }] }, ["alien"]],
  [{ $or: [{ colour: false }, { $and: [{ colour: true }, { year: 1968 }] }] }, ["2001", "amelie"]],
];

for (const [where, expected] of FILTERS) {
  test(`filter ${JSON.stringify(where)} holds in get and in query`, async () => {
    assert.deepEqual((await films.get({ where })).ids.sort(), expected);
    assert.deepEqual((await films.query({ queryEmbeddings: [[1, 0, 0]], where })).ids[0].sort(), expected);
  });
}

const DOCUMENT_FILTERS = [
  [{ $contains: "space" }, ["2001", "alien"]],
  [{ $not_contains: "space" }, ["amelie"]],
  [{ $regex: "gnomes?$" }, ["amelie"]],
  [{ $not_regex: "gnomes?$" }, ["2001", "alien"]],
  [{ $and: [{ $contains: "space" }, { $contains: "crew" }] }, ["alien"]],
  [{ $or: [{ $contains: "crew" }, { $contains: "Paris" }] }, ["alien", "amelie"]],
];

for (const [whereDocument, expected] of DOCUMENT_FILTERS) {
  test(`document filter ${JSON.stringify(whereDocument)} holds in get and in query`, async () => {
    assert.deepEqual((await films.get({ whereDocument })).ids.sort(), expected);
    assert.deepEqual((await films.query({ queryEmbeddings: [[1, 0, 0]], whereDocument })).ids[0].sort(), expected);
  });
}

test("query is limited to the ids that it names", async () => {
  const found = await films.query({ queryEmbeddings: [[1, 0, 0]], ids: ["2001", "amelie"], nResults: 9 });
  assert.deepEqual(found.ids, [["2001", "amelie"]]);
});

test("update changes what it names, and merges metadata", async () => {
  await films.update({ ids: ["alien"], metadatas: [{ year: 1980, director: "Scott" }] });
  await films.update({ ids: ["2001"], embeddings: [[0, 0, 9]], documents: ["remade"] });
  const found = await films.get({ ids: ["alien", "2001"], include: ["metadatas", "documents", "embeddings"] });
  const [alien, odyssey] = found.rows();
  assert.deepEqual(alien.metadata, { ...FILMS.metadatas[0], year: 1980, director: "Scott" });
  assert.equal(alien.document, FILMS.documents[0]);
  assert.equal(odyssey.document, "remade");
  assert.deepEqual(odyssey.embedding, [0, 0, 9]);
});

test("upsert adds and replaces", async () => {
  await films.upsert({
    ids: ["alien", "brazil"],
    embeddings: [[0, 0, 1], [0, 0, 2]],
    documents: ["replaced", "added"],
  });
  assert.equal(await films.count(), 4);
  assert.deepEqual((await films.get({ ids: ["alien", "brazil"] })).documents, ["replaced", "added"]);
});

test("adding an id that exists changes nothing", async () => {
  await films.add({ ids: ["alien"], embeddings: [[9, 9, 9]], documents: ["other"] });
  assert.deepEqual((await films.get({ ids: ["alien"] })).documents, [FILMS.documents[0]]);
});

test("delete takes ids, filters and a limit, and counts", async () => {
  assert.equal((await films.delete({ ids: ["alien"] })).deleted, 1);
  assert.equal((await films.delete({ where: { year: { $gt: 1900 } }, limit: 1 })).deleted, 1);
  assert.equal((await films.delete({ whereDocument: { $contains: "a" } })).deleted, 1);
  assert.equal(await films.count(), 0);
});

test("modify renames and replaces metadata", async () => {
  const name = `renamed-${randomUUID()}`;
  await films.modify({ name, metadata: { about: "cinema" } });
  const found = await client.getCollection({ name });
  assert.equal(found.id, films.id);
  assert.deepEqual(found.metadata, { about: "cinema" });
  assert.equal(films.name, name);
});

test("embedding function of the caller embeds documents and queries", async () => {
  const name = `embedded-${randomUUID()}`;
  const embeddingFunction = new WordEmbedding();
  const collection = await client.createCollection({ name, embeddingFunction });
  await collection.add({ ids: ["a", "b"], documents: ["space and space", "love"] });
  const again = await client.getCollection({ name, embeddingFunction });
  assert.deepEqual((await again.query({ queryTexts: ["love"], nResults: 1 })).ids, [["b"]]);
  await client.deleteCollection({ name });
});

test("a thousand records keep their vectors to the last bit of float32", async () => {
  const ids = Array.from({ length: 1000 }, (_, position) => `r${position}`);
  const embeddings = ids.map((_, position) => [Math.fround(Math.sin(position)), Math.fround(1 / (position + 3)), -0.5]);
  await films.upsert({ ids, embeddings });
  const found = await films.get({ ids: ["r0", "r999"], include: ["embeddings"] });
  const rounded = found.embeddings.map((vector) => vector.map(Math.fround));
  assert.deepEqual(rounded, [embeddings[0], embeddings[999]]);
  assert.equal(await films.count(), 1003);
});

test("errors have the classes of the client", async () => {
  await assert.rejects(client.createCollection({ name: films.name, embeddingFunction: null }), ChromaUniqueError);
  await assert.rejects(client.getCollection({ name: `none-${randomUUID()}` }), ChromaNotFoundError);
  await assert.rejects(client.deleteCollection({ name: `none-${randomUUID()}` }), ChromaNotFoundError);
  await client.deleteCollection({ name: films.name });
  await assert.rejects(films.count(), ChromaNotFoundError);
  const nowhere = new ChromaClient({ ...address, port: 1 });
  await assert.rejects(nowhere.heartbeat(), ChromaConnectionError);
});

test("a vector of another dimension and a bad name are refused with a message", async () => {
  await assert.rejects(films.add({ ids: ["x"], embeddings: [[1, 2]] }), /dimension/i);
  await assert.rejects(films.query({ queryEmbeddings: [[1, 2]] }), /dimension/i);
  await assert.rejects(client.createCollection({ name: "a", embeddingFunction: null }), /name/i);
});

test("tenants and databases are made and kept apart", async () => {
  const admin = new AdminClient(address);
  const [tenant, database] = [`tenant-${randomUUID()}`, `database-${randomUUID()}`];
  await admin.createTenant({ name: tenant });
  assert.equal(await admin.getTenant({ name: tenant }), tenant);
  await admin.createDatabase({ name: database, tenant });
  assert.deepEqual((await admin.listDatabases({ tenant })).map(({ name }) => name), [database]);
  const inside = new ChromaClient({ ...address, tenant, database });
  await inside.createCollection({ name: films.name, embeddingFunction: null });
  assert.equal(await inside.countCollections(), 1);
  await admin.deleteDatabase({ name: database, tenant });
  await assert.rejects(admin.getDatabase({ name: database, tenant }), ChromaNotFoundError);
  assert.equal(await films.count(), 3);
});
