// node call.mjs KEYFILE FUNCTION [ARGUMENTS as JSON] [TARGET]
import { Client } from "./zcluster.mjs";

const [keyFile, name, args = "{}", target = "any"] = process.argv.slice(2);
let client;
try {
  client = await Client.connect(keyFile);
  console.log(JSON.stringify(await client.call(name, JSON.parse(args), { target })));
} catch (error) {
  console.error(`${error.code ?? error.name}: ${error.message}${error.hint ? ` (${error.hint})` : ""}`);
  process.exitCode = 1;
} finally {
  await client?.close();
}
