// node fanout.mjs KEYFILE FUNCTION [ARGUMENTS as JSON] [TARGET]
import { Client } from "./zcluster.mjs";

const [keyFile, name, args = "{}", target = "all"] = process.argv.slice(2);
let client;
try {
  client = await Client.connect(keyFile);
  for await (const { node, value, error } of client.fanOut(name, JSON.parse(args), { target })) {
    console.log(`${node} ${error ? `${error.code}: ${error.message}` : JSON.stringify(value)}`);
    if (error) process.exitCode = 3;
  }
} catch (error) {
  console.error(`${error.code ?? error.name}: ${error.message}`);
  process.exitCode = 1;
} finally {
  await client?.close();
}
