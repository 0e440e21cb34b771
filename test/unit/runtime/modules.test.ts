import { afterEach, describe, expect, test } from "bun:test";
import { symlinkSync } from "node:fs";
import { relative } from "node:path";
import { ConfigurationError } from "../../../src/errors.ts";
import { listHandlerFiles } from "../../../src/runtime/handler-files.ts";
import { describeFailure, type LoadFailure, loadHandlers } from "../../../src/runtime/modules.ts";
import { type TemporaryFolder, temporaryFolder } from "../../support/folder.ts";

const folders: TemporaryFolder[] = [];
const folder = (files: Readonly<Record<string, string>> = {}) => {
  const made = temporaryFolder(files);
  folders.push(made);
  return made;
};
afterEach(() => {
  for (const made of folders.splice(0)) made.remove();
});

const namesIn = async (project: TemporaryFolder, ...paths: string[]) =>
  (await listHandlerFiles(paths, project.path)).map((file) => relative(project.path, file));

describe("listing handler files", () => {
  test("takes every kind of source file to the bottom of a folder, sorted by path", async () => {
    const project = folder({
      "handlers/z.ts": "",
      "handlers/b/c.mts": "",
      "handlers/b/a.tsx": "",
      "handlers/a.js": "",
      "handlers/a.mjs": "",
      "handlers/index.ts": "",
    });
    expect(await namesIn(project, "handlers")).toEqual([
      "handlers/a.js",
      "handlers/a.mjs",
      "handlers/b/a.tsx",
      "handlers/b/c.mts",
      "handlers/index.ts",
      "handlers/z.ts",
    ]);
  });

  test("skips tests, declarations, hidden and underscored names, node_modules, dist and files of other kinds", async () => {
    const project = folder({
      "handlers/good.ts": "",
      "handlers/_draft.ts": "",
      "handlers/_shared/x.ts": "",
      "handlers/.hidden.ts": "",
      "handlers/.git/x.ts": "",
      "handlers/good.test.ts": "",
      "handlers/good.spec.mjs": "",
      "handlers/types.d.ts": "",
      "handlers/types.d.mts": "",
      "handlers/node_modules/left/index.js": "",
      "handlers/dist/good.js": "",
      "handlers/data.json": "{}",
      "handlers/old.cjs": "",
      "handlers/README.md": "",
    });
    expect(await namesIn(project, "handlers")).toEqual(["handlers/good.ts"]);
  });

  test("a link that leads outside the folder is skipped, one inside is followed once", async () => {
    const project = folder({ "handlers/a/one.ts": "", "outside/secret.ts": "", "handlers/_hidden/x.ts": "" });
    symlinkSync(project.at("outside"), project.at("handlers/escape"));
    symlinkSync(project.at("outside/secret.ts"), project.at("handlers/secret.ts"));
    symlinkSync(project.at("handlers/a"), project.at("handlers/b"));
    symlinkSync(project.at("handlers"), project.at("handlers/a/round"));
    symlinkSync(project.at("handlers/_hidden"), project.at("handlers/shown"));
    symlinkSync(project.at("nowhere.ts"), project.at("handlers/dangling.ts"));
    expect(await namesIn(project, "handlers")).toEqual(["handlers/a/one.ts"]);
  });

  test("a folder that is itself a link is searched", async () => {
    const project = folder({ "real/one.ts": "" });
    symlinkSync(project.at("real"), project.at("handlers"));
    expect(await namesIn(project, "handlers")).toEqual(["real/one.ts"]);
  });

  test("takes a single file whatever its name begins with", async () => {
    const project = folder({ "_only.ts": "" });
    expect(await namesIn(project, "_only.ts")).toEqual(["_only.ts"]);
  });

  test("takes globs, and each file once over all paths", async () => {
    const project = folder({ "apps/shop/h/a.ts": "", "apps/bank/h/b.ts": "", "apps/bank/h/b.test.ts": "", "apps/bank/other/c.ts": "" });
    expect(await namesIn(project, "apps/*/h/*.ts", "apps/bank/h")).toEqual(["apps/bank/h/b.ts", "apps/shop/h/a.ts"]);
  });

  for (const [what, path] of [
    ["a path that doesn't exist", "nowhere"],
    ["a glob that matches nothing", "apps/**/*.ts"],
    ["a glob below a folder that doesn't exist", "nowhere/*.ts"],
    ["a file that is no source", "domain.toml"],
    ["an empty path", ""],
  ] as const) {
    test(`${what} is a mistake of the user that names the path`, async () => {
      const project = folder({ "domain.toml": "", "apps/README.md": "" });
      const error = await listHandlerFiles([path], project.path).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(ConfigurationError);
      expect((error as ConfigurationError).code).toBe("HANDLERS_NOT_FOUND");
      expect((error as ConfigurationError).message).toContain(path === "" ? "empty" : path);
      expect((error as ConfigurationError).about.fix).toContain("--handlers");
    });
  }
});

const placesOf = (project: TemporaryFolder, failures: readonly LoadFailure[]) =>
  failures.map((failure) => [relative(project.path, failure.file), failure.line, failure.kind]);

describe("loading handlers", () => {
  test("a file that registers nothing is fine, a folder without files loads nothing", async () => {
    const project = folder({ "handlers/nothing.ts": "", "empty/README.md": "" });
    expect((await loadHandlers([project.at("handlers")])).failures).toEqual([]);
    expect(await loadHandlers([project.at("empty")])).toEqual({ files: [], failures: [], warnings: [] });
  });

  test("each file is imported once, and a broken one doesn't stop those behind it", async () => {
    const count = "export {}; globalThis.protean_loads = (globalThis.protean_loads ?? 0) + 1;";
    const project = folder({
      "a-broken.ts": "throw new TypeError('early');",
      "b.ts": count,
      "c.ts": `import "./b.ts"; ${count}`,
      "odd name #1 %41.ts": count,
    });
    const loads = () => (globalThis as { protean_loads?: number }).protean_loads;
    const { files, failures } = await loadHandlers([project.path]);
    expect(files.length).toBe(4);
    expect(failures.length).toBe(1);
    expect(loads()).toBe(3);
  });

  test("a syntax error is told with file, line and column, even from a file that others import", async () => {
    const project = folder({ "a.ts": 'import "./broken.ts";\n', "broken.ts": "const fine = 1;\nconst b = ;\n" });
    const { failures } = await loadHandlers([project.path]);
    expect(placesOf(project, failures)).toEqual([["broken.ts", 2, "syntax"]]);
    expect(failures[0]?.column).toBe(11);
    expect(describeFailure(failures[0] as LoadFailure, project.path)).toMatch(/^broken\.ts:2:11 SyntaxError: /);
  });

  test("a missing package and a missing file are told with the importing file and line", async () => {
    const project = folder({
      "package.ts": '// nowhere\nimport { x } from "nowhere";\nconsole.log(x);\n',
      "path.ts": 'export {};\n\nexport * from "./gone.ts";\n',
      "_deep.ts": "import './also-gone.ts';\n",
      "uses-deep.ts": 'import "./_deep.ts";\n',
    });
    const { failures } = await loadHandlers([project.path]);
    expect(placesOf(project, failures)).toEqual([
      ["package.ts", 2, "missing-import"],
      ["path.ts", 3, "missing-import"],
      ["_deep.ts", 1, "missing-import"],
    ]);
    expect(failures.map(({ message }) => message)).toEqual([
      'can\'t find "nowhere"',
      'can\'t find "./gone.ts"',
      'can\'t find "./also-gone.ts"',
    ]);
  });

  test("a name that the other file doesn't export is told with the importing line", async () => {
    const project = folder({
      "_other.ts": "export const other = 1;\n",
      "uses.ts": 'import {\n  missing,\n} from "./_other.ts";\nconsole.log(missing);\n',
    });
    const { failures } = await loadHandlers([project.path]);
    expect(placesOf(project, failures)).toEqual([["uses.ts", 2, "missing-import"]]);
    expect(failures[0]?.message).toContain("missing");
  });

  test("an error thrown while loading is told with the innermost place in the user's files and its class", async () => {
    const project = folder({
      "mail.ts": 'import { setting } from "./_settings.ts";\nsetting(JSON.parse("null"));\n',
      "_settings.ts": "export function setting(from: { host: string }): string {\n  return from.host;\n}\n",
    });
    const { failures } = await loadHandlers([project.path]);
    expect(placesOf(project, failures)).toEqual([["_settings.ts", 2, "threw"]]);
    expect(failures[0]?.message).toStartWith("TypeError: ");
    expect(failures[0]?.cause).toBeInstanceOf(TypeError);
  });

  test("what is thrown without being an Error is told as it is", async () => {
    const project = folder({ "a.ts": 'throw "no way";\n', "b.ts": "throw undefined;\n" });
    const { failures } = await loadHandlers([project.path]);
    expect(failures.map(({ message, kind }) => [message, kind])).toEqual([
      ['threw "no way"', "threw"],
      ["threw undefined", "threw"],
    ]);
  });

  test("a file that never finishes is given up after the limit, the others are loaded", async () => {
    const project = folder({ "a.ts": "await new Promise(() => {});", "b.ts": "globalThis.protean_after = true;" });
    const { failures } = await loadHandlers([project.path], { limit_ms: 50 });
    expect(placesOf(project, failures)).toEqual([["a.ts", null, "timeout"]]);
    expect((globalThis as { protean_after?: boolean }).protean_after).toBe(true);
  });
});
