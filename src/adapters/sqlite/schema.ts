import { ConfigurationError } from "../../errors.ts";
import type { Connection } from "./connection.ts";
import { sqlTime } from "./time.ts";

/** One step from the layout before it. Steps are never changed once released, only added. */
export interface Migration {
  readonly version: number;
  readonly name: string;
  readonly sql: string;
}

/**
 * Our tables. `outbox` and `processed_message` have Python's columns (wire-format §10, §11) and these of ours: `outbox.entry_id`; in
 * `outbox.sequence_number`, always null in Python, stands the order of insertion.
 */
export const MIGRATIONS: readonly Migration[] = [
  {
    version: 1,
    name: "first layout",
    sql: `
CREATE TABLE messages (
  global_position INTEGER PRIMARY KEY AUTOINCREMENT,
  position INTEGER NOT NULL,
  time DATETIME NOT NULL,
  stream_name TEXT NOT NULL,
  category TEXT GENERATED ALWAYS AS (
    CASE instr(stream_name, '-') WHEN 0 THEN stream_name ELSE substr(stream_name, 1, instr(stream_name, '-') - 1) END
  ) VIRTUAL,
  type TEXT NOT NULL,
  data TEXT NOT NULL,
  metadata TEXT,
  id TEXT NOT NULL
);
CREATE UNIQUE INDEX messages_id ON messages (id);
CREATE UNIQUE INDEX messages_stream ON messages (stream_name, position);
CREATE INDEX messages_category ON messages (category, global_position);

CREATE TABLE outbox (
	message_id VARCHAR(255) NOT NULL, 
	stream_name VARCHAR(255) NOT NULL, 
	type VARCHAR(255) NOT NULL, 
	data JSON NOT NULL, 
	metadata_ BLOB NOT NULL, 
	created_at DATETIME, 
	published_at DATETIME, 
	retry_count INTEGER, 
	last_processed_at DATETIME, 
	last_error JSON, 
	status VARCHAR(32), 
	max_retries INTEGER, 
	next_retry_at DATETIME, 
	locked_until DATETIME, 
	locked_by VARCHAR(128), 
	sequence_number INTEGER, 
	correlation_id VARCHAR(255), 
	causation_id VARCHAR(255), 
	partition_key VARCHAR(255), 
	priority INTEGER, 
	target_broker VARCHAR(128) NOT NULL, 
	id VARCHAR(255), 
	_version INTEGER, 
	entry_id VARCHAR(64), 
	PRIMARY KEY (id), 
	UNIQUE (id)
);
CREATE INDEX ix_outbox_correlation_id ON outbox (correlation_id);
CREATE UNIQUE INDEX uq_outbox_message_id_target_broker ON outbox (message_id, target_broker);
CREATE INDEX ix_outbox_active ON outbox (status, priority DESC) WHERE status IN ('pending', 'failed');
CREATE INDEX ix_outbox_sequence ON outbox (sequence_number);
CREATE INDEX ix_outbox_queue ON outbox (target_broker, priority DESC, sequence_number, stream_name)
  WHERE status IN ('pending', 'processing', 'failed');
CREATE INDEX ix_outbox_stream ON outbox (target_broker, stream_name, sequence_number)
  WHERE status IN ('pending', 'processing', 'failed');
CREATE INDEX ix_outbox_busy ON outbox (target_broker, locked_by, locked_until, next_retry_at) WHERE status IN ('processing', 'failed');
CREATE INDEX ix_outbox_done ON outbox (status, last_processed_at, target_broker) WHERE status IN ('published', 'abandoned');

CREATE TABLE protean_signal (name TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO protean_signal VALUES ('outbox', 0);

CREATE TABLE processed_message (
	message_id VARCHAR(255) NOT NULL, 
	handler VARCHAR(255) NOT NULL, 
	processed_at DATETIME, 
	id VARCHAR(255), 
	_version INTEGER, 
	PRIMARY KEY (id), 
	UNIQUE (id)
);
CREATE UNIQUE INDEX uq_processed_message_message_id_handler ON processed_message (message_id, handler);
CREATE INDEX ix_processed_message_processed_at ON processed_message (processed_at);

CREATE TABLE protean_lease (
  name TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  generation INTEGER NOT NULL,
  expires_ms REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE protean_instance (id TEXT PRIMARY KEY, record TEXT NOT NULL, expires_ms REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE protean_idempotency (key TEXT PRIMARY KEY, value TEXT NOT NULL, expires_ms REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX protean_idempotency_expiry ON protean_idempotency (expires_ms);

CREATE TABLE protean_stream (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  last_ms INTEGER NOT NULL,
  last_seq INTEGER NOT NULL,
  entry_count INTEGER NOT NULL,
  changed INTEGER NOT NULL
);
CREATE INDEX protean_stream_changed ON protean_stream (changed);
CREATE TABLE protean_entry (
  rowid INTEGER PRIMARY KEY,
  stream_id INTEGER NOT NULL,
  ms INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  fields BLOB NOT NULL
);
CREATE UNIQUE INDEX protean_entry_id ON protean_entry (stream_id, ms, seq);
CREATE TABLE protean_group (
  id INTEGER PRIMARY KEY,
  stream_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  last_ms INTEGER NOT NULL,
  last_seq INTEGER NOT NULL,
  UNIQUE (stream_id, name)
);
CREATE TABLE protean_consumer (
  group_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  seen_ms REAL NOT NULL,
  PRIMARY KEY (group_id, name)
) WITHOUT ROWID;
CREATE TABLE protean_pending (
  group_id INTEGER NOT NULL,
  ms INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  consumer TEXT NOT NULL,
  delivered_ms REAL NOT NULL,
  deliveries INTEGER NOT NULL,
  PRIMARY KEY (group_id, ms, seq)
) WITHOUT ROWID;
CREATE INDEX protean_pending_consumer ON protean_pending (group_id, consumer);
`,
  },
];

/** What the schema of an opened file was before. */
export interface SchemaChange {
  readonly from: number;
  readonly to: number;
}

/** Version of our tables in the file; 0 when it has none. */
export function schemaVersion(connection: Connection): number {
  return connection.get<{ user_version: number }>("PRAGMA user_version")?.user_version ?? 0;
}

/**
 * Brings our tables to the newest version, in one transaction (rulings 51).
 * @param file as messages name it
 * @param keepCopy called before a file with an older version is changed
 * @returns what was changed, null when nothing had to be
 * @throws ConfigurationError for a file of a newer version, or one that holds tables of the same names that aren't ours
 */
export function migrate(
  connection: Connection,
  options: {
    readonly file: string;
    readonly now_ms: number;
    readonly keepCopy: () => void;
    readonly migrations?: readonly Migration[];
  },
): SchemaChange | null {
  const migrations = options.migrations ?? MIGRATIONS;
  const newest = Math.max(...migrations.map(({ version }) => version));
  const before = schemaVersion(connection);
  if (before > newest) {
    throw new ConfigurationError(`${options.file} has schema version ${before}, this version of protean knows up to ${newest}`, {
      at: options.file,
      fix: "Use the newer version of protean with this file, or give another data_dir.",
    });
  }
  if (before === newest) return null;
  if (before === 0) refuseForeign(connection, options.file);
  else options.keepCopy();
  return connection.transaction(() => {
    // Another process may have been faster.
    const from = schemaVersion(connection);
    if (from >= newest) return null;
    connection.execute(
      "CREATE TABLE IF NOT EXISTS protean_migration (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at DATETIME NOT NULL)",
    );
    for (const migration of migrations) {
      if (migration.version <= from) continue;
      connection.execute(migration.sql);
      connection.run("INSERT INTO protean_migration VALUES (?, ?, ?)", migration.version, migration.name, sqlTime(options.now_ms));
    }
    connection.execute(`PRAGMA user_version = ${newest}`);
    return { from, to: newest };
  });
}

function refuseForeign(connection: Connection, file: string): void {
  const foreign = connection.get<{ name: string }>(
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND (name IN ('messages', 'outbox', 'processed_message') OR name LIKE 'protean\\_%' ESCAPE '\\') LIMIT 1",
  );
  // Two processes may open a fresh file at once: then the tables are ours, and so is the version by now.
  if (foreign === undefined || schemaVersion(connection) > 0) return;
  throw new ConfigurationError(`${file} holds a table "${foreign.name}" that was not made by this version of protean`, {
    at: file,
    fix: "Give the path of a file of its own; a file of the Python version can't be shared.",
  });
}
