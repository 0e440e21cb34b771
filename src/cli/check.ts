import { environmentVariables } from "../runtime/environment.ts";
import type { Command } from "./command.ts";
import { asFinding, EXIT, type Finding, tell } from "./problem.ts";
import { type LoadedProject, loadProject } from "./project.ts";

/** Loads everything and validates the domain; opens nothing. */
export const check: Command = {
  description: "Load everything and tell what is wrong; touches no backend",
  flags: {
    format: { type: "text", short: "f", hint: "FORMAT", choices: ["rich", "json"], description: "rich (for people) or json" },
    level: {
      type: "text",
      short: "l",
      hint: "LEVEL",
      choices: ["error", "warning", "info"],
      description: "Least level that is shown (info)",
    },
    strict: { type: "boolean", description: "Configuration keys nobody reads are errors" },
  },
  async run(invocation) {
    const { values, output } = invocation;
    const project = await loadProject(invocation, { strict: values.has("strict") });
    const { domain, config } = project;
    const findings: Finding[] = [
      ...config.diagnostics.map(asFinding),
      ...project.warnings.map((message): Finding => ({ code: "HANDLERS", level: "warning", message })),
      ...domain.check().map(
        ({ code, level, message, at, fix }): Finding => ({
          code,
          level,
          message,
          ...(at == null ? {} : { at }),
          ...(fix == null ? {} : { suggestion: fix }),
        }),
      ),
    ];
    if (!findings.some(({ level }) => level === "error")) findings.push(...(await subscriptionsOf(project)));
    if (environmentVariables()["PROTEAN_ENV"] && config.overlay === null) {
      findings.push({
        code: "CONFIG_NO_OVERLAY",
        level: "info",
        message: `there is no overlay [${environmentVariables()["PROTEAN_ENV"]}]`,
      });
    }
    const floor = ["error", "warning", "info"].indexOf(values.text("level") ?? "info");
    const shown = findings.filter(({ level }) => ["error", "warning", "info"].indexOf(level) <= floor);
    const errors = findings.filter(({ level }) => level === "error").length;
    // A process manager is an element for its state and a handler; it is counted among the handlers.
    const elements = countBy([...domain.elements.values()].map(({ kind }) => kind).filter((kind) => kind !== "processManager"));
    const handlers = countBy(domain.reactionMetas.map(({ kind }) => kind));
    const lines = shown.map(({ level, message, at, suggestion }) =>
      [
        `${level}: ${at === undefined || message.includes(at) ? "" : `${at}: `}${message}`,
        suggestion === undefined ? "" : `  fix  ${suggestion}`,
      ]
        .filter((line) => line !== "")
        .join("\n"),
    );
    const summary = `${domain.name}: ${project.files.length} ${project.files.length === 1 ? "file" : "files"}, ${inWords(elements)}, ${inWords(handlers)}; ${errors === 0 ? "no errors" : `${errors} errors`}`;
    const data = {
      domain: domain.name,
      config: config.file,
      files: project.files,
      elements,
      handlers,
      counts: { errors, findings: findings.length },
    };
    const exitCode = errors > 0 ? EXIT.found : EXIT.good;
    if (values.text("format") === "json" && !output.isJson) {
      const { envelope } = await import("./output.ts");
      return { exitCode, text: envelope({ exitCode, data, diagnostics: shown }) };
    }
    return { exitCode, data, diagnostics: shown, text: [...lines, summary].join("\n") };
  },
};

/** What a server would say of its subscriptions, and what would stop it. */
async function subscriptionsOf({ domain, config }: LoadedProject): Promise<readonly Finding[]> {
  const [{ buildReactions }, { subscriptionFindings }] = await Promise.all([import("../domain/run-reaction.ts"), import("./plan.ts")]);
  domain.freeze();
  try {
    return subscriptionFindings(buildReactions(domain), config);
  } catch (error) {
    const told = tell(error, false);
    if (told === null) throw error;
    return told.findings;
  }
}

function countBy(kinds: readonly string[]): Readonly<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const kind of kinds) counts[kind] = (counts[kind] ?? 0) + 1;
  return counts;
}

function inWords(counts: Readonly<Record<string, number>>): string {
  const parts = Object.entries(counts).map(([kind, count]) => {
    const words = kind.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
    const plural = words.endsWith("y") ? `${words.slice(0, -1)}ies` : `${words}s`;
    return `${count} ${count === 1 ? words : plural}`;
  });
  return parts.length === 0 ? "nothing declared" : parts.join(", ");
}
