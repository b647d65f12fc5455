// What examples/node can do beside its three programs, on a real cluster: node node_client_checks.mjs KEYFILE STRANGERS_KEYFILE
import assert from "node:assert/strict";
import { Client } from "./zcluster.mjs";

const [keyFile, strangersKeyFile] = process.argv.slice(2);
const client = await Client.connect(keyFile);
const codeOf = async (promise) => (await promise.then(() => null, (error) => error))?.code;

assert.deepEqual([client.welcome.name, client.welcome.role, client.welcome.master], ["client", "client", "master"]);

// 1,000 calls at once, which leave in few messages: each answer belongs to its call.
const sums = await Promise.all(Array.from({ length: 1000 }, (_, n) => client.call("echo", { value: n })));
assert.deepEqual(sums, Array.from({ length: 1000 }, (_, n) => n));

// A large body there and back, in chunks both ways; two at a time; and in a fan-out to every node at once.
const text = "Grüße ".repeat(400_000);
const [one, two] = await Promise.all([client.call("echo", { value: text }), client.call("echo", { value: [text] })]);
assert.ok(one === text && two[0] === text);
const nodes = [];
for await (const { node, value } of client.fanOut("echo", { value: text })) {
  assert.ok(value === text);
  nodes.push(node);
}
assert.deepEqual(nodes.sort(), ["master", "worker-1"]);

// Streams to several nodes, each with its own credit.
const counts = {};
for await (const { node, item, end, error } of client.fanOut("page.count", { to: 100 }, { target: "worker-*" })) {
  assert.equal(error, undefined);
  if (end) counts[`${node} ended`] = true;
  else assert.equal(item, (counts[node] = (counts[node] ?? 0) + 1));
}
assert.deepEqual(counts, { "worker-1": 100, "worker-1 ended": true });

// Errors say what is wrong, whose fault it is, and the session goes on.
assert.equal(await codeOf(client.call("echo", { valu: 1 }, { target: "worker-1" })), "invalid_arguments");
assert.equal(await codeOf(client.call("echo", { value: 1 }, { target: "worker-9" })), "no_such_node");
assert.equal(await codeOf(client.call("echo", { value: 1 }, { target: "all" })), "usage");
assert.equal(await codeOf(client.call("nothing.there")), "no_such_function");
assert.equal(await codeOf(client.call("page.count", { to: 3 })), "usage");
assert.equal(await codeOf(client.call("node.sleep", { seconds: 60 }, { timeoutMs: 50 })), "timed_out");
assert.equal(await codeOf(client.call("echo", { value: "x".repeat(client.welcome.body_bytes) })), "too_large");

// A message that is refused as a whole fails what was sent, and nothing else.
assert.equal(await codeOf(client.call("echo", { value: 1 }, { priority: 12 })), "protocol_error");
assert.equal(await client.call("echo", { value: 2 }), 2);

// A stream that is left is cancelled at its node.
const before = await client.call("page.stopped");
for await (const item of client.stream("page.forever")) if (item === 40) break;
while ((await client.call("page.stopped")) === before);

// The end of a session ends what waits.
const waiting = codeOf(client.call("node.sleep", { seconds: 60 }));
await client.close();
assert.equal(await waiting, "cancelled");
assert.equal(await codeOf((async () => client.call("echo"))()), "cancelled");

// A key that is not admitted learns it from the handshake.
assert.equal(await codeOf(Client.connect(strangersKeyFile)), "not_allowed");
console.log("all as it should be");
