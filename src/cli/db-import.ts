import type { ImportReport } from "../compose/import-python.ts";
import type { Config } from "../config/config.ts";
import type { Command } from "./command.ts";
import { confirm } from "./confirm.ts";
import type { Outcome } from "./output.ts";
import { CommandError, EXIT, type Finding } from "./problem.ts";
import { effectiveConfig, loadProject, logOf, shortPath } from "./project.ts";

/** Rows of Protean for Python, once. */
export const dbImport: Command = {
  description:
    "Take over what Protean for Python has in a SQLite file: rows of the declared tables, of the outbox, and what was handled. Python's file stays as it is; what is here already is left alone. Stop the Python programs first",
  flags: {
    "dry-run": { type: "boolean", description: "Only count" },
    database: { type: "text", hint: "NAME", description: "Into this one of [databases] (default)" },
    force: { type: "boolean", description: "Also rows that Python has locked; leave values behind whose column isn't declared" },
  },
  positionals: [{ name: "FILE", description: "the file that Python's database_uri names", required: true }],
  examples: ["protean db import ../python/bank.db --dry-run", "protean db import ../python/bank.db"],
  async run(invocation) {
    const { values, output } = invocation;
    const dryRun = values.has("dry-run");
    const source = values.positional(0) ?? "";
    const loaded = await loadProject(invocation);
    const config = await effectiveConfig(loaded);
    const [{ importFromPython }, { systemTools }] = await Promise.all([
      import("../compose/import-python.ts"),
      import("../compose/connect.ts"),
    ]);
    const run = (onlyCount: boolean) =>
      importFromPython({
        domain: loaded.domain,
        config,
        database: values.text("database") ?? "default",
        source,
        dryRun: onlyCount,
        force: values.has("force"),
        tools: systemTools(logOf(values, config, { quietly: true })),
      });
    const planned = await run(true);
    refuse(planned, source);
    const warnings = [...planned.concerns.map(({ message }) => message), ...unroutable(planned, config)];
    for (const message of warnings) output.hint(`warning: ${message}`);
    if (dryRun) return outcomeOf(planned, warnings, true);
    const rows = planned.tables.reduce((sum, { added }) => sum + added, 0);
    if (rows > 0) await confirm(values, `Take ${rows} rows over from ${shortPath(source)}?`, "nothing was imported");
    const report = await run(false);
    refuse(report, source);
    if ((report.outbox.pending ?? 0) + (report.outbox.failed ?? 0) > 0) output.hint("A running server publishes what Python had not.");
    return outcomeOf(report, warnings, false);
  },
};

/** @throws CommandError listing what stands against it; nothing was written */
function refuse({ refused }: ImportReport, source: string): void {
  if (refused.length === 0) return;
  const isForcible = refused.every(({ kind }) => kind === "locked" || kind === "undeclaredColumn");
  const isLocked = refused.some(({ kind }) => kind === "locked");
  throw new CommandError(
    isLocked ? EXIT.conflict : EXIT.found,
    "IMPORT_REFUSED",
    `${source} can't be imported as it is; nothing was written`,
    {
      findings: refused.map(({ message }): Finding => ({ code: "IMPORT", level: "error", message })),
      fix: isForcible
        ? `${isLocked ? "Stop the Python engine and wait, or declare what is missing" : "Declare them"}; --force does without.`
        : "Make the declarations fit. A file is imported once: begin with an empty database after both programs have written.",
    },
  );
}

/** Rows that nobody here would publish. */
function unroutable({ unpublished }: ImportReport, config: Config): readonly string[] {
  const routes = new Set(config.hasOutbox ? [config.outbox.broker, ...config.outbox.externalBrokers] : []);
  return [...unpublished]
    .filter(([broker]) => !routes.has(broker))
    .map(([broker, rows]) => {
      const why = config.hasOutbox ? `[outbox] external_brokers doesn't name it` : "the outbox is off (enable_outbox)";
      return `outbox: ${rows} unpublished rows are for broker "${broker}", and ${why}`;
    });
}

function outcomeOf(report: ImportReport, warnings: readonly string[], dryRun: boolean): Outcome {
  const rows = report.tables.map(({ table, rows: all, added, present }) => ({
    table,
    rows: all,
    [dryRun ? "would_add" : "added"]: added,
    present,
  }));
  return {
    data: { tables: rows, outbox: report.outbox },
    diagnostics: warnings.map((message): Finding => ({ code: "IMPORT", level: "warning", message })),
    list: {
      columns: [
        { key: "table", title: "TABLE" },
        { key: "rows", title: "ROWS" },
        dryRun ? { key: "would_add", title: "WOULD ADD" } : { key: "added", title: "ADDED" },
        { key: "present", title: "HERE ALREADY" },
      ],
      rows,
      empty: "Nothing is in the file.",
    },
  };
}
