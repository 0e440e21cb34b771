import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { build } from "../../scripts/build.ts";
import { runBinary } from "../support/binary.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";

const folders: TemporaryFolder[] = [];
const folder = (files: Readonly<Record<string, string>> = {}) => {
  const made = temporaryFolder(files);
  folders.push(made);
  return made;
};
afterAll(() => {
  for (const made of folders) made.remove();
});

/** In the directory where a program is started: what a stranger may have left there. */
const PLANTED = {
  "bunfig.toml": 'preload = ["./preload.ts"]\n',
  "preload.ts": 'console.log("planted preload ran");\nglobalThis.seen = "planted";\n',
  ".env": "PLANTED=from the .env file\n",
  ".env.production": "PLANTED=from the .env.production file\n",
};

describe("the binary", () => {
  test("runs from an empty directory with nothing in PATH", () => {
    const { exitCode, stdout, stderr } = runBinary(["version"], { directory: folder().path });
    expect(stderr).toBe("");
    expect(stdout).toMatch(/\d+\.\d+\.\d+/);
    expect(exitCode).toBe(0);
  });

  test("version --json tells version, commit, bun and platform", async () => {
    const { exitCode, stdout } = runBinary(["version", "--json"], { directory: folder().path });
    expect(exitCode).toBe(0);
    const document = JSON.parse(stdout) as Record<string, unknown>;
    // The result envelope of the command line carries it as `data`; the bare document has it at the top.
    const facts = (document["data"] ?? document) as Record<string, unknown>;
    expect(facts).toMatchObject({ version: expect.any(String), commit: expect.stringMatching(/^([0-9a-f]{40}|unknown|.+)$/) });
    expect(facts["bun"]).toBe(Bun.version);
    expect(facts["platform"]).toBe(`${process.platform}-${process.arch}`);
  });

  test("a planted bunfig.toml and .env in the working directory change nothing (known-traps C1)", () => {
    const { exitCode, stdout } = runBinary(["version"], { directory: folder(PLANTED).path });
    expect(stdout).not.toContain("planted");
    expect(exitCode).toBe(0);
  });
});

interface Loaded {
  readonly files: readonly string[];
  readonly failures: readonly { file: string; line: number | null; column: number | null; message: string; kind: string }[];
  readonly warnings: readonly string[];
  readonly seen?: Readonly<Record<string, unknown>>;
  readonly fromEnv?: string;
}

describe("handlers loaded by a binary built with our options", () => {
  let program: string;
  beforeAll(async () => {
    const made = folder();
    program = await build({ entry: join(import.meta.dir, "fixtures", "load-main.ts"), target: made.at("loader") });
  });
  const load = (directory: string, ...paths: string[]): Loaded => {
    const { stdout, stderr, status } = spawnSync(program, paths, { cwd: directory, env: {}, encoding: "utf8", timeout: 20_000 });
    expect({ stderr, status }).toEqual({ stderr: "", status: 0 });
    return JSON.parse(stdout) as Loaded;
  };

  test("import protean, each other, JSON and an npm package of their own node_modules", () => {
    const project = folder({
      "handlers/account.ts": `
        import { ValidationError, suppliedBy } from "protean";
        import { suppliedBy as forTests } from "protean/testing";
        import { greet, fromPackage } from "greeter";
        import rates from "../data/rates.json";
        import { name } from "./shared/name.ts";
        enum Kind { Savings = "savings" }
        globalThis.seen = { suppliedBy, forTests, fromPackage, greeting: greet(name), rate: rates.eur, kind: Kind.Savings, error: ValidationError.name };
      `,
      "handlers/shared/name.ts": `export const name: string = "Ada";`,
      "data/rates.json": `{ "eur": 1.08 }`,
      "node_modules/greeter/package.json": `{ "name": "greeter", "version": "1.0.0", "type": "module", "exports": { ".": { "import": "./lib/index.js" } } }`,
      "node_modules/greeter/lib/index.js": `export { suppliedBy as fromPackage } from "protean"; export const greet = (name) => "Hello " + name;`,
      "node_modules/protean/package.json": `{ "name": "protean", "version": "0.0.7", "main": "index.js" }`,
      "node_modules/protean/index.js": `module.exports = { suppliedBy: "node_modules" };`,
    });
    const loaded = load(folder().path, project.at("handlers"));
    expect(loaded.failures).toEqual([]);
    expect(loaded.files).toEqual([project.at("handlers/account.ts"), project.at("handlers/shared/name.ts")]);
    expect(loaded.seen).toEqual({
      suppliedBy: "the binary",
      forTests: "the binary, for tests",
      fromPackage: "the binary",
      greeting: "Hello Ada",
      rate: 1.08,
      kind: "savings",
      error: "ValidationError",
    });
    expect(loaded.warnings).toEqual([`handlers get protean 0.1.0 from this program, not 0.0.7 from ${project.at("node_modules/protean")}`]);
  });

  test("get protean from the binary although a tsconfig maps it elsewhere, and CommonJS files get it by require", () => {
    const project = folder({
      "tsconfig.json": `{ "compilerOptions": { "paths": { "protean": ["./protean.d.ts"], "~/*": ["./lib/*"] } } }`,
      "protean.d.ts": `export const suppliedBy: string;`,
      "lib/rate.ts": `export const rate = 3;`,
      "handlers/one.ts": `import { suppliedBy } from "protean"; import { rate } from "~/rate.ts"; globalThis.seen = { suppliedBy, rate };`,
      "handlers/two.js": `const { suppliedBy } = require("protean"); globalThis.seen.byRequire = suppliedBy;`,
    });
    const loaded = load(folder().path, project.at("handlers"));
    expect(loaded.failures).toEqual([]);
    expect(loaded.seen).toEqual({ suppliedBy: "the binary", rate: 3, byRequire: "the binary" });
  });

  test("a planted preload does not run and a planted .env is not read (known-traps C1)", () => {
    const project = folder({ ...PLANTED, "handlers/a.ts": "globalThis.seen ??= { untouched: true };" });
    const loaded = load(project.path, "handlers");
    expect(loaded.seen).toEqual({ untouched: true });
    expect(loaded.fromEnv).toBeUndefined();
  });

  test("all broken files are reported with their places", () => {
    const project = folder({
      "handlers/a-syntax.ts": "export const a = 1;\nconst b = ;\n",
      "handlers/b-missing.ts": '// needs a package\nimport { x } from "nowhere";\nconsole.error(x);\n',
      "handlers/c-throws.ts": "const settings = JSON.parse('{}');\n\nexport const host = settings.smtp.host;\n",
      "handlers/d-good.ts": "globalThis.seen = { good: true };\n",
    });
    const loaded = load(folder().path, project.at("handlers"));
    expect(loaded.failures.map(({ file, line, kind }) => [file, line, kind])).toEqual([
      [project.at("handlers/a-syntax.ts"), 2, "syntax"],
      [project.at("handlers/b-missing.ts"), 2, "missing-import"],
      [project.at("handlers/c-throws.ts"), 3, "threw"],
    ]);
    expect(loaded.seen).toEqual({ good: true });
  });
});
