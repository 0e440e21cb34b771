/**
 * Writes the types of the built-in modules `protean` and `protean/testing` as one file of ambient modules, for `protean new`: with it beside its
 * tsconfig a folder type-checks with nothing installed.
 *
 * The compiler emits the declarations of src/; every file that the two entries reach becomes an ambient module of its own (`protean/~/domain/domain`),
 * so nothing is merged and no name can clash.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import process from "node:process";

const root = join(import.meta.dir, "..");
const ENTRIES: Readonly<Record<string, string>> = { protean: "mod", "protean/testing": "testing" };
/** A module that nobody imports by hand. */
const INNER = "protean/~/";

/** @returns the text of protean.d.ts. @throws when the declarations can't be emitted */
export function builtInTypes(): string {
  const folder = mkdtempSync(join(tmpdir(), "protean-types-"));
  try {
    const settings = join(folder, "tsconfig.json");
    writeFileSync(
      settings,
      JSON.stringify({
        extends: join(root, "tsconfig.json"),
        compilerOptions: {
          noEmit: false,
          declaration: true,
          emitDeclarationOnly: true,
          rootDir: join(root, "src"),
          outDir: folder,
          typeRoots: [join(root, "node_modules", "@types")],
        },
        include: [],
        files: Object.values(ENTRIES).map((name) => join(root, "src", `${name}.ts`)),
      }),
    );
    const tsc = join(root, "node_modules", ".bin", "tsc");
    // Through this Bun: the file in JavaScript around the compiler doesn't run under Node 20.0.
    const { stdout, stderr, error } = spawnSync(process.execPath, [tsc, "-p", settings], { cwd: root, encoding: "utf8" });
    // Mistakes elsewhere are for `npm run typecheck` to tell; the declarations are written all the same.
    if (!existsSync(join(folder, "mod.d.ts"))) {
      throw new Error(`the types of "protean" can't be emitted:\n${stdout ?? ""}${stderr ?? ""}`, { cause: error });
    }
    return bundle(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function bundle(folder: string): string {
  const modules = new Map<string, string>();
  const add = (name: string): void => {
    if (modules.has(name)) return;
    const file = join(folder, `${name}.d.ts`);
    if (!existsSync(file)) throw new Error(`no declarations were emitted for src/${name}.ts`);
    modules.set(name, "");
    const text = readFileSync(file, "utf8").replace(
      /(\bfrom\s*|\bimport\s*\(\s*|\bimport\s+)(["'])(\.[^"']+)\2/g,
      (_all, lead: string, _quote: string, specifier: string) => {
        const target = relative(folder, join(dirname(file), specifier.replace(/\.ts$/, "")));
        add(target);
        return `${lead}"${INNER}${target}"`;
      },
    );
    modules.set(name, ambient(text));
  };
  for (const name of Object.values(ENTRIES)) add(name);
  const parts = [...modules].sort(([one], [other]) => (one < other ? -1 : 1)).map(([name, text]) => declared(INNER + name, text));
  const entries = Object.entries(ENTRIES).map(([specifier, name]) => declared(specifier, `export * from "${INNER}${name}";\n`));
  return `// Types of the modules that the program "protean" gives to handlers. Written by "protean new"; don't edit.\n\n${[...entries, ...parts].join("\n")}`;
}

/** Inside an ambient module everything is declared already. */
function ambient(text: string): string {
  return text
    .replace(/^(export )?declare (?!module|global)/gm, "$1")
    .replace(/^export \{\};\n/gm, "")
    .replace(/^\/\/# sourceMappingURL=.*\n?/gm, "");
}

function declared(specifier: string, text: string): string {
  const body = text
    .trimEnd()
    .split("\n")
    .map((line) => (line === "" ? "" : `  ${line}`));
  return `declare module "${specifier}" {\n${body.join("\n")}\n}\n`;
}

if (import.meta.main) process.stdout.write(builtInTypes());
