import { readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { workingDirectory } from "../runtime/environment.ts";
import { kindOf, makeFolder, writeText } from "../runtime/files.ts";
import type { Command } from "./command.ts";
import { projectFiles } from "./new-files.ts";
import { CommandError, EXIT, usageError } from "./problem.ts";
import { shortPath } from "./project.ts";

/** Writes a project that runs as it stands. Asks nothing. */
export const newProject: Command = {
  description: "Write a new project that runs as it stands",
  flags: {
    "output-dir": { type: "text", short: "o", hint: "FOLDER", description: "Where the project's folder is made (here)" },
    template: {
      type: "text",
      hint: "NAME",
      choices: ["basic"],
      description: "What is written: basic, an order with a projection (the only one yet)",
    },
    force: { type: "boolean", short: "f", description: "Write into a folder that holds something; files of the same names are replaced" },
    "dry-run": { type: "boolean", description: "Only show what would be written" },
  },
  positionals: [{ name: "NAME", description: "name of the project, its folder and its domain", required: true }],
  examples: ["protean new shop && cd shop && protean dev"],
  async run({ values, output }) {
    const name = values.positional(0) ?? "";
    if (!/^[A-Za-z][A-Za-z0-9_-]{0,63}$/.test(name)) {
      throw usageError(`"${name}" is no name for a project`, "Use letters, digits, - and _, beginning with a letter: protean new shop");
    }
    const folder = join(resolve(workingDirectory(), values.text("output-dir") ?? "."), name);
    const kind = await kindOf(folder);
    if (kind !== null && kind !== "folder") throw new CommandError(EXIT.conflict, "EXISTS", `${shortPath(folder)} is a file`);
    if (kind === "folder" && !values.has("force") && (await readdir(folder)).length > 0) {
      throw new CommandError(EXIT.conflict, "EXISTS", `${shortPath(folder)} holds something already`, {
        fix: "Take another name, or add --force.",
      });
    }
    const files = projectFiles(name);
    const paths = files.map(({ path }) => path);
    if (values.has("dry-run")) {
      return {
        data: { folder, files: paths, written: false },
        text: paths.map((path) => `would write ${shortPath(join(folder, path))}`).join("\n"),
      };
    }
    try {
      await makeFolder(folder);
      for (const { path, text } of files) await writeText(join(folder, path), text);
    } catch (cause) {
      throw new CommandError(
        EXIT.usage,
        "NOT_WRITABLE",
        `${shortPath(folder)} can't be written: ${cause instanceof Error ? cause.message : String(cause)}`,
        { cause },
      );
    }
    const next = [
      `cd ${shortPath(folder).replace(/^\.\//, "")} && protean dev`,
      `protean send command PlaceOrder '{"order_id": "o1", "customer": "Ada", "amount": 42.5}' --wait`,
      "protean query OrderSummary o1",
    ];
    if (!output.isJson) output.hint("Next (the last two in a second terminal, in the same folder):");
    return { data: { folder, files: paths, written: true, next }, text: next.map((line) => `  ${line}`).join("\n") };
  },
};
