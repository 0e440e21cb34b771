import type { Command } from "./command.ts";

/** A command's line in the help and the way to its file, which is imported only when it is called. */
export interface CommandEntry {
  readonly summary: string;
  readonly load: () => Promise<Command>;
}

/** All commands by what is typed; two words for those of a group. */
export const COMMANDS: Readonly<Record<string, CommandEntry>> = {
  server: { summary: "Run the engine: handle messages until stopped", load: async () => (await import("./server.ts")).server },
  dev: { summary: "Run the engine and restart it when files change", load: async () => (await import("./dev.ts")).dev },
  new: { summary: "Write a new project", load: async () => (await import("./new.ts")).newProject },
  "send command": { summary: "Send a command", load: async () => (await import("./send.ts")).sendCommand },
  "send event": { summary: "Publish an event of another context", load: async () => (await import("./send.ts")).sendEvent },
  "send message": { summary: "Publish a payload for subscribers", load: async () => (await import("./send.ts")).sendMessage },
  query: { summary: "Run a query, or read a projection", load: async () => (await import("./query.ts")).query },
  check: { summary: "Load everything and tell what is wrong, touching no backend", load: async () => (await import("./check.ts")).check },
  "config show": {
    summary: "Effective configuration and where each value comes from",
    load: async () => (await import("./config.ts")).configShow,
  },
  "config validate": {
    summary: "Check the configuration, unknown keys included",
    load: async () => (await import("./config.ts")).configValidate,
  },
  "config get": { summary: "One value", load: async () => (await import("./config.ts")).configGet },
  "config path": { summary: "Path of the file in use", load: async () => (await import("./config.ts")).configPath },
  "db setup": { summary: "Create what is missing in every backend", load: async () => (await import("./db.ts")).dbSetup },
  "db migrate": { summary: "Add what the databases' tables lack", load: async () => (await import("./db.ts")).dbMigrate },
  "db truncate": { summary: "Delete all rows of the domain", load: async () => (await import("./db.ts")).dbTruncate },
  "db drop": { summary: "Remove the domain's tables", load: async () => (await import("./db.ts")).dbDrop },
  "db backup": { summary: "Copy a SQLite database that may be in use", load: async () => (await import("./db-backup.ts")).dbBackup },
  "db restore": { summary: "Put a backup back", load: async () => (await import("./db-backup.ts")).dbRestore },
  "db import": {
    summary: "Take over a SQLite file of Protean for Python",
    load: async () => (await import("./db-import.ts")).dbImport,
  },
  "subscriptions status": {
    summary: "Lag, pending and dead letters of every subscription",
    load: async () => (await import("./subscriptions.ts")).subscriptionsStatus,
  },
  "subscriptions list": {
    summary: "Handlers, streams and groups",
    load: async () => (await import("./subscriptions.ts")).subscriptionsList,
  },
  "dlq list": { summary: "Messages that were given up", load: async () => (await import("./dlq.ts")).dlqList },
  "dlq inspect": { summary: "One of them: error, attempts, payload", load: async () => (await import("./dlq.ts")).dlqInspect },
  "dlq replay": { summary: "Give them to the failed handler again", load: async () => (await import("./dlq.ts")).dlqReplay },
  "outbox status": { summary: "Rows of the outbox by state", load: async () => (await import("./outbox.ts")).outboxStatus },
  "outbox list": { summary: "The rows, and why they failed", load: async () => (await import("./outbox.ts")).outboxList },
  "outbox retry": { summary: "New attempts for failed and abandoned rows", load: async () => (await import("./outbox.ts")).outboxRetry },
  "outbox reconcile": {
    summary: "Add outbox rows that the event store's messages lack",
    load: async () => (await import("./outbox.ts")).outboxReconcile,
  },
  recover: { summary: "Compare the stores after a restore, and repair", load: async () => (await import("./recover.ts")).recover },
  health: { summary: "Ask a running server whether it is ready", load: async () => (await import("./health.ts")).health },
  version: { summary: "Version, commit, Bun and platform", load: async () => (await import("./version.ts")).version },
};

/** Groups that mean one of their commands when nothing follows. */
export const DEFAULT_OF_GROUP: Readonly<Record<string, string>> = { subscriptions: "subscriptions status" };

/** Commands of the original that are not here: what to do instead, one sentence each. */
export const NOT_HERE: Readonly<Record<string, string>> = {
  "dlq replay-all": "Give the ids that `protean dlq list` shows to `protean dlq replay ID…`.",
  "dlq purge": "It is not in this version; dead letters go by themselves after `[server.dlq] retention_hours`.",
  "eventstore dlq list": "Both kinds of dead letters are in `protean dlq list`.",
  "eventstore dlq inspect": "Use `protean dlq inspect es:POSITION`.",
  "eventstore dlq replay": "Use `protean dlq replay es:POSITION`.",
  "eventstore dlq purge": "It is not in this version.",
  "eventstore verify": "It is not in this version.",
  "events read": "It is not in this version.",
  "events stats": "It is not in this version.",
  "events search": "It is not in this version.",
  "events history": "It is not in this version.",
  "events trace": "It is not in this version; `protean send … --wait` shows the tree of what it sent.",
  "events catalog": "It is not in this version; `protean check` lists the elements.",
  "projection status": "`protean subscriptions status` shows the lag of projectors.",
  "projection rebuild": "It is not in this version.",
  "snapshot create": "It is not in this version; the library has domain.createSnapshot.",
  "idempotency cleanup": "The server removes old keys and markers by itself.",
  "db setup-outbox": "`protean db setup` makes the outbox too.",
  observatory: "The dashboard is not in this version.",
  events: "It is not in this version; `protean send … --wait` shows what a message brought about.",
  eventstore: "Both kinds of dead letters are in `protean dlq`.",
  projection: "`protean query` reads projections; rebuilding them is not in this version.",
  snapshot: "It is not in this version; the library has domain.createSnapshot.",
  idempotency: "The server removes old keys and markers by itself.",
  verify: "Use `protean check && bun test`.",
  test: "Use `bun test`.",
  "upgrade-check": "It is about the Python package; `protean check` tells what is wrong here.",
  dx: "It is about the Python package.",
  mcp: "It is about the Python package.",
  shell: "It is not in this version; `protean send` and `protean query` do most of it.",
  add: "It is not in this version; copy handlers/order.ts of `protean new`.",
  ir: "It is about the Python package.",
  schema: "It is not in this version.",
  docs: "It is not in this version.",
};
