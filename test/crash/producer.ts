/**
 * Sends commands and foreign messages from a process of its own, in whose working directory the server's domain.toml lies:
 * `bun producer.ts NAME COUNT BOOKS FOREIGN_EVERY [MOOD=EVERY…]`. Every id is written down in `produced.log` before anything is sent, and again in `accepted.log` when
 * it was accepted. What is refused because a store is away is sent again, by the same id, until it is accepted.
 */
import { appendFileSync } from "node:fs";
import process from "node:process";
import { ConnectionError, SendError } from "protean";
import { domain, Post } from "./handlers/ledger.ts";

const [name = "p", count = "100", books = "4", foreignEvery = "5", ...moods] = process.argv.slice(2);
const every = moods.map((text) => {
  const [mood = "fine", at = "0"] = text.split("=");
  return { mood, at: Number(at) };
});

await domain.init({ role: "client" });
for (let number = 1; number <= Number(count); number += 1) {
  const entryId = `${name}-${String(number).padStart(5, "0")}`;
  const mood = every.find(({ at }) => number % at === 0)?.mood ?? "fine";
  const foreign = number % Number(foreignEvery) === 0;
  appendFileSync("produced.log", `${JSON.stringify({ entry: entryId, mood, foreign })}\n`);
  await sent(() => domain.process(new Post({ bookId: `book-${number % Number(books)}`, entryId, mood }), { idempotencyKey: entryId }));
  if (foreign) await sent(() => domain.brokers.publish("incoming", { entryId }));
  appendFileSync("accepted.log", `${entryId}\n`);
}
await domain.close();

async function sent(send: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await send();
      return;
    } catch (error) {
      if (!(error instanceof ConnectionError || error instanceof SendError)) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}
