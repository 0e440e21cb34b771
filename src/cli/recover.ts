import { join } from "node:path";
import type { OrphanedEntry, RecoveryReport } from "../compose/recover.ts";
import { makeFolder, writeSafely } from "../runtime/files.ts";
import type { Command, Invocation } from "./command.ts";
import { confirm } from "./confirm.ts";
import { parseDuration_ms } from "./duration.ts";
import type { Outcome } from "./output.ts";
import { CommandError, EXIT, type Finding, usageError } from "./problem.ts";
import { isUntouched, loadProject, type OpenProject, openProject, shortPath } from "./project.ts";
import { checkpointData, verifyCheckpoints } from "./recover-checkpoints.ts";
import { refuseWhileServersRun } from "./running-servers.ts";

/** One line of the report. `repair` is null where nothing is to be done, or nothing can be. */
export interface RecoveryFinding {
  readonly kind: string;
  readonly where: string;
  readonly count: number | null;
  readonly what: string;
  readonly repair: string | null;
}

export const recover: Command = {
  description:
    "Compare what may not fit together after a restore: cursors, failed positions, outbox, streams and groups of brokers. Reports; --repair puts it right. The original's --verify-checkpoints and --reset-beyond-head are about cursors only",
  flags: {
    repair: { type: "boolean", description: "Put right what doesn't fit; no server may run" },
    since: {
      type: "text",
      hint: "TIME",
      description: "Time of the backup (2026-01-31T09:30:00Z, or 2h ago as 2h), for a dump of PostgreSQL or a copy without a note",
    },
    "verify-checkpoints": { type: "boolean", description: "Only cursors of event-store subscriptions and their failed positions" },
    "reset-beyond-head": { type: "boolean", description: "Put cursors beyond the head back to it, forget positions whose message is gone" },
    "dry-run": { type: "boolean", description: "Only say what a repair would do" },
    force: { type: "boolean", description: "Repair although servers run, or although something can't be compared" },
  },
  examples: ["protean recover", "protean recover --repair", "protean recover --verify-checkpoints --json"],
  async run(invocation) {
    const { values } = invocation;
    const verify = values.has("verify-checkpoints");
    if (values.has("reset-beyond-head") && !verify) {
      throw usageError("--reset-beyond-head requires --verify-checkpoints.", "Or run: protean recover --repair");
    }
    if (verify && values.has("repair"))
      throw usageError("--repair repairs everything, --verify-checkpoints looks at cursors only", "Give one of them.");
    const loaded = await loadProject(invocation);
    if (await isUntouched(loaded.config)) return { data: { findings: [], subscriptions: [] }, text: "Nothing is stored yet." };
    const project = await openProject(invocation, { role: "engine", setUp: false, loaded, tablesLater: true, unsettled: true });
    try {
      if (verify) return await verifyCheckpoints(invocation, project);
      return await compareAll(invocation, project, {
        since_ms: sinceOf(values.text("since"), project.stores.clock.now_ms()),
        repair: values.has("repair") && !values.has("dry-run"),
        settle: !values.has("dry-run"),
        force: values.has("force"),
      });
    } finally {
      await project.close();
    }
  },
};

/** Compares everything, and repairs on request. Also the last step of `db restore`. */
export async function compareAll(
  { values, output }: Invocation,
  project: OpenProject,
  options: {
    readonly since_ms: number | null;
    readonly repair: boolean;
    /** Where all fits, the note that a database was put back is taken away. */
    readonly settle: boolean;
    readonly force: boolean;
  },
): Promise<Outcome> {
  const { compareStores, isConsistent, recoverySources, repairStores } = await import("../compose/recover.ts");
  const sources = recoverySources(project.domain, project.stores);
  const report = await compareStores(sources, options.since_ms);
  const findings = findingsOf(report);
  const uncompared = report.databases.flatMap((one) => one.uncompared);
  const isFit = isConsistent(report) && uncompared.length === 0;
  const data = { ...checkpointData(report), findings, restored: restoredData(report) };
  if (!options.repair) {
    // Nothing to repair: then the note that it was put back has served.
    if (isFit && options.settle) for (const { database } of report.databases) await database.settleRestored();
    const hint =
      uncompared.length > 0
        ? "protean recover --since TIME compares with the time of the backup."
        : "protean recover --repair puts it right.";
    return {
      ...outcomeOf({ ...data, repaired: false }, findings),
      exitCode: isFit ? EXIT.good : EXIT.found,
      ...(isFit ? {} : { diagnostics: diagnosticsOf(findings, hint) }),
    };
  }
  if (!options.force) {
    await refuseWhileServersRun(project.stores, project.domain.name, "recover", "Stop it first: what it reads is put back.");
    refuseUncompared(uncompared);
  }
  if (isFit) {
    for (const { database } of report.databases) await database.settleRestored();
    return { ...outcomeOf({ ...data, repaired: true }, findings), exitCode: EXIT.good };
  }
  for (const { where, what, repair } of findings) if (repair !== null) output.hint(`${where}: ${what}; ${repair}`);
  await confirm(values, "Repair this?", "nothing was repaired");
  let kept: string | null = null;
  await repairStores(sources, report, async (orphans) => {
    kept = await keepOrphans(project, orphans);
  });
  if (kept !== null) output.hint(`What was removed from streams is in ${shortPath(kept)}.`);
  return { ...outcomeOf({ ...data, repaired: true, removed_entries: kept }, findings, "REPAIRED"), exitCode: EXIT.good };
}

function refuseUncompared(addresses: readonly string[]): void {
  const [first] = addresses;
  if (first === undefined) return;
  const others = addresses.length === 1 ? "" : ` and ${addresses.length - 1} more`;
  throw new CommandError(EXIT.usage, "NOTHING_NOTED", `nothing tells where ${first}${others} stood when the backup was made`, {
    fix: "Give the time of the backup: --since TIME. With --force it counts as fitting.",
  });
}

/** `2h` is two hours ago. */
function sinceOf(text: string | undefined, now_ms: number): number | null {
  if (text === undefined) return null;
  const ago_ms = /[a-z]$/.test(text) ? parseDuration_ms(text.replace(/^-/, "")) : null;
  const at_ms = ago_ms === null ? Date.parse(text) : now_ms - ago_ms;
  if (Number.isNaN(at_ms)) throw usageError(`--since: "${text}" is no time`, "Write it as 2026-01-31T09:30:00Z, or 2h for two hours ago.");
  return at_ms;
}

async function keepOrphans({ config }: OpenProject, orphans: readonly OrphanedEntry[]): Promise<string> {
  await makeFolder(config.dataDir);
  const path = join(config.dataDir, `removed-entries-${new Date().toISOString().replace(/[-:.]/g, "")}.jsonl`);
  await writeSafely(path, orphans.map((orphan) => `${JSON.stringify(orphan)}\n`).join(""));
  return path;
}

/** The report in lines, worst first inside each store. */
export function findingsOf(report: RecoveryReport): readonly RecoveryFinding[] {
  const findings: RecoveryFinding[] = [];
  const add = (kind: string, where: string, count: number | null, what: string, repair: string | null) => {
    if (count !== 0) findings.push({ kind, where, count, what, repair });
  };
  for (const { database, uncompared, streams, storedSince } of report.databases) {
    for (const address of uncompared) {
      add("not_compared", address, null, `nothing tells where it stood when the backup of database ${database.name} was made`, null);
    }
    if (storedSince !== null) {
      add(
        "event_store_ahead",
        "event store",
        storedSince,
        `${messages(storedSince)} stored after the backup: aggregates in database ${database.name} don't know of them`,
        null,
      );
    }
    for (const { broker, external, publishedAlready, missingRows, orphans, commands, rewinds, lost } of streams) {
      const where = `broker ${broker.name}`;
      const already = publishedAlready.length + missingRows.length;
      add("published_already", where, already, `${messages(already)} of the outbox are in its streams already`, "are marked as published");
      for (const [stream, count] of countedBy(orphans, (orphan) => orphan.stream)) {
        add(
          "not_in_store",
          `${where}, ${stream}`,
          count,
          `${count === 1 ? "1 event" : `${count} events`} of after the backup, which the store doesn't know`,
          external ? null : "are written to a file and leave the stream",
        );
      }
      add("command_not_in_store", where, commands, `${commands === 1 ? "1 command" : `${commands} commands`} of after the backup`, null);
      for (const { plan, entries } of rewinds) {
        add("group_ahead", `${plan.stream}, ${plan.handler}`, entries, `${messages(entries)} done since the backup`, "are delivered again");
      }
      add("lost_by_broker", where, lost.length, `${messages(lost.length)} published that it doesn't have any more`, "are published again");
    }
  }
  for (const { plan, cursor, head, verdict, target } of report.checkpoints) {
    const where = `${plan.stream}, ${plan.handler}`;
    if (verdict === "beyond_head")
      add(
        "checkpoint_beyond_head",
        where,
        (cursor ?? 0) - head,
        `cursor ${cursor} is beyond the last message, ${head}`,
        `goes back to ${target}`,
      );
    if (verdict === "ahead_of_backup")
      add(
        "checkpoint_ahead",
        where,
        (cursor ?? 0) - (target ?? 0),
        `cursor ${cursor}, which was ${target} at the backup`,
        `goes back to ${target}`,
      );
    if (verdict === "unknown") add("checkpoint_unknown", where, null, "its cursor can't be read", null);
  }
  for (const { plan, verdict, positions } of report.stale) {
    const where = `${plan.stream}, ${plan.handler}`;
    if (verdict === "stale")
      add("stale_recovery", where, positions.length, `failed positions whose message is gone: ${positions.join(", ")}`, "are forgotten");
    else add("recovery_unknown", where, null, "its failed positions can't be read", null);
  }
  for (const [database, rows] of report.gaps)
    add("outbox_gap", `database ${database}`, rows, `${messages(rows)} of the event store without outbox rows`, "get their rows");
  for (const [plan, entries] of report.stranded) {
    add(
      "stranded",
      `${plan.stream}, ${plan.handler}`,
      entries,
      `${messages(entries)} held by servers that are gone; the next server takes them over`,
      null,
    );
  }
  return findings;
}

function messages(count: number): string {
  return count === 1 ? "1 message" : `${count} messages`;
}

function countedBy<Item>(items: readonly Item[], key: (item: Item) => string): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const item of items) counts.set(key(item), (counts.get(key(item)) ?? 0) + 1);
  return counts;
}

function diagnosticsOf(findings: readonly RecoveryFinding[], suggestion: string): readonly Finding[] {
  return findings.map(
    ({ kind, where, what }): Finding => ({ code: kind.toUpperCase(), level: "error", message: `${where}: ${what}`, suggestion }),
  );
}

function outcomeOf(data: object, findings: readonly RecoveryFinding[], done = "REPAIR"): Outcome {
  return {
    data,
    list: {
      columns: [
        { key: "where", title: "WHERE" },
        { key: "what", title: "WHAT" },
        { key: "repair", title: done },
      ],
      rows: findings.map((finding) => ({ ...finding })),
      empty: "Everything fits together.",
      ...(findings.some(({ repair }) => repair !== null) && done === "REPAIR"
        ? { hint: "protean recover --repair does what the last column says." }
        : {}),
    },
  };
}

function restoredData({ databases }: RecoveryReport): readonly object[] {
  const putBack = databases.filter(({ restored, uncompared }) => restored !== null || uncompared.length > 0);
  return putBack.map(({ database, restored: note, uncompared }) => ({
    database: database.name,
    backup_taken_at: note?.takenAt ?? null,
    restored_at: note?.restoredAt ?? null,
    not_compared: uncompared,
  }));
}
