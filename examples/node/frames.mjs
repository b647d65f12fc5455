// The frame of docs/protocol.md: 'Z', version, kind, 0, length of the header, header (JSON), bodies.

export const VERSION = 1;

export const Kind = Object.freeze({
  HELLO: 1, WELCOME: 2, BEAT: 3, BYE: 4, REFUSAL: 5, CANCEL: 6, CREDIT: 7, CATALOG: 8, REQUESTS: 16, REPLIES: 19, CHUNK: 20,
});

export const Status = Object.freeze({ VALUE: 0, ERROR: 1, ITEM: 2, END: 3, LARGE_VALUE: 4, DONE: 5 });

export const Flag = Object.freeze({ LARGE: 1, FAN_OUT: 2, IDEMPOTENT: 4 });

export const Credit = Object.freeze({ REQUEST_BODY: 0, VALUE_BODY: 1, ITEMS: 2 });

const MAGIC = 0x5a;
const PREFIX_BYTES = 8;

/** The bytes of one message: `header` is what becomes JSON, `bodies` are Buffers. */
export function encode(kind, header, bodies = []) {
  const text = Buffer.from(JSON.stringify(header), "utf8");
  const prefix = Buffer.alloc(PREFIX_BYTES);
  prefix.writeUInt8(MAGIC, 0);
  prefix.writeUInt8(VERSION, 1);
  prefix.writeUInt8(kind, 2);
  prefix.writeUInt32BE(text.length, 4);
  return Buffer.concat([prefix, text, ...bodies]);
}

/** `{kind, header, bodies}` of a frame; `bodies` are all bytes behind the header. Throws a RangeError for what is no frame. */
export function decode(frame) {
  if (frame.length < PREFIX_BYTES || frame[0] !== MAGIC || frame[3] !== 0) throw new RangeError("not a frame of zcluster");
  if (frame[1] !== VERSION) throw new RangeError(`a frame of protocol version ${frame[1]}`);
  const end = PREFIX_BYTES + frame.readUInt32BE(4);
  if (end > frame.length) throw new RangeError("the header is longer than its frame");
  try {
    return { kind: frame[2], header: JSON.parse(frame.toString("utf8", PREFIX_BYTES, end)), bodies: frame.subarray(end) };
  } catch (error) {
    throw new RangeError(`the header is no JSON: ${error.message}`);
  }
}
