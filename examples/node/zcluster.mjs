// A client of zcluster, written from docs/protocol.md: a session, calls, fan-outs, streams, large bodies both ways.
//
// It keeps one session and does not reconnect: when that is lost, what waits for an answer fails with `master_lost`.

import { randomBytes } from "node:crypto";
import { Dealer } from "zeromq";
import { Credit, decode, encode, Flag, Kind, Status, VERSION } from "./frames.mjs";
import { readKeyFile } from "./keyfile.mjs";
import { fail, Request, ZclusterError } from "./request.mjs";

export { ZclusterError };

const WELCOME_MS = 5000;
const LINGER_MS = 500;
const LARGEST_FRAME_BYTES = 64 * 1024 * 1024; // what a cluster may be configured to
const GROUPS = 64; // in one message: the master takes no more globs
const MEMBERS = 4096;

export class Client {
  #key;
  #socket;
  #welcome = null;
  #opening;
  #over = null; // the error that ended the session
  #lastId = 0;
  #requests = new Map(); // by id, those that have no answer yet
  #control = []; // frames; they overtake the two below
  #waiting = []; // requests that have not left
  #uploads = []; // bodies of requests that have credit
  #pumping = false;
  #beats = null;
  #heardMs = 0;

  /** Open a session with the key file `path`; every option of the others has a default. */
  static async connect(path, { software = "zcluster-example 0.1.0" } = {}) {
    const key = readKeyFile(path);
    let last = fail("invalid_key", `${path} names no address of a master`);
    for (const address of key.master.addresses) {
      const client = new Client(key);
      try {
        await client.#open(address, software);
        return client;
      } catch (error) {
        last = error;
      }
    }
    throw last;
  }

  constructor(key) {
    this.#key = key;
  }

  /** What the master said of this session: `name`, `role`, `cluster`, `master`, the limits… */
  get welcome() {
    return this.#welcome;
  }

  /**
   * Run a function once and return its value.
   * Options: `target` ("any"), `timeoutMs` (30000), `priority` (5), `idempotent` (as the function declares).
   */
  async call(name, args, options = {}) {
    const request = this.#request(name, args, options, 0);
    try {
      const answer = await request.next();
      if (answer.status === Status.VALUE) return answer.value;
      throw fail("usage", `${name} answers with items: use stream()`);
    } finally {
      this.#forget(request);
    }
  }

  /** The items of a function that streams (of any other its one value). Leaving the loop cancels it. */
  async *stream(name, args, options = {}) {
    const request = this.#request(name, args, options, 0);
    try {
      for (;;) {
        const { status, leg, value } = await request.next();
        if (status === Status.END) return;
        yield value;
        if (status === Status.VALUE) return;
        this.#taken(request, leg);
      }
    } finally {
      this.#forget(request);
    }
  }

  /**
   * Run a function on every node that `target` ("all") means. Yields what they say as it comes, each with `node` and one of
   * `value`, `error`, `item` (of a function that streams) and `end` (it has no more items).
   */
  async *fanOut(name, args, options = {}) {
    const request = this.#request(name, args, { target: "all", ...options }, Flag.FAN_OUT);
    try {
      for (;;) {
        const { status, node, leg, value } = await request.next();
        if (status === Status.DONE) return;
        if (status === Status.VALUE) yield { node, value };
        else if (status === Status.ERROR) yield { node, error: value };
        else if (status === Status.END) yield { node, end: true };
        else {
          yield { node, item: value };
          this.#taken(request, leg);
        }
      }
    } finally {
      this.#forget(request);
    }
  }

  /** Say goodbye. What has no answer yet fails with `cancelled`. */
  async close() {
    if (this.#over) return;
    this.#control.push(encode(Kind.BYE, {}));
    await this.#pump();
    this.#end(fail("cancelled", "the client was closed"));
  }

  // -- the session

  async #open(address, software) {
    const { master, public: publicKey, secret } = this.#key;
    this.#socket = new Dealer({
      linger: LINGER_MS, reconnectInterval: -1, maxMessageSize: LARGEST_FRAME_BYTES,
      curveServerKey: master.public, curvePublicKey: publicKey, curveSecretKey: secret,
    });
    const opened = new Promise((resolve, reject) => (this.#opening = { resolve, reject }));
    const patience = setTimeout(() => this.#end(fail("unreachable", `no answer from ${address}`)), WELCOME_MS);
    this.#socket.events.on("handshake:error:auth", () => this.#end(fail("not_allowed", `${address} does not admit this key`)));
    this.#socket.events.on("disconnect", () => this.#end(fail("master_lost", `the connection to ${address} was lost`)));
    this.#socket.connect(address);
    this.#read();
    this.#say(Kind.HELLO, { versions: [VERSION], software, instance: randomBytes(8).toString("hex") });
    try {
      await opened;
    } finally {
      clearTimeout(patience);
    }
  }

  async #read() {
    try {
      for await (const [frame] of this.#socket) {
        this.#heardMs = performance.now();
        this.#receive(decode(frame));
      }
    } catch (error) {
      this.#end(error instanceof ZclusterError ? error : fail("protocol_error", error.message));
    }
  }

  #receive({ kind, header, bodies }) {
    if (this.#over) return;
    if (kind === Kind.WELCOME) this.#welcomed(header);
    else if (kind === Kind.REPLIES) this.#replies(header[0], bodies);
    else if (kind === Kind.CHUNK) this.#chunk(header, bodies);
    else if (kind === Kind.CREDIT) for (const grant of header.grants) this.#granted(grant);
    else if (kind === Kind.BYE && !header.draining) this.#end(new ZclusterError(header));
    else if (kind === Kind.REFUSAL) this.#refused(header);
    // BEAT is a sign of life and no more, CATALOG is for who sends requests again; kinds that are not known are ignored.
  }

  /** Nothing of one message was done. It does not say which: none that was sent can be waited for. */
  #refused(refusal) {
    if (refusal.code === "unsupported_version") this.#end(new ZclusterError(refusal));
    const ofRequests = refusal.about === Kind.REQUESTS || !refusal.about; // 0: the message could not be read
    const sent = ofRequests ? [...this.#requests.values()].filter((request) => request.sent) : [];
    if (sent.length > 0) this.#say(Kind.CANCEL, { ids: sent.map((request) => request.id) });
    for (const request of sent) request.fail(new ZclusterError(refusal));
  }

  #welcomed(welcome) {
    if (this.#welcome) return;
    this.#welcome = welcome;
    const beatMs = welcome.heartbeat_s * 1000;
    this.#beats = setInterval(() => {
      if (performance.now() - this.#heardMs > beatMs * welcome.lease_heartbeats) {
        this.#end(fail("master_lost", "the master is silent"));
      } else {
        this.#say(Kind.BEAT, {});
      }
    }, beatMs);
    this.#opening.resolve();
  }

  #end(error) {
    if (this.#over) return;
    this.#over = error;
    clearInterval(this.#beats);
    this.#opening.reject(error);
    const lost = this.#welcome ? fail(error.code === "cancelled" ? "cancelled" : "master_lost", error.message) : error;
    for (const request of [...this.#requests.values()]) request.fail(lost);
    this.#socket.close();
  }

  // -- what leaves

  #say(kind, header) {
    this.#control.push(encode(kind, header));
    this.#pump();
  }

  async #pump() {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      await null; // what is asked for in this turn leaves together
      for (let frame; (frame = this.#control.shift() ?? this.#nextRequests() ?? this.#nextChunk()); ) await this.#socket.send(frame);
    } catch (error) {
      this.#end(fail("master_lost", error.message));
    } finally {
      this.#pumping = false;
    }
  }

  #nextRequests() {
    const budget = Math.max(this.#welcome?.chunk_bytes ?? 0, this.#welcome?.inline_bytes ?? 0);
    const groups = [];
    const bodies = [];
    let bytes = 0;
    let members = 0;
    while (this.#waiting.length > 0 && members < MEMBERS) {
      const request = this.#waiting[0];
      const last = groups.at(-1);
      const joins = last !== undefined && request.joins(last);
      const body = request.large ? Buffer.alloc(0) : request.body;
      const more = body.length + 20 + (joins ? 0 : Buffer.byteLength(JSON.stringify([request.name, request.target])) + 80);
      if (members > 0 && (bytes + more > budget || (!joins && groups.length === GROUPS))) break;
      if (joins) last[6].push(request.body.length);
      else groups.push(request.group());
      if (body.length > 0) bodies.push(body);
      this.#waiting.shift();
      request.sent = true;
      bytes += more;
      members += 1;
    }
    return groups.length > 0 ? encode(Kind.REQUESTS, [groups], bodies) : undefined;
  }

  #nextChunk() {
    for (let upload; (upload = this.#uploads.shift()); ) {
      const { request, leg, offset } = upload;
      const end = Math.min(offset + this.#welcome.chunk_bytes, upload.upto, request.body.length);
      upload.queued = false;
      if (request.ended || end <= offset) continue;
      upload.offset = end;
      if (end < Math.min(upload.upto, request.body.length)) this.#queue(upload); // behind the others: they take turns
      return encode(Kind.CHUNK, [request.id, leg, offset], [request.body.subarray(offset, end)]);
    }
    return undefined;
  }

  #queue(upload) {
    if (upload.queued) return;
    upload.queued = true;
    this.#uploads.push(upload);
    this.#pump();
  }

  // -- requests

  #request(name, args, { target = "any", timeoutMs = 30000, priority = 5, idempotent = false }, flag) {
    if (this.#over) throw this.#over;
    const body = args === undefined ? Buffer.alloc(0) : Buffer.from(JSON.stringify(args), "utf8");
    if (body.length > this.#welcome.body_bytes) throw fail("too_large", `arguments of ${body.length} bytes`);
    const large = body.length > this.#welcome.inline_bytes;
    const flags = flag | (large ? Flag.LARGE : 0) | (idempotent ? Flag.IDEMPOTENT : 0);
    const request = new Request({ id: (this.#lastId += 1), name, target, timeoutMs, priority, flags, body, large });
    this.#requests.set(request.id, request);
    this.#waiting.push(request);
    this.#pump();
    return request;
  }

  /** Nothing more of it is wanted. */
  #forget(request) {
    clearTimeout(request.timer);
    this.#requests.delete(request.id);
    if (request.ended || this.#over) return;
    request.ended = true;
    if (request.sent) this.#say(Kind.CANCEL, { ids: [request.id] });
    else this.#waiting.splice(this.#waiting.indexOf(request), 1);
  }

  #replies(groups, bodies) {
    let offset = 0;
    for (const [firstId, status, node, leg, sizes] of groups) {
      let id = firstId;
      for (const size of sizes) {
        const length = status === Status.LARGE_VALUE ? 0 : size;
        const body = bodies.subarray(offset, offset + length);
        offset += length;
        const request = this.#requests.get(id);
        if (request && status === Status.LARGE_VALUE) this.#coming(request, node, leg, size);
        else if (request) request.take(status, node, leg, body);
        if (status !== Status.ITEM) id += 1;
      }
    }
  }

  #coming(request, node, leg, size) {
    if (size > this.#welcome.body_bytes) {
      request.take(Status.ERROR, node, leg, Buffer.from(JSON.stringify({ code: "too_large", message: `a value of ${size} bytes` })));
    } else {
      request.values.set(leg, { node, size, pieces: [], got: 0, upto: 0 });
      this.#wantMore(request, leg);
    }
  }

  #wantMore(request, leg) {
    const value = request.values.get(leg);
    const window = this.#welcome.window_bytes;
    if (value.upto - value.got > window / 2) return;
    value.upto = value.got + window;
    this.#grant(request, leg, Credit.VALUE_BODY, value.upto);
  }

  #chunk([id, leg, offset], bytes) {
    const request = this.#requests.get(id);
    const value = request?.values.get(leg);
    if (!value) return;
    if (offset !== value.got || value.got + bytes.length > value.size) {
      throw fail("protocol_error", `a chunk at ${offset} of ${value.size} bytes, expected ${value.got}`);
    }
    value.pieces.push(bytes);
    value.got += bytes.length;
    if (value.got < value.size) {
      this.#wantMore(request, leg);
    } else {
      request.values.delete(leg);
      request.take(Status.VALUE, value.node, leg, Buffer.concat(value.pieces));
    }
  }

  #granted([id, leg, of, upto]) {
    const request = this.#requests.get(id);
    if (!request || of !== Credit.REQUEST_BODY) return;
    // A leg that is new begins with the body's first byte: the request went to another node, or to several.
    const upload = request.uploads.get(leg) ?? { request, leg, offset: 0, upto: 0, queued: false };
    request.uploads.set(leg, upload);
    upload.upto = Math.max(upload.upto, upto);
    this.#queue(upload);
  }

  #taken(request, leg) {
    const upto = request.taken(leg);
    if (upto > 0 && !request.ended) this.#grant(request, leg, Credit.ITEMS, upto);
  }

  #grant(request, leg, of, upto) {
    this.#say(Kind.CREDIT, { grants: [[request.id, leg, of, upto]] });
  }
}
