/**
 * The steps by which our tables in a SQLite file came about. Steps are never changed once released, only added.
 *
 * `outbox` and `processed_message` are Python's tables, as it issues them (golden `schema-sqlite.sql`), so that a file can be shared with it. Ours in
 * them, which it doesn't look at: the column `outbox.entry_id` and some indexes. The order of insertion is the `rowid`, which rows of both have.
 */

export interface Migration {
  readonly version: number;
  readonly name: string;
  /** Programs that know this version or a later one can use the file afterwards (`StoredVersion`). */
  readonly usableFrom: number;
  /** May call `protean_pickle`: metadata in JSON as Python keeps it. */
  readonly sql: string;
}

/** Columns of Python's outbox, in its order. */
export const OUTBOX_COLUMNS = [
  "message_id",
  "stream_name",
  "type",
  "data",
  "metadata_",
  "created_at",
  "published_at",
  "retry_count",
  "last_processed_at",
  "last_error",
  "status",
  "max_retries",
  "next_retry_at",
  "locked_until",
  "locked_by",
  "sequence_number",
  "correlation_id",
  "causation_id",
  "partition_key",
  "priority",
  "target_broker",
  "id",
  "_version",
] as const;

export const PROCESSED_COLUMNS = ["message_id", "handler", "processed_at", "id", "_version"] as const;

export const MIGRATIONS: readonly Migration[] = [
  {
    version: 1,
    name: "first layout",
    usableFrom: 1,
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
  {
    version: 2,
    name: "outbox as Python keeps it",
    // A program of version 1 would take the pickles for unreadable rows and give them up.
    usableFrom: 2,
    sql: `
ALTER TABLE outbox RENAME TO protean_outbox_1;
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
	PRIMARY KEY (id), 
	UNIQUE (id)
);
ALTER TABLE outbox ADD COLUMN entry_id VARCHAR(64);
INSERT INTO outbox
  SELECT message_id, stream_name, type, data, protean_pickle(metadata_), created_at, published_at, retry_count, last_processed_at, last_error, status,
    max_retries, next_retry_at, locked_until, locked_by, NULL, correlation_id, causation_id, partition_key, priority, target_broker, id, _version,
    entry_id
  FROM protean_outbox_1 ORDER BY sequence_number;
DROP TABLE protean_outbox_1;
CREATE INDEX ix_outbox_correlation_id ON outbox (correlation_id);
CREATE UNIQUE INDEX uq_outbox_message_id_target_broker ON outbox (message_id, target_broker);
CREATE INDEX ix_outbox_active ON outbox (status, priority DESC) WHERE status IN ('pending', 'failed');
CREATE INDEX ix_protean_outbox_queue ON outbox (target_broker, priority DESC) WHERE status IN ('pending', 'processing', 'failed');
CREATE INDEX ix_protean_outbox_stream ON outbox (target_broker, stream_name) WHERE status IN ('pending', 'processing', 'failed');
CREATE INDEX ix_protean_outbox_busy ON outbox (target_broker, locked_by, locked_until, next_retry_at) WHERE status IN ('processing', 'failed');
CREATE INDEX ix_protean_outbox_done ON outbox (status, last_processed_at, target_broker) WHERE status IN ('published', 'abandoned');
`,
  },
];
