// Reads a key file: the part of TOML that `zcluster keys new` writes, a key and its value on each line.

import { readFileSync, statSync } from "node:fs";

const BARE = /^[A-Za-z0-9_-]+/;
const STRING = /^"(?:[^"\\]|\\.)*"/;

/** The content of the key file `path`: `{name, role, cluster, public, secret, master: {public, addresses, publish}}`. */
export function readKeyFile(path) {
  const { mode } = statSync(path);
  if (mode & 0o077) throw new Error(`${path} holds a secret and others may read it: chmod 600 ${path}`);
  let key;
  try {
    key = parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new Error(`${path}: ${error.message}`);
  }
  if (key.schema !== 1) throw new Error(`${path}: schema ${key.schema} is not known, 1 is`);
  return key;
}

/** The tables and values of `text`. An error names the line, never what is in it: it could be the secret. */
export function parse(text) {
  const root = Object.create(null);
  let table = root;
  text.split(/\r?\n/).forEach((line, index) => {
    try {
      const rest = line.trim();
      if (rest === "" || rest.startsWith("#")) return;
      if (rest.startsWith("[")) table = openTable(root, rest);
      else readPair(table, rest);
    } catch {
      throw new Error(`line ${index + 1} cannot be read`);
    }
  });
  return root;
}

function openTable(root, line) {
  let rest = line.slice(1);
  let table = root;
  for (;;) {
    const [name, after] = readKey(rest);
    table = table[name] ??= Object.create(null);
    rest = after.trimStart();
    if (rest.startsWith("]")) break;
    if (!rest.startsWith(".")) throw new SyntaxError();
    rest = rest.slice(1).trimStart();
  }
  expectEnd(rest.slice(1));
  return table;
}

function readPair(table, line) {
  const [name, after] = readKey(line);
  const rest = after.trimStart();
  if (!rest.startsWith("=") || name in table) throw new SyntaxError();
  const [value, end] = readValue(rest.slice(1).trimStart());
  expectEnd(end);
  table[name] = value;
}

function readKey(text) {
  if (text.startsWith('"')) return readString(text);
  const name = BARE.exec(text)[0];
  return [name, text.slice(name.length)];
}

function readValue(text) {
  if (text.startsWith('"')) return readString(text);
  if (text.startsWith("[")) return readArray(text.slice(1));
  const [digits] = /^-?\d+/.exec(text);
  return [Number(digits), text.slice(digits.length)];
}

function readString(text) {
  const [quoted] = STRING.exec(text);
  // TOML's \UXXXXXXXX is the one escape that JSON has not.
  const json = quoted.replace(/\\(?:U([0-9a-fA-F]{8})|.)/g, (escape, digits) =>
    digits === undefined ? escape : JSON.stringify(String.fromCodePoint(parseInt(digits, 16))).slice(1, -1));
  return [JSON.parse(json), text.slice(quoted.length)];
}

function readArray(text) {
  const values = [];
  let rest = text.trimStart();
  while (!rest.startsWith("]")) {
    const [value, after] = readValue(rest);
    values.push(value);
    rest = after.trimStart();
    if (rest.startsWith(",")) rest = rest.slice(1).trimStart();
    else if (!rest.startsWith("]")) throw new SyntaxError();
  }
  return [values, rest.slice(1)];
}

function expectEnd(text) {
  const rest = text.trimStart();
  if (rest !== "" && !rest.startsWith("#")) throw new SyntaxError();
}
