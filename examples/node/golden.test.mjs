// The frames of tests/golden: read, written again, and what a client says written from its fields, byte for byte.
// ZCLUSTER_GOLDEN names their directory when it is not beside this example.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { Credit, decode, encode, Flag, Kind, Status } from "./frames.mjs";
import { parse } from "./keyfile.mjs";

const GOLDEN = process.env.ZCLUSTER_GOLDEN ?? join(dirname(fileURLToPath(import.meta.url)), "../../tests/golden");

/** Each frame of a file: `{name, header (its text), frame (its bytes)}`. */
function samples(file) {
  return readFileSync(join(GOLDEN, file), "utf8").trim().split("\n\n").map((block) => {
    const lines = block.split("\n");
    const digits = lines.filter((line) => /^[0-9a-f]+$/.test(line)).join("");
    const header = lines.find((line) => line.startsWith("header ")).slice("header ".length);
    return { name: lines[0].slice(2), header, frame: Buffer.from(digits, "hex") };
  });
}

const files = readdirSync(GOLDEN).filter((name) => name.endsWith(".txt")).sort();
const all = Object.fromEntries(files.flatMap(samples).map((sample) => [sample.name, sample.frame]));

/** Numbers as JavaScript writes them: the protocol lets a number be written 1.0 or 1. Text stays as it is. */
const asHere = (json) => json.replace(/"(?:[^"\\]|\\.)*"|(-?\d+)\.0(?![\d])/g, (token, whole) => whole ?? token);

test("every frame is read, and written again with the same bytes", () => {
  assert.ok(files.length >= 40, `${files.length} files`);
  let same = 0;
  for (const { name, header, frame } of files.flatMap(samples)) {
    const message = decode(frame);
    assert.deepEqual(message.header, JSON.parse(header), name);
    const again = encode(message.kind, message.header, [message.bodies]);
    const expected = asHere(header) === header ? frame : encode(message.kind, JSON.parse(header), [message.bodies]);
    assert.deepEqual(again, expected, name);
    assert.equal(JSON.stringify(decode(again).header), asHere(header), name);
    if (again.equals(frame)) same += 1;
  }
  assert.ok(same >= 80, `${same} frames of the same bytes`);
});

test("what a client says has the golden bytes", () => {
  const said = {
    "HELLO: a client's": encode(Kind.HELLO, { versions: [1], software: "example 1.0", instance: "a1b2c3" }),
    "BEAT: a client's, and the master's answer": encode(Kind.BEAT, {}),
    "BYE: a peer leaves": encode(Kind.BYE, {}),
    "CANCEL: of two requests": encode(Kind.CANCEL, { ids: [1, Number.MAX_SAFE_INTEGER] }),
    "CREDIT: for all that there is credit for": encode(Kind.CREDIT, {
      grants: [[0, 5, Credit.REQUEST_BODY, 1048576], [3, 6, Credit.VALUE_BODY, 300000], [4, 7, Credit.ITEMS, 80]],
    }),
    "REQUESTS: three requests of one group, the second without arguments": encode(
      Kind.REQUESTS, [[["math.add", "any", 30000, 5, 0, 1, [7, 0, 8]]]], [Buffer.from('{"a":1}'), Buffer.from('{"a":22}')],
    ),
    "REQUESTS: a fan-out, and one whose body comes in chunks": encode(Kind.REQUESTS, [
      [
        ["node.info", "web-*,master", 5000, 9, Flag.FAN_OUT | Flag.IDEMPOTENT, 4, [0]],
        ["echo", "worker-1", 0, 0, Flag.LARGE, 5, [307200]],
      ],
    ]),
    "CHUNK: from a client": encode(Kind.CHUNK, [5, 43, 262144], [Buffer.from('"tail of a body"')]),
  };
  for (const [name, frame] of Object.entries(said)) assert.deepEqual(frame, all[name], name);
});

test("what a client is told is read", () => {
  const welcome = decode(all["WELCOME: the default limits"]);
  assert.equal(welcome.kind, Kind.WELCOME);
  assert.deepEqual([welcome.header.session, welcome.header.heartbeat_s, welcome.header.chunk_bytes], [7, 1, 262144]);
  const { header, bodies } = decode(all["REPLIES: values, an error of no node, items and their end, a large value"]);
  assert.deepEqual(header[0].map(([, status]) => status), [
    Status.VALUE, Status.ERROR, Status.ITEM, Status.END, Status.LARGE_VALUE,
  ]);
  assert.equal(bodies.subarray(0, 3).toString(), "344");
});

test("what is no frame is refused", () => {
  const hello = all["HELLO: a client's"];
  for (const [change, at] of [[0x59, 0], [2, 1], [1, 3], [0xff, 4], [0x7d, 8]]) {
    const frame = Buffer.from(hello);
    frame[at] = change;
    assert.throws(() => decode(frame), RangeError, `byte ${at}`);
  }
  assert.throws(() => decode(hello.subarray(0, 7)), RangeError);
});

test("a key file is read, and an error in it does not quote it", () => {
  const key = parse(
    '# zcluster key\nschema = 1\nname = "worker-1" # mine\npublic = "a#]\\"b"\n\n[master]\naddresses = ["tcp://[::1]:1", "tcp://b:2"]\n' +
      'publish = []\n\n[nodes."worker.1"]\npublic = "\\U0001f600\\\\"\n',
  );
  assert.deepEqual(
    [key.schema, key.name, key.public, key.master.addresses, key.master.publish, key.nodes["worker.1"].public],
    [1, "worker-1", 'a#]"b', ["tcp://[::1]:1", "tcp://b:2"], [], "😀\\"],
  );
  for (const line of ["secret = abc", 'secret = "abc', 'secret = "abc" x', "[master", 'a = "b"\na = "abc"', "secret"]) {
    assert.throws(() => parse(line), (error) => !error.message.includes("abc") && /line \d/.test(error.message), line);
  }
});
