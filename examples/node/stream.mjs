// node stream.mjs KEYFILE FUNCTION [ARGUMENTS as JSON] [HOW MANY]
import { Client } from "./zcluster.mjs";

const [keyFile, name, args = "{}", most = "Infinity"] = process.argv.slice(2);
let client;
try {
  client = await Client.connect(keyFile);
  let count = 0;
  for await (const item of client.stream(name, JSON.parse(args))) {
    console.log(JSON.stringify(item));
    if (++count >= Number(most)) break; // leaving the loop cancels the rest
  }
} catch (error) {
  console.error(`${error.code ?? error.name}: ${error.message}`);
  process.exitCode = 1;
} finally {
  await client?.close();
}
