/**
 * The floors of the PostgreSQL workloads: postgres.js and ioredis, and as little else as possible.
 *
 *   outbox   claim 100 rows by UPDATE … SKIP LOCKED, one pipelined XADD each, one UPDATE that marks them: two commits a batch
 *   events   pages of 100 by get_category_messages, JSON.parse of data and metadata, the position written once a page
 *
 * They drop retries, order per source stream, leases, checksums, traces and error handling: a reference, not a goal.
 * Arguments: workload, PostgreSQL URL, Redis port, number of messages.
 */
import { Redis } from "ioredis";
import postgres from "postgres";

const [workload, url = "", port, count] = process.argv.slice(2);
const BATCH = 100;
const sql = postgres(url, { max: 2, onnotice: () => {}, connection: { search_path: "message_store, public" } });
let done = 0;

if (workload === "outbox") {
  const client = new Redis(Number(port), "127.0.0.1", { enableAutoPipelining: true });
  while (done < Number(count)) {
    const rows =
      await sql`UPDATE outbox SET status = 'processing', locked_by = 'floor', locked_until = now() + interval '5 minutes', last_processed_at = now()
      WHERE id IN (SELECT id FROM outbox WHERE status = 'pending' ORDER BY priority DESC LIMIT ${BATCH} FOR UPDATE SKIP LOCKED)
      RETURNING id, data::text AS data, metadata_, stream_name, message_id, type`;
    await Promise.all(
      rows.map((row) => {
        const { id, stream } = { id: String(row["message_id"]), stream: String(row["stream_name"]) };
        const metadata = { headers: { id, type: row["type"], stream }, envelope: { specversion: "1.0" }, domain: { kind: "EVENT" } };
        return client.xadd("bench::account", "*", "data", JSON.stringify({ data: JSON.parse(String(row["data"])), metadata }));
      }),
    );
    await sql`UPDATE outbox SET status = 'published', published_at = now(), last_processed_at = now(), locked_by = NULL, locked_until = NULL
      WHERE id = ANY(${rows.map((row) => String(row["id"]))})`;
    done += rows.length;
  }
  client.disconnect();
} else {
  let position = 0;
  while (done < Number(count)) {
    const rows =
      await sql`SELECT global_position::float8 AS at, data, metadata FROM get_category_messages('bench::account', ${position + 1}, ${BATCH})`;
    for (const row of rows) {
      JSON.parse(row["data"]);
      JSON.parse(row["metadata"]);
      position = row["at"];
    }
    done += rows.length;
    await sql`SELECT write_message(${crypto.randomUUID()}, 'position-floor-bench::account', 'Read', ${sql.json({ position })}::jsonb)`;
  }
}
await sql.end();
