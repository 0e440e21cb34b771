/**
 * Every example of README.md, docs/ and the bank's README is run as it stands, page by page, each page from top to bottom in a folder of its own.
 *
 *   ts FILE, toml FILE   written to FILE; `program.ts` and `*.test.ts` are run too
 *   sh                   run line by line; servers stay until the end of the page. `fails`: must end with another code than 0;
 *                        `repository`: a script of this repository, which only has to be there; `redis`: REDIS_URL is set; `postgres`:
 *                        DATABASE_URL is set, to an empty database of the page's own
 *                        `elsewhere`: for programs and places that are not here; the words behind `protean` must be ones that it takes, and each
 *                        file of deploy/ be there; `release`: run by test/ship/release.test.ts
 *   text                 stands in what ran last
 */
import { afterEach, expect, test } from "bun:test";
import { accessSync, constants, cpSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import process from "node:process";
import { PAGES_WITH_KEYS, withKeys } from "../../scripts/docs.ts";
import { programWords, refusal } from "../support/command-lines.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { freshDatabase } from "../support/postgres.ts";
import { sharedRedis } from "../support/redis.ts";
import { endAll, type RunningProgram, startLine, untilRunning } from "../support/running.ts";

const root = join(import.meta.dir, "..", "..");
const LIMIT_ms = 60_000;
const folders: TemporaryFolder[] = [];

afterEach(async () => {
  await endAll();
  for (const folder of folders.splice(0)) folder.remove();
});

interface Block {
  readonly language: string;
  readonly words: readonly string[];
  readonly text: string;
  readonly line: number;
}

function blocksOf(page: string): readonly Block[] {
  return [...page.matchAll(/^```(\w+)([^\n]*)\n([\s\S]*?)^```$/gm)].map((match) => ({
    language: match[1] ?? "",
    words: (match[2] ?? "").split(" ").filter((word) => word !== ""),
    text: match[3] ?? "",
    line: page.slice(0, match.index).split("\n").length,
  }));
}

function read(page: string): string {
  return readFileSync(join(root, page), "utf8");
}

/** Runs a page. @throws naming the page's line */
async function follow(page: string, folder: TemporaryFolder, databaseUrl = ""): Promise<void> {
  const servers: RunningProgram[] = [];
  let directory = folder.path;
  let output = "";
  const runLine = async (line: string, environment: Readonly<Record<string, string>>, fails: boolean): Promise<void> => {
    const change = /^cd (\S+)$/.exec(line);
    if (change !== null) {
      directory = join(directory, change[1] ?? "");
      return;
    }
    const program = startLine(line, { directory, environment });
    if (/^protean (server|dev)\b/.test(line)) {
      servers.push(await untilRunning(program));
      return;
    }
    const ran = await program.ended;
    output = ran.stdout;
    if (fails ? ran.exitCode === 0 : ran.exitCode !== 0) throw new Error(`${line}: exit code ${ran.exitCode}\n${ran.stdout}${ran.stderr}`);
  };
  const runFile = async (file: string): Promise<void> => {
    const words = file.endsWith(".test.ts") ? `"${process.execPath}" test ./${file}` : `"${process.execPath}" ${file}`;
    if (/\.test\.ts$|^program\.ts$/.test(file)) await runLine(words, {}, false);
  };
  for (const { language, words, text, line } of blocksOf(read(page))) {
    try {
      const [first = ""] = words;
      if (language === "ts" || language === "toml") {
        mkdirSync(dirname(join(directory, first)), { recursive: true });
        writeFileSync(join(directory, first), text);
        await runFile(first);
      } else if (language === "text") {
        const plain = (value: string) => value.replace(/[^\S\n]+/g, " ").trim();
        for (const expected of text.trim().split("\n")) expect(plain(output)).toContain(plain(expected));
      } else if (language === "sh") {
        const lines = text.split("\n").map((one) => one.replace(/\s+#.*$/, "").trim());
        for (const one of lines.filter((each) => each !== "")) {
          if (first === "release") continue;
          if (first === "elsewhere") checkLine(one);
          else if (first === "repository")
            accessSync(join(root, one.split(" ").find((word) => word.endsWith(".sh")) ?? ""), constants.R_OK);
          else if (first === "postgres") await runLine(one, { DATABASE_URL: databaseUrl }, false);
          else await runLine(one, first === "redis" ? { REDIS_URL: await sharedRedis() } : {}, first === "fails");
        }
      } else throw new Error(`nobody knows how to run a block of "${language}"`);
    } catch (error) {
      const servers_said = servers.map((server) => server.output()).join("\n");
      throw new Error(`${page}:${line}: ${error instanceof Error ? error.message : String(error)}\n${servers_said}`, { cause: error });
    }
  }
  for (const server of servers) expect((await server.end("SIGTERM")).exitCode).toBe(0);
}

/** @throws when the program wouldn't take the line's words, or a file of deploy/ isn't there */
function checkLine(line: string): void {
  const words = programWords(line);
  const refused = words === null ? null : refusal(words);
  if (refused !== null) throw new Error(`${line}\n${refused}`);
  for (const [path] of line.matchAll(/\bdeploy\/[\w./-]+/g)) accessSync(join(root, path), constants.R_OK);
}

/** A folder in which `import … from "protean"` finds this repository, as a dependency would be found. */
function folderForPage(): TemporaryFolder {
  const folder = temporaryFolder({ "node_modules/.keep": "" });
  symlinkSync(root, folder.at("node_modules", "protean"));
  folders.push(folder);
  return folder;
}

const orders = blocksOf(read("README.md")).find(({ words }) => words[0] === "handlers/orders.ts");

test("README.md runs as it stands", async () => await follow("README.md", folderForPage()), LIMIT_ms);

test("docs/getting-started.md runs as it stands", async () => await follow("docs/getting-started.md", folderForPage()), LIMIT_ms);

test(
  "docs/configuration.md runs as it stands",
  async () => {
    const folder = folderForPage();
    folder.write({ "handlers/orders.ts": orders?.text ?? "" });
    await follow("docs/configuration.md", folder);
  },
  LIMIT_ms,
);

test(
  "docs/backup.md runs as it stands",
  async () => {
    const folder = folderForPage();
    folder.write({ "handlers/orders.ts": orders?.text ?? "" });
    await follow("docs/backup.md", folder);
  },
  LIMIT_ms,
);

test(
  "docs/postgresql.md runs as it stands",
  async () => {
    const folder = folderForPage();
    folder.write({ "handlers/orders.ts": orders?.text ?? "" });
    const database = await freshDatabase("empty");
    try {
      await follow("docs/postgresql.md", folder, database.url);
    } finally {
      await endAll();
      await database.drop();
    }
  },
  LIMIT_ms,
);

test(
  "docs/deploying.md runs as it stands, as far as it can here",
  async () => {
    const folder = folderForPage();
    folder.write({ "handlers/orders.ts": orders?.text ?? "" });
    await follow("docs/deploying.md", folder);
  },
  LIMIT_ms,
);

test("docs/moving-from-python.md runs as it stands", async () => await follow("docs/moving-from-python.md", folderForPage()), LIMIT_ms);

test(
  "docs/guarantees.md runs as it stands, beside the server of README.md",
  async () => {
    const folder = folderForPage();
    folder.write({ "handlers/orders.ts": orders?.text ?? "" });
    await untilRunning(startLine("protean server", { directory: folder.path }));
    await follow("docs/guarantees.md", folder);
  },
  LIMIT_ms,
);

test(
  "the bank's README runs as it stands, without infrastructure and with Redis",
  async () => {
    const folder = temporaryFolder();
    folders.push(folder);
    cpSync(join(root, "examples", "fidelis"), folder.path, { recursive: true });
    await follow("examples/fidelis/README.md", folder);
  },
  LIMIT_ms,
);

const pages = [
  "README.md",
  ...readdirSync(join(root, "docs"))
    .filter((name) => name.endsWith(".md"))
    .map((name) => join("docs", name)),
];

test(
  "every TypeScript example has the right types",
  async () => {
    const folder = folderForPage();
    folder.write({ "package.json": '{ "type": "module" }' });
    for (const page of pages) {
      for (const { language, words, text } of blocksOf(read(page))) {
        if (language === "ts") folder.write({ [join(basename(page, ".md"), words[0] ?? "")]: text });
      }
    }
    const options = {
      paths: { protean: [join(root, "src", "mod.ts")], "protean/testing": [join(root, "src", "testing.ts")] },
      typeRoots: [join(root, "node_modules", "@types")],
    };
    const settings = { extends: join(root, "tsconfig.json"), compilerOptions: options, include: [folder.path], exclude: [] };
    folder.write({ "tsconfig.json": JSON.stringify(settings) });
    const compiler = join(root, "node_modules", ".bin", "tsc");
    const ran = await startLine(`"${process.execPath}" "${compiler}" --noEmit -p .`, { directory: folder.path }).ended;
    // The project's own sources are checked by scripts/test.sh.
    const wrong = ran.stdout.split("\n").filter((line) => /^[^\s.]/.test(line) && !line.includes("src/"));
    expect(wrong).toEqual([]);
    expect(ran.stderr).toBe("");
  },
  LIMIT_ms,
);

test("every link to a file leads to one", () => {
  const broken = [...pages, "examples/fidelis/README.md"].flatMap((page) =>
    [...read(page).matchAll(/\]\((?!https?:|#)([^)#]+)[^)]*\)/g)]
      .filter((match) => statSync(join(root, dirname(page), match[1] ?? ""), { throwIfNoEntry: false }) === undefined)
      .map((match) => `${page}: ${match[1]}`),
  );
  expect(broken).toEqual([]);
});

for (const page of PAGES_WITH_KEYS) {
  test(`the table of keys in ${page} is that of the schema (bun scripts/docs.ts writes it)`, () => {
    expect(read(page)).toBe(withKeys(read(page)));
  });
}

test("blocks are found with their language, words and line", () => {
  const page = "# x\n\n```ts a/b.ts more\nlet a;\n```\n\n```sh\none\ntwo\n```\n";
  expect(blocksOf(page)).toEqual([
    { language: "ts", words: ["a/b.ts", "more"], text: "let a;\n", line: 3 },
    { language: "sh", words: [], text: "one\ntwo\n", line: 7 },
  ]);
});
