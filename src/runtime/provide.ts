/**
 * Gives the modules `protean` and `protean/testing` to handler files, from this program and from nowhere else: a second copy of the
 * SDK would have a second registry of domains (D19). Under Bun a virtual module does it, before any look into `node_modules` or the
 * `paths` of a tsconfig. Deno uses the import map of deno.json, Node the package's own `exports`.
 */
import { runtimeName } from "./environment.ts";

/** Module name to what loads it; called at most once. */
export type ProvidedModules = Readonly<Record<string, () => Promise<object>>>;

interface BunRuntime {
  plugin(options: {
    readonly name: string;
    setup(build: { module(specifier: string, give: () => { readonly exports: object; readonly loader: "object" }): void }): void;
  }): void;
}

const given = new Map<string, Promise<object>>();

/**
 * Registers the modules; one that was registered before stays. They are loaded here and handed out at once, because `require()` of a
 * CommonJS file can't wait for a module that is still loading.
 */
export async function provideModules(modules: ProvidedModules): Promise<void> {
  const bun = (globalThis as { readonly Bun?: BunRuntime }).Bun;
  if (bun === undefined || runtimeName().name !== "bun") return;
  for (const [specifier, load] of Object.entries(modules)) {
    if (given.has(specifier)) continue;
    const loading = load();
    given.set(specifier, loading);
    const exports = await loading;
    restoreNames(exports);
    bun.plugin({
      name: `provide ${specifier}`,
      setup: (build) => build.module(specifier, () => ({ exports, loader: "object" })),
    });
  }
}

/**
 * The bundler renames what several chunks share (`ValidationError2`). Users see the names in `constructor.name`, in stacks and in
 * `console.log`, so what is exported gets the name it is exported by.
 */
function restoreNames(exports: object): void {
  for (const [name, value] of Object.entries(exports)) {
    if (typeof value !== "function" || value.name === name || value.name.replace(/\d+$/, "") !== name) continue;
    Object.defineProperty(value, "name", { value: name, configurable: true });
  }
}
