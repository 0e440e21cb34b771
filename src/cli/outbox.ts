import type { Command } from "./command.ts";
import { durationText } from "./duration.ts";
import { openBackends } from "./project.ts";

/** Counts of the outbox rows, by database. */
export const outboxStatus: Command = {
  description: "Rows of the outbox by state, for each database",
  flags: {
    output: {
      type: "text",
      short: "o",
      hint: "FORMAT",
      choices: ["table", "json", "jsonl", "csv"],
      description: "table, json, jsonl or csv",
    },
  },
  async run(invocation) {
    const { stores, close } = await openBackends(invocation);
    const empty = "Nothing is stored yet.";
    try {
      const rows = await Promise.all(
        [...(stores?.databases.values() ?? [])].map(async ({ name, outbox }) => {
          const { oldest_ms, ...counts } = await outbox.counts();
          return { database: name, ...counts, oldest_ms, oldest: oldest_ms === null ? null : durationText(oldest_ms) };
        }),
      );
      return {
        data: { outboxes: rows.map(({ oldest: _shown, ...row }) => row) },
        list: {
          columns: [
            { key: "database", title: "DATABASE" },
            { key: "pending", title: "PENDING" },
            { key: "processing", title: "PROCESSING" },
            { key: "published", title: "PUBLISHED" },
            { key: "failed", title: "FAILED" },
            { key: "abandoned", title: "ABANDONED" },
            { key: "oldest", title: "OLDEST" },
          ],
          rows,
          empty,
        },
      };
    } finally {
      await close();
    }
  },
};
