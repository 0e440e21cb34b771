/**
 * The floor of the stream workload: XREADGROUP COUNT 100, JSON.parse, one XACK a batch that travels with the next read; nothing else. It drops
 * retries, dead letters, claiming, checksums, traces and error handling: a reference, not a goal.
 * Arguments: port, stream, group, number of messages.
 */
import { Redis } from "ioredis";

const [port, stream = "", group = "", count] = process.argv.slice(2);
const client = new Redis(Number(port), "127.0.0.1", { enableAutoPipelining: false });
await client.xgroup("CREATE", stream, group, "0", "MKSTREAM");
let acknowledge: string[] = [];
let handled = 0;
while (handled < Number(count)) {
  if (acknowledge.length > 0) void client.xack(stream, group, ...acknowledge);
  const reply = (await client.xreadgroup("GROUP", group, "floor", "COUNT", 100, "BLOCK", 100, "STREAMS", stream, ">")) as
    | [string, [string, string[]][]][]
    | null;
  acknowledge = [];
  for (const [, entries] of reply ?? []) {
    for (const [id, [, data = "{}"]] of entries) {
      JSON.parse(data);
      handled += 1;
      acknowledge.push(id);
    }
  }
}
if (acknowledge.length > 0) await client.xack(stream, group, ...acknowledge);
client.disconnect();
