// One request: what it asks, and what has been said to it.

import { Flag, Status } from "./frames.mjs";

const FIRST_ITEMS = 16; // a node may send so many before any credit
const ITEMS_AHEAD = 32;
const GRACE_MS = 500; // the master's own `timed_out` says more than ours: it goes first

export class ZclusterError extends Error {
  /** `code` is one of docs/protocol.md; `hint` says what to do next. */
  constructor({ code = "failed", message = "", hint = "", request_id: requestId = "", node = "", retry_after_s: retryAfterS = null }) {
    super(message || code);
    Object.assign(this, { name: "ZclusterError", code, hint, requestId, node, retryAfterS });
  }
}

export const fail = (code, message) => new ZclusterError({ code, message });

export class Request {
  sent = false;
  ended = false;
  uploads = new Map(); // by leg: its body, on its way to a node
  values = new Map(); // by leg: large values on their way here
  #items = new Map(); // by leg: items consumed and granted
  #answers = [];
  #reader = null;
  #failed = null;

  constructor(asked) {
    Object.assign(this, asked); // id, name, target, timeoutMs, priority, flags, body, large
    this.timer = setTimeout(() => this.#timedOut(), this.timeoutMs + GRACE_MS);
  }

  /** A RequestGroup with this request in it. */
  group() {
    return [this.name, this.target, this.timeoutMs, this.priority, this.flags, this.id, [this.body.length]];
  }

  /** Whether it can be the next one of a group: only id and body differ. */
  joins([name, target, timeoutMs, priority, flags, firstId, sizes]) {
    return (
      this.name === name && this.target === target && this.timeoutMs === timeoutMs && this.priority === priority &&
      this.flags === flags && !this.large && this.id === firstId + sizes.length
    );
  }

  /** What the master said to it. */
  take(status, node, leg, body) {
    const value = body.length > 0 ? JSON.parse(body.toString("utf8")) : null;
    const wholeFailed = status === Status.ERROR && (node === "" || !(this.flags & Flag.FAN_OUT));
    if (wholeFailed) {
      this.fail(new ZclusterError({ ...value, node: value.node ?? node }));
      return;
    }
    if (status === Status.DONE || (!(this.flags & Flag.FAN_OUT) && status !== Status.ITEM)) this.ended = true;
    if (status === Status.ERROR) this.values.delete(leg);
    this.#answers.push({ status, node, leg, value: status === Status.ERROR ? new ZclusterError({ ...value, node }) : value });
    this.#wake();
  }

  /** It ends with `error`, after what was said before. */
  fail(error) {
    this.ended = true;
    this.#failed = error;
    this.#wake();
  }

  /** The next of what is said to it: `{status, node, leg, value}`; an error that ends it is thrown. */
  async next() {
    while (this.#answers.length === 0) {
      if (this.#failed) throw this.#failed;
      await new Promise((resolve) => (this.#reader = resolve));
    }
    return this.#answers.shift();
  }

  /** One item of `leg` was consumed: how many to grant in all now, or 0. */
  taken(leg) {
    const items = this.#items.get(leg) ?? { taken: 0, upto: FIRST_ITEMS };
    this.#items.set(leg, items);
    items.taken += 1;
    if (items.upto - items.taken >= FIRST_ITEMS) return 0;
    items.upto = items.taken + ITEMS_AHEAD;
    return items.upto;
  }

  #timedOut() {
    if (this.ended) return;
    this.#failed = fail("timed_out", `no answer within ${this.timeoutMs} ms`);
    this.#wake(); // it has not ended for the master: whoever reads this cancels it
  }

  #wake() {
    this.#reader?.();
    this.#reader = null;
  }
}
