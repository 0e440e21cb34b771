/**
 * From the words of a call to a domain that is ready, in the order of cli.md 2.2:
 *
 * place      `--domain` (or PROTEAN_DOMAIN) says where to look, what the domain is called, or both
 * configure  domain.toml from there upward, or `--config`
 * load       the handler files, all of them, so that all mistakes are told together
 * pick       the one Domain that they declared
 * connect    the stores that the configuration names, given to the domain
 */
import { basename, dirname, extname, join, relative, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import type { ConnectedStores, Tools } from "../compose/connect.ts";
import type { Config, LogLevel } from "../config/config.ts";
import { configFromObject, loadConfig } from "../config/load.ts";
import { nearest } from "../config/nearest.ts";
import type { Domain } from "../domain/domain.ts";
import { normalisedDomainName } from "../messages/names.ts";
import { type LogSettings, standardLog } from "../observatory/standard-log.ts";
import type { Log } from "../ports/log.ts";
import { configFiles } from "../runtime/config-files.ts";
import { environmentVariables, workingDirectory } from "../runtime/environment.ts";
import { kindOf } from "../runtime/files.ts";
import { describeFailure, loadHandlers } from "../runtime/modules.ts";
import { terminal } from "../runtime/terminal.ts";
import type { Values } from "./arguments.ts";
import type { Invocation } from "./command.ts";
import { captureConsole } from "./console.ts";
import { Patience } from "./patience.ts";
import { CommandError, EXIT, type Finding, usageError } from "./problem.ts";

/** Where `--domain` leads. */
export interface Place {
  /** Where the search for the configuration begins. Absolute. */
  readonly start: string;
  /** The domain must be called so; null when nobody said. */
  readonly name: string | null;
  /** Export of the handler file that is the domain; null for whichever was declared. */
  readonly exportName: string | null;
  /** Handlers that `--domain` itself names; null when the convention decides. */
  readonly handlers: readonly string[] | null;
}

export interface LoadedProject {
  readonly config: Config;
  readonly domain: Domain;
  /** As they were asked for or found. */
  readonly handlerPaths: readonly string[];
  readonly files: readonly string[];
  readonly warnings: readonly string[];
}

export interface OpenProject extends LoadedProject {
  readonly stores: ConnectedStores;
  close(): Promise<void>;
}

const SOURCE_EXTENSIONS = [".ts", ".tsx", ".mts", ".js", ".mjs"];
const LEVELS: readonly LogLevel[] = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];

/**
 * @throws CommandError when the flag and PROTEAN_DOMAIN say different things (the original silently lets the variable win), or when a path leads
 *   to nothing
 */
export async function placeOf(values: Values): Promise<Place> {
  const flag = values.text("domain");
  const variable = environmentVariables()["PROTEAN_DOMAIN"] || undefined;
  if (flag !== undefined && variable !== undefined && flag !== variable) {
    throw usageError(`--domain says "${flag}" and PROTEAN_DOMAIN says "${variable}"`, "Give one of them, or the same in both.");
  }
  const directory = workingDirectory();
  const given = flag ?? variable;
  if (given === undefined || given === ".") return { start: directory, name: null, exportName: null, handlers: null };
  return await placeFrom(given, directory);
}

async function placeFrom(given: string, directory: string): Promise<Place> {
  const colon = given.lastIndexOf(":");
  const [path, exportName] = colon > 1 ? [given.slice(0, colon), given.slice(colon + 1)] : [given, null];
  if (SOURCE_EXTENSIONS.includes(extname(path))) {
    const file = resolve(directory, path);
    if ((await kindOf(file)) !== "file") throw usageError(`--domain: there is no file ${path}`);
    return { start: dirname(file), name: null, exportName, handlers: [file] };
  }
  const isWord = !path.includes("/") && !path.includes("\\");
  if (isWord && (await kindOf(join(directory, "handlers"))) === "folder")
    return { start: directory, name: path, exportName, handlers: null };
  const named = await folderOrFile(resolve(directory, path));
  if (named !== null) return { ...named, name: null, exportName, start: isWord ? directory : named.start };
  if (isWord && path.includes(".")) {
    // The original's dotted module.
    const dotted = await folderOrFile(resolve(directory, path.replaceAll(".", "/")));
    if (dotted !== null) return { ...dotted, name: null, exportName };
    throw usageError(`--domain ${given}: there is no folder ${path.replaceAll(".", "/")}`, "Give a folder or a file: --domain ./my_app.");
  }
  // A name alone: [protean] handlers or --handlers say where the files are.
  if (isWord) return { start: directory, name: path, exportName, handlers: null };
  throw usageError(`--domain: there is no folder ${path}`);
}

/** A folder with `handlers` in it is a project; another one holds the handlers themselves. `./fidelis` may also be `./fidelis.ts`. */
async function folderOrFile(path: string): Promise<{ readonly start: string; readonly handlers: readonly string[] | null } | null> {
  if ((await kindOf(path)) === "folder") {
    const isProject = (await kindOf(join(path, "handlers"))) === "folder" || (await kindOf(join(path, "domain.toml"))) === "file";
    return { start: path, handlers: isProject ? null : [path] };
  }
  for (const extension of SOURCE_EXTENSIONS) {
    if ((await kindOf(path + extension)) === "file") return { start: dirname(path), handlers: [path + extension] };
  }
  return null;
}

/**
 * The configuration that the call means.
 * @param flags values of flags by key path; they win over everything
 */
export async function configOf(
  values: Values,
  place: Place,
  options: { readonly strict?: boolean; readonly flags?: Readonly<Record<string, unknown>> } = {},
): Promise<Config> {
  return await loadConfig({
    start: place.start,
    file: values.text("config") === undefined ? undefined : resolve(workingDirectory(), values.text("config") ?? ""),
    environment: environmentVariables(),
    overlayName: values.text("env"),
    read: configFiles,
    strict: options.strict,
    flags: options.flags,
  });
}

/**
 * The log of this call. `quietly`: errors only, unless a flag asks for more; for commands that are about their result and tell themselves what they
 * couldn't reach.
 */
export function logOf(values: Values, config: Config, options: { readonly quietly?: boolean; readonly stacks?: boolean } = {}): Log {
  const asked = levelOf(values);
  const level = asked ?? (options.quietly === true ? "ERROR" : config.logging.level);
  const format = values.text("log-format");
  const settings: LogSettings = {
    level,
    format: format === "console" || format === "json" ? format : config.logging.format,
    redact: config.logging.redact,
  };
  return standardLog(settings, {
    stacks: options.stacks === true || values.has("debug") || level === "DEBUG",
    colour: terminal("stderr", { noColour: values.has("no-color") }).colour,
  });
}

function levelOf(values: Values): LogLevel | undefined {
  const text = values.text("log-level");
  if (text !== undefined) {
    const level = LEVELS.find((one) => one === text.toUpperCase());
    if (level === undefined) throw usageError(`--log-level: "${text}" is none of ${LEVELS.join(", ")}`);
    return level;
  }
  return values.has("debug") ? "DEBUG" : undefined;
}

/**
 * Configures, loads and picks; touches no backend.
 * @throws CommandError listing every file that could not be loaded; what the configuration and the domain find wrong
 */
export async function loadProject(
  { values, runtime }: Invocation,
  options: { readonly strict?: boolean; readonly flags?: Readonly<Record<string, unknown>> } = {},
): Promise<LoadedProject> {
  const place = await placeOf(values);
  const config = await configOf(values, place, options);
  const handlerPaths = await handlersOf(values, place, config);
  captureConsole(logOf(values, config));
  const { files, failures, warnings } = await loadHandlers(handlerPaths, {
    providedModules: runtime.providedModules,
    version: runtime.build.version,
    workingDirectory: workingDirectory(),
  });
  if (failures.length > 0) {
    const lines = failures.map((failure) => describeFailure(failure));
    const findings = failures.map(
      (failure, index): Finding => ({
        code: `HANDLER_${failure.kind.toUpperCase().replace("-", "_")}`,
        level: "error",
        message: lines[index] ?? failure.message,
        at: undefined,
      }),
    );
    const what = failures.length === 1 ? "a handler file can't be loaded" : `${failures.length} handler files can't be loaded`;
    throw new CommandError(EXIT.usage, "HANDLERS_BROKEN", `${what}; nothing was started`, { findings, cause: failures[0]?.cause });
  }
  const domain = await pickDomain(place, config, files, handlerPaths);
  return { config, domain, files, handlerPaths, warnings };
}

/** Strongest first: flag, environment, `--domain`'s own path, domain.toml, convention. Relative ones start where they were written. */
export async function handlersOf(values: Values, place: Place, config: Config): Promise<readonly string[]> {
  const flags = values.texts("handlers");
  if (flags.length > 0) return flags;
  const variable = environmentVariables()["PROTEAN_HANDLERS"] || undefined;
  if (variable !== undefined) return variable.split(":").filter((path) => path !== "");
  if (place.handlers !== null) return place.handlers;
  if (config.protean.handlers !== null) return config.protean.handlers.map((path) => resolve(config.directory, path));
  for (const base of new Set([place.start, config.directory])) {
    for (const name of ["handlers", "src"]) {
      const path = join(base, name);
      if ((await kindOf(path)) === "folder") return [path];
    }
  }
  throw usageError(
    `there are no handlers in ${place.start}${place.name === null ? "" : ` (looked for handlers, src, ${place.name} and ${place.name}.ts)`}`,
    "Give --handlers PATH, or begin with: protean new shop",
  );
}

async function pickDomain(place: Place, config: Config, files: readonly string[], paths: readonly string[]): Promise<Domain> {
  const [{ Domain: domainClass, knownDomains }, { rememberExports }] = await Promise.all([
    import("../domain/domain.ts"),
    import("../domain/instance.ts"),
  ]);
  // Loaded already, so this only hands out what they export: instances are then made of the user's own classes.
  const modules = await Promise.all(files.map((file) => import(pathToFileURL(file).href) as Promise<Record<string, unknown>>));
  for (const exports of modules) rememberExports(exports);
  if (place.exportName !== null) {
    const found = modules.map((exports) => exports[place.exportName ?? ""]).find((value) => value instanceof domainClass);
    if (found !== undefined) return found as Domain;
    throw usageError(`--domain: ${paths.join(", ")} exports no Domain called "${place.exportName}"`);
  }
  const all = knownDomains();
  const where = paths.map((path) => shortPath(path)).join(", ");
  if (all.length === 0) {
    throw new CommandError(
      EXIT.usage,
      "NO_DOMAIN",
      `no Domain was made in ${where} (${files.length} ${files.length === 1 ? "file" : "files"})`,
      {
        fix: 'Write: export const domain = new Domain("shop");',
      },
    );
  }
  const wanted = place.name ?? config.protean.domain;
  if (wanted !== null) {
    const found = all.find(({ name }) => name === wanted || normalisedDomainName(name) === wanted);
    if (found !== undefined) return found;
    const names = all.map(({ name }) => name);
    const near = nearest(wanted, names);
    throw usageError(
      `the handlers in ${where} declare no domain "${wanted}" but ${names.map((name) => `"${name}"`).join(", ")}`,
      `Write --domain ${near ?? names[0]}, or leave it out.`,
    );
  }
  const [only] = all;
  if (only !== undefined && all.length === 1) return only;
  throw usageError(
    `${all.length} domains are declared: ${all.map(({ name, declaredAt }) => `"${name}" (${declaredAt})`).join(", ")}`,
    "Pick one with --domain NAME.",
  );
}

/**
 * Loads and connects.
 * @param options.setUp make missing tables in SQLite (rulings 55); in other backends say what is missing
 * @throws ConnectionError when a store can't be reached and patience is at its end
 */
export async function openProject(
  invocation: Invocation,
  options: {
    readonly role: "client" | "engine";
    readonly log?: (config: Config) => Log;
    readonly setUp: boolean;
    readonly strict?: boolean;
    readonly flags?: Readonly<Record<string, unknown>>;
    readonly loaded?: LoadedProject;
    /** Puts something around the stores before anybody gets them. */
    readonly wrap?: (stores: ConnectedStores) => ConnectedStores;
    /** The caller makes the tables itself. */
    readonly tablesLater?: boolean;
    /** Also where a database was put back and not compared with the other stores yet: for looking, and for `recover`. */
    readonly unsettled?: boolean;
    /** Called with what holds, before any store is opened; says how long stores are waited for. Default: as long as `--timeout` says. */
    readonly opening?: (config: Config, log: Log) => Promise<Patience>;
  },
): Promise<OpenProject> {
  const project = options.loaded ?? (await loadProject(invocation, options));
  const [{ openStores, systemTools }, { provideConnector }] = await Promise.all([
    import("../compose/connect.ts"),
    import("../domain/stores.ts"),
  ]);
  let stores: ConnectedStores | null = null;
  let patience = Patience.of(invocation.values);
  provideConnector(async (request) => {
    const config = await configFor(project.config, request.config);
    const log = options.log?.(config) ?? logOf(invocation.values, config, { quietly: true });
    const tools: Tools = systemTools(log);
    patience = (await options.opening?.(config, log)) ?? patience;
    const opened = await patience.reach(tools, () => openStores(config, request.domainName, tools, request.databases, { wait_ms: 0 }));
    stores = options.wrap?.(opened) ?? opened;
    return stores;
  });
  await project.domain.init({ role: options.role });
  const connected = stores as ConnectedStores | null;
  if (connected === null) throw new Error("the domain was initialised without asking for its stores");
  const close = () => project.domain.close();
  try {
    if (options.unsettled !== true) {
      const { requireRecovered } = await import("../compose/restored.ts");
      await requireRecovered(connected);
    }
    if (options.tablesLater !== true) await patience.reach(connected, () => requireTables(connected, options.setUp));
  } catch (error) {
    await close();
    throw error;
  }
  return { ...project, config: connected.config, stores: connected, close };
}

/** What holds for a project whose stores aren't opened by `openProject`. */
export async function effectiveConfig({ config, domain }: LoadedProject): Promise<Config> {
  return await configFor(config, domain.options.config);
}

/** domain.toml wins; where there is none, what the code gave to `new Domain(name, { config })`. */
async function configFor(config: Config, given: string | Readonly<Record<string, unknown>> | undefined): Promise<Config> {
  if (config.file !== null || given === undefined) return config;
  const environment = environmentVariables();
  if (typeof given === "object") return configFromObject(given, { directory: workingDirectory(), environment });
  return await loadConfig({ start: workingDirectory(), file: given, environment, read: configFiles });
}

/** @throws CommandError naming what is missing and the command that makes it; ConfigurationError for what the role may not do */
export async function requireTables(stores: ConnectedStores, setUp: boolean): Promise<void> {
  for (const database of stores.databases.values()) {
    await database.verify();
    const missing = await database.missing();
    if (missing.length > 0) {
      const isEmbedded = database.provider === "sqlite" || database.provider === "memory";
      if (!setUp || !isEmbedded) throw notSetUp(`database "${database.name}" (${database.address})`, missing);
      await database.setup();
    }
  }
  const { eventStore } = stores;
  await eventStore.verify();
  const missing = await eventStore.plan();
  if (missing.length > 0) {
    throw notSetUp(
      `event store (${eventStore.address})`,
      missing.map(({ what }) => what),
    );
  }
}

const NAMED_max = 3;

function notSetUp(where: string, missing: readonly string[]): CommandError {
  const more = missing.length > NAMED_max ? ` and ${missing.length - NAMED_max} more` : "";
  return new CommandError(EXIT.usage, "NOT_SET_UP", `${where} lacks ${missing.slice(0, NAMED_max).join(", ")}${more}`, {
    fix: "Run: protean db setup",
  });
}

/**
 * Opens what domain.toml names, without any handler file, for commands that only look (rulings 38).
 * @returns null for `stores` when nothing was ever stored: the file isn't there, and looking must not make it
 */
export async function openBackends({
  values,
}: Invocation): Promise<{ readonly config: Config; readonly stores: ConnectedStores | null; close(): Promise<void> }> {
  const config = await configOf(values, await placeOf(values));
  const looked = await withoutMissingFiles(config);
  if (looked === null) return { config, stores: null, close: async () => undefined };
  const { openStores, systemTools } = await import("../compose/connect.ts");
  const tools = systemTools(logOf(values, config, { quietly: true }));
  const stores = await Patience.of(values).reach(tools, () => openStores(looked, "protean", tools, undefined, { wait_ms: 0 }));
  return { config, stores, close: () => stores.close() };
}

/** True when one of the SQLite files isn't there yet: nothing was ever stored, and opening it would make it. */
export async function isUntouched(config: Config): Promise<boolean> {
  const files = [...Object.values(config.databases), config.eventStore, ...Object.values(config.brokers)].flatMap((part) =>
    part.provider === "sqlite" && part.file !== ":memory:" ? [part.file] : [],
  );
  const kinds = await Promise.all(files.map((file) => kindOf(file)));
  return kinds.some((kind) => kind === null);
}

/**
 * For looking: memory in place of each SQLite file that isn't there, so that what lies in Redis or PostgreSQL is seen and no file is made.
 * @returns null when there is nothing else to look at
 */
export async function withoutMissingFiles(config: Config): Promise<Config | null> {
  let isSomewhere = false;
  const looked = async <Part extends { readonly provider: string }>(part: Part): Promise<Part> => {
    const file = part.provider === "sqlite" && "file" in part ? part.file : null;
    if (typeof file !== "string" || file === ":memory:") {
      if (part.provider === "redis" || part.provider === "postgresql" || part.provider === "message_db") isSomewhere = true;
      return part;
    }
    if ((await kindOf(file)) === null) return { ...part, file: ":memory:" };
    isSomewhere = true;
    return part;
  };
  const each = async <Part extends { readonly provider: string }>(parts: Readonly<Record<string, Part>>) =>
    Object.fromEntries(await Promise.all(Object.entries(parts).map(async ([name, part]) => [name, await looked(part)] as const)));
  const [databases, eventStore, brokers] = await Promise.all([each(config.databases), looked(config.eventStore), each(config.brokers)]);
  return isSomewhere ? { ...config, databases, eventStore, brokers } : null;
}

/** Relative to the working directory where that is shorter. */
export function shortPath(path: string): string {
  const way = relative(workingDirectory(), resolve(workingDirectory(), path));
  if (way === "") return ".";
  return way.startsWith("..") ? path : `./${way}`;
}

/** `./handlers (4 files)`. */
export function describeHandlers(project: LoadedProject): string {
  const count = project.files.length;
  return `${project.handlerPaths.map(shortPath).join(", ")} (${count === 1 ? basename(project.files[0] ?? "1 file") : `${count} files`})`;
}
