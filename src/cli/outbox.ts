import type { OutboxRow, OutboxStatus } from "../ports/outbox-store.ts";
import type { Command, FlagSpec } from "./command.ts";
import { durationText } from "./duration.ts";
import { CommandError, EXIT, usageError } from "./problem.ts";
import { openBackends, openProject } from "./project.ts";

const LIMIT = 100;
const PAGE = 500;
const STATES: readonly OutboxStatus[] = ["pending", "processing", "published", "failed", "abandoned"];
const OUTPUT = {
  output: {
    type: "text",
    short: "o",
    hint: "FORMAT",
    choices: ["table", "json", "jsonl", "csv"],
    description: "table, json, jsonl or csv",
  },
} as const satisfies Readonly<Record<string, FlagSpec>>;
const DATABASE = {
  database: { type: "text", hint: "NAME", description: "Only this one of [databases]" },
} as const satisfies Readonly<Record<string, FlagSpec>>;

/** Counts of the outbox rows, by database. */
export const outboxStatus: Command = {
  description: "Rows of the outbox by state, for each database",
  flags: OUTPUT,
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

/** The rows themselves. */
export const outboxList: Command = {
  description: "Rows of the outbox, oldest first; --status failed shows what waits for its next attempt and why",
  flags: {
    status: { type: "text", hint: "STATE", choices: STATES, description: STATES.join(", ") },
    limit: { type: "text", hint: "N", description: `At most N rows of each database (${LIMIT})` },
    ...DATABASE,
    ...OUTPUT,
  },
  examples: ["protean outbox list --status failed", "protean outbox list --status abandoned -o jsonl"],
  async run(invocation) {
    const { values } = invocation;
    const limit = values.integer("limit", { least: 1 }) ?? LIMIT;
    const status = STATES.find((state) => state === values.text("status"));
    const { stores, close } = await openBackends(invocation);
    try {
      const rows: Record<string, unknown>[] = [];
      for (const { name, outbox } of namedDatabases([...(stores?.databases.values() ?? [])], values.text("database"))) {
        let after: string | undefined;
        for (let left = limit; left > 0; ) {
          const page = await outbox.list({
            limit: Math.min(PAGE, left),
            ...(status === undefined ? {} : { status }),
            ...(after === undefined ? {} : { after }),
          });
          rows.push(...page.map((row) => shown(name, row)));
          left -= page.length;
          after = page.at(-1)?.id;
          if (page.length < PAGE) break;
        }
      }
      return {
        data: { rows },
        list: {
          columns: [
            { key: "id", title: "ID" },
            { key: "database", title: "DATABASE", rank: 4 },
            { key: "status", title: "STATUS" },
            { key: "type", title: "TYPE" },
            { key: "stream", title: "STREAM", rank: 3 },
            { key: "broker", title: "BROKER", rank: 5 },
            { key: "attempts", title: "ATTEMPTS", rank: 1 },
            { key: "next_attempt_at", title: "NEXT ATTEMPT", rank: 2 },
            { key: "error", title: "ERROR", rank: 1 },
          ],
          rows,
          empty: status === undefined ? "The outbox is empty." : `No row is ${status}.`,
          ...(rows.some((row) => row["status"] === "failed" || row["status"] === "abandoned")
            ? { hint: "protean outbox retry ID… (or --all) gives failed and abandoned rows new attempts." }
            : {}),
        },
      };
    } finally {
      await close();
    }
  },
};

function shown(database: string, row: OutboxRow): Record<string, unknown> {
  return {
    id: row.id,
    database,
    message_id: row.messageId,
    status: row.status,
    type: row.type,
    stream: row.streamName,
    broker: row.targetBroker,
    attempts: row.retryCount,
    created_at: row.createdAt,
    published_at: row.publishedAt,
    next_attempt_at: row.nextRetryAt,
    locked_by: row.lockedBy,
    error: row.lastError,
  };
}

function namedDatabases<Part extends { readonly name: string }>(databases: readonly Part[], name: string | undefined): readonly Part[] {
  if (name === undefined) return databases;
  const found = databases.filter((database) => database.name === name);
  if (found.length > 0 || databases.length === 0) return found;
  throw usageError(
    `--database: there is no database "${name}"`,
    `Configured are: ${databases.map((database) => database.name).join(", ")}.`,
  );
}

/** New attempts for what was given up, or waits for its next one. */
export const outboxRetry: Command = {
  description: "Give failed and abandoned rows new attempts at once; a running server publishes them",
  flags: {
    all: { type: "boolean", description: "All that are failed or abandoned" },
    "dry-run": { type: "boolean", description: "Only count them" },
    ...DATABASE,
  },
  positionals: [{ name: "ID", description: "as protean outbox list shows it", rest: true }],
  examples: ["protean outbox retry 6f1c0c7e-…", "protean outbox retry --all"],
  async run(invocation) {
    const { values, output } = invocation;
    const ids = [...new Set(values.positionals)];
    const all = values.has("all");
    if (all === ids.length > 0) throw usageError("say which rows: ids, or --all", "protean outbox list --status failed shows them.");
    const { stores, close } = await openBackends(invocation);
    try {
      const counts: Record<string, number> = {};
      for (const { name, outbox } of namedDatabases([...(stores?.databases.values() ?? [])], values.text("database"))) {
        if (!values.has("dry-run")) counts[name] = await outbox.retry(all ? null : ids);
        else if (all) {
          const { failed, abandoned } = await outbox.counts();
          counts[name] = failed + abandoned;
        } else counts[name] = await foundAmong(outbox, ids);
      }
      const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
      if (total === 0 && !all) {
        throw new CommandError(EXIT.notFound, "NOT_FOUND", "no failed or abandoned row has one of these ids", {
          fix: "protean outbox list --status failed shows them.",
        });
      }
      if (values.has("dry-run")) return { data: { retried: {}, would_retry: counts }, text: `would retry ${total} rows` };
      if (total > 0) output.hint("A running server publishes them now.");
      return { data: { retried: counts }, text: `${total} ${total === 1 ? "row is" : "rows are"} pending again` };
    } finally {
      await close();
    }
  },
};

async function foundAmong(outbox: { list: OutboxLister }, ids: readonly string[]): Promise<number> {
  const wanted = new Set(ids);
  let found = 0;
  for (const status of ["failed", "abandoned"] as const) {
    for (let after: string | undefined; ; ) {
      const page = await outbox.list({ status, limit: PAGE, ...(after === undefined ? {} : { after }) });
      found += page.filter(({ id }) => wanted.has(id)).length;
      after = page.at(-1)?.id;
      if (page.length < PAGE) break;
    }
  }
  return found;
}

type OutboxLister = (options: {
  readonly status: OutboxStatus;
  readonly limit: number;
  readonly after?: string;
}) => Promise<readonly OutboxRow[]>;

/** What a kill between two commits left, or a database that was restored from a backup. */
export const outboxReconcile: Command = {
  description: "Compare the event store with the outbox, from the first message on, and add the rows that are missing",
  flags: { "dry-run": { type: "boolean", description: "Only count them" } },
  examples: ["protean outbox reconcile --dry-run", "protean outbox reconcile"],
  async run(invocation) {
    const { values, output } = invocation;
    const dryRun = values.has("dry-run");
    const project = await openProject(invocation, { role: "engine", setUp: true, tablesLater: dryRun });
    try {
      if (!project.config.hasOutbox) {
        throw new CommandError(EXIT.usage, "NO_OUTBOX", "the outbox is off: messages are not published by it", {
          fix: "Write enable_outbox = true in domain.toml.",
        });
      }
      const { reconcileOutboxes } = await import("../compose/reconcile.ts");
      const counts = Object.fromEntries(await reconcileOutboxes({ domain: project.domain, stores: project.stores, dryRun }));
      const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
      if (total > 0 && !dryRun) output.hint("A running server publishes them now.");
      const lines = Object.entries(counts).map(
        ([name, count]) => `database ${name}: ${count} ${count === 1 ? "row" : "rows"} ${dryRun ? "missing" : "added"}`,
      );
      return {
        data: dryRun ? { added: 0, would_add: total, databases: counts } : { added: total, databases: counts },
        text: lines.join("\n"),
      };
    } finally {
      await project.close();
    }
  },
};
