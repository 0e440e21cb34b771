import type { Command } from "./command.ts";
import { CommandError, EXIT } from "./problem.ts";
import { isUntouched, loadProject, openProject, shortPath } from "./project.ts";

/** Everything that the domain needs in every backend; what is there already stays as it is. */
export const dbSetup: Command = {
  description: "Create what is missing in every configured backend; nothing that exists is changed",
  flags: { "dry-run": { type: "boolean", description: "Only show what would be created" } },
  async run(invocation) {
    const { values } = invocation;
    const dryRun = values.has("dry-run");
    const loaded = await loadProject(invocation);
    if (dryRun && (await isUntouched(loaded.config))) {
      loaded.domain.freeze();
      const line = `would create ${shortPath(loaded.config.dataFile)} with all tables`;
      return { data: { created: [], would_create: [line] }, text: line };
    }
    const lines: string[] = [];
    const project = await openProject(invocation, { role: "engine", setUp: false, loaded, tablesLater: true });
    try {
      const { databases, eventStore, brokers } = project.stores;
      for (const database of databases.values()) {
        const made = await database.setup({ dryRun });
        lines.push(...made.map((line) => `database ${database.name}: ${line}`));
      }
      if (!dryRun) {
        lines.push(...(await eventStore.setup()).map((line) => `event store: ${line}`));
        for (const broker of brokers.values()) {
          try {
            lines.push(...(await broker.setup()).map((line) => `broker ${broker.name}: ${line}`));
          } catch (cause) {
            throw new CommandError(
              EXIT.usage,
              "UNREACHABLE",
              `broker "${broker.name}" (${broker.address}) can't be set up: ${messageOf(cause)}`,
              {
                fix: "Start it, or correct [brokers] in domain.toml.",
                cause,
              },
            );
          }
        }
      }
    } finally {
      await project.close();
    }
    const said = lines.length === 0 ? ["nothing is missing"] : lines;
    return { data: dryRun ? { created: [], would_create: lines } : { created: lines }, text: said.join("\n") };
  },
};

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
