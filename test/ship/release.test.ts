/** A release of this machine's kind, made twice in different folders; the other kinds differ in nothing but the runtime that is put in. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { gunzipSync } from "node:zlib";
import { parseTar } from "nanotar";
import { packageFolder } from "../../scripts/npm-package.ts";
import { hostMachine } from "../../scripts/release.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";

const root = join(import.meta.dir, "..", "..");
const machine = hostMachine();
const COMMIT = "0123456789abcdef0123456789abcdef01234567";
/** 2026-01-02T03:04:05Z */
const MADE_s = 1_767_323_045;
const LIMIT_ms = 120_000;

interface Ran {
  readonly exitCode: number;
  readonly stderr: string;
}

async function release(checkout: string, directory: string, words: readonly string[], more: Record<string, string> = {}): Promise<Ran> {
  const child = Bun.spawn([process.execPath, join(checkout, "scripts", "release.ts"), ...words], {
    cwd: directory,
    env: { PATH: process.env["PATH"], HOME: process.env["HOME"], PROTEAN_COMMIT: COMMIT, SOURCE_DATE_EPOCH: String(MADE_s), ...more },
    stdout: "ignore",
    stderr: "pipe",
  });
  return { stderr: await new Response(child.stderr).text(), exitCode: await child.exited };
}

describe("a release", () => {
  let folder: TemporaryFolder;
  let [first, second] = ["", ""];
  const read = (name: string) => readFileSync(join(first, name));

  beforeAll(async () => {
    folder = temporaryFolder();
    [first, second] = [folder.at("first"), folder.at("second")];
    const copy = folder.at("a copy, elsewhere");
    const names = ["src", "scripts", "package.json", "package-lock.json", "tsconfig.json", "LICENSE", "node_modules"];
    // Without what no build reads, and that is most of it; fetched runtimes are shared.
    const isRead = (path: string) => !/node_modules\/(\.cache|@deno|@biomejs|deno)$/.test(path);
    for (const name of names) cpSync(join(root, name), join(copy, name), { recursive: true, verbatimSymlinks: true, filter: isRead });
    mkdirSync(join(root, "node_modules", ".cache"), { recursive: true });
    symlinkSync(join(root, "node_modules", ".cache"), join(copy, "node_modules", ".cache"));
    folder.write({ "second/protean-of-yesterday.tar.gz": "", "second/SHA256SUMS": "" });
    const ran = await Promise.all([
      release(root, folder.path, ["--out", first, machine]),
      release(copy, copy, ["--out", second, machine], { TZ: "Asia/Tokyo", LC_ALL: "C" }),
    ]);
    for (const { exitCode, stderr } of ran) if (exitCode !== 0) throw new Error(stderr);
  }, LIMIT_ms);
  afterAll(() => folder.remove());

  test("has the same bytes from two folders, and nothing of the release before it", () => {
    expect(readdirSync(second).sort()).toEqual(readdirSync(first).sort());
    for (const name of readdirSync(first)) expect([name, readFileSync(join(second, name)).equals(read(name))]).toEqual([name, true]);
  });

  test("holds sums for every file and for the executable in the archive", () => {
    const unpacked = parseTar(gunzipSync(read(`protean-${machine}.tar.gz`)));
    const sums = read("SHA256SUMS").toString("utf8").trimEnd().split("\n");
    for (const line of sums) {
      const [sum = "", name = ""] = line.split("  ");
      const bytes = unpacked.find((file) => file.name === name)?.data ?? read(name);
      expect([name, createHash("sha256").update(bytes).digest("hex")]).toEqual([name, sum]);
    }
    const named = sums.map((line) => line.split("  ")[1]);
    expect(named).toEqual([`protean-${machine}.tar.gz`, `protean-${machine}/protean`, "THIRD_PARTY_LICENSES", "protean.cdx.json"]);
  });

  test("unpacks as docs/deploying.md says, to a program that tells its version and commit", () => {
    // What is downloaded: one archive and the sums of all.
    const place = temporaryFolder();
    for (const name of [`protean-${machine}.tar.gz`, "SHA256SUMS"]) cpSync(join(first, name), place.at(name));
    const page = readFileSync(join(root, "docs", "deploying.md"), "utf8");
    const [, lines = ""] = /^```sh release\n([\s\S]*?)^```$/m.exec(page) ?? [];
    expect(lines).toContain("tar xzf protean-linux-x64.tar.gz");
    const { stdout, stderr, exitCode } = Bun.spawnSync(["sh", "-ec", lines.replaceAll("linux-x64", machine)], { cwd: place.path });
    expect([stderr.toString(), exitCode]).toEqual(["", 0]);
    const [checked = "", document = ""] = stdout.toString().split(/^(?=\{)/m);
    expect(checked).toBe(`protean-${machine}.tar.gz: OK\nprotean-${machine}/protean: OK\n`);
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { readonly version: string };
    expect(JSON.parse(document).data).toMatchObject({ version, commit: COMMIT });
    expect(readdirSync(place.at(`protean-${machine}`)).sort()).toEqual(["LICENSE", "THIRD_PARTY_LICENSES", "protean"]);
    expect(statSync(place.at(`protean-${machine}`, "protean")).mtimeMs).toBe(MADE_s * 1000);
    place.remove();
  });

  test("holds no path of the machine that made it", () => {
    const executable = parseTar(gunzipSync(read(`protean-${machine}.tar.gz`)))[0]?.data;
    expect(Buffer.from(executable ?? []).includes(root)).toBe(false);
  });

  test("lists every dependency of package.json in its SBOM, and says which are inside", () => {
    const bom = JSON.parse(read("protean.cdx.json").toString("utf8"));
    const manifest: Record<"dependencies" | "devDependencies", Record<string, string>> = JSON.parse(
      readFileSync(join(root, "package.json"), "utf8"),
    );
    const parts = new Map<string, { version: string; scope: string }>(bom.components.map((one: { name: string }) => [one.name, one]));
    for (const [name, version] of Object.entries({ ...manifest.dependencies, ...manifest.devDependencies })) {
      expect([name, parts.get(name)?.version]).toEqual([name, version]);
    }
    for (const name of [...Object.keys(manifest.dependencies), "bun", "@eventide/message-db"]) {
      expect([name, parts.get(name)?.scope]).toEqual([name, "required"]);
    }
    expect(parts.get("typescript")?.scope).toBe("excluded");
    expect(bom.metadata.timestamp).toBe("2026-01-02T03:04:05.000Z");
    // Each edge of the graph leads to a part.
    const refs = new Set([bom.metadata.component, ...bom.components].map((one: { "bom-ref": string }) => one["bom-ref"]));
    const ends = bom.dependencies.flatMap((edge: { ref: string; dependsOn: string[] }) => [edge.ref, ...edge.dependsOn]);
    expect(ends.filter((ref: string) => !refs.has(ref))).toEqual([]);
  });

  test("carries the licence of everything inside, Bun's own too", () => {
    const licences = read("THIRD_PARTY_LICENSES").toString("utf8");
    const bom = JSON.parse(read("protean.cdx.json").toString("utf8"));
    for (const { name, version, scope } of bom.components) {
      expect([name, licences.includes(`\n${name} ${version} (`)]).toEqual([name, scope === "required"]);
    }
    expect(licences).toContain("Bun statically links JavaScriptCore");
    expect(licences).toContain("GNU LIBRARY GENERAL PUBLIC LICENSE");
  });
});

describe("a release is refused", () => {
  test.each([
    [["--out", "x", "linux-z80"], {}, 'no machine "linux-z80"; there are linux-x64'],
    [["--ouch"], {}, "--ouch"],
    [[machine], { SOURCE_DATE_EPOCH: "yesterday" }, 'SOURCE_DATE_EPOCH is "yesterday"'],
  ])("%j %j", async (words, environment, said) => {
    const { exitCode, stderr } = await release(root, root, words, environment);
    expect(stderr).toContain(said);
    expect(exitCode).toBe(2);
  });

  test("into a folder that holds something else", async () => {
    const place = temporaryFolder({ "photo.jpeg": "" });
    const { exitCode, stderr } = await release(root, root, ["--out", place.path, machine]);
    expect(stderr).toContain(`${place.path} holds something else than a release`);
    expect([exitCode, readdirSync(place.path)]).toEqual([2, ["photo.jpeg"]]);
    place.remove();
  });

  test("when the registry gives other bytes than the lockfile says", async () => {
    const wrong = { name: "nanotar", version: "0.3.0", integrity: "sha512-AAAA" };
    await expect(packageFolder(wrong)).rejects.toThrow("nanotar 0.3.0 has the checksum sha512-");
  });
});
