/**
 * Builds the image of the Dockerfile and tries it: the bank of examples/fidelis in it, a command sent in, the projection read, health asked, and a stop
 * that drains. Ends with 0 only when all of that holds.
 *
 *   sh scripts/image.sh [--tag NAME]     default: protean:VERSION
 */
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { build, commit, packageVersion } from "./build.ts";
import { ImageError, USER, writeContext } from "./image/context.ts";
import { type Engine, findEngine, type Running } from "./image/engine.ts";
import { freePort } from "./services.ts";

const root = join(import.meta.dirname, "..");
const program = join(root, "dist", "protean");
const context = join(root, "dist", "image");
const LIMIT_ms = 30_000;

// What goes into the image must be readable for its user, whatever this shell says.
process.umask(0o022);

function say(line: string): void {
  process.stdout.write(`image: ${line}\n`);
}

function expect(what: string, isSo: boolean, otherwise: string): void {
  if (!isSo) throw new ImageError(`${what}: it isn't so\n${otherwise}`);
  say(`ok  ${what}`);
}

/** The bank with a configuration that names a free port: with buildah the network is the machine's. */
async function writeApp(folder: string): Promise<void> {
  cpSync(join(root, "examples", "fidelis", "handlers"), join(folder, "handlers"), { recursive: true });
  const lines = ["[server]", 'default_subscription_type = "stream"', "[server.health]", `port = ${await freePort()}`];
  writeFileSync(join(folder, "domain.toml"), `${lines.join("\n")}\n`);
}

async function untilReady(running: Running, healthcheck: readonly string[]): Promise<void> {
  const deadline = performance.now() + LIMIT_ms;
  for (;;) {
    const { exitCode, output } = await running.exec(healthcheck);
    if (exitCode === 0) return;
    if (performance.now() > deadline) {
      throw new ImageError(`not healthy within ${LIMIT_ms / 1000} s:\n${output}\nthe server said:\n${await running.output()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

async function attempt(engine: Engine, tag: string): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "protean-image-"));
  chmodSync(folder, 0o755);
  const [app, scratch] = [join(folder, "app"), join(folder, "engine")];
  for (const one of [app, scratch]) mkdirSync(one);
  await writeApp(app);
  const settings = await engine.settings(tag);
  expect("the image names a user by number", settings.user === `${USER}:${USER}`, settings.user);
  const running = await engine.start(tag, settings, app, scratch);
  try {
    await untilReady(running, settings.healthcheck);
    say("ok  its HEALTHCHECK says that the server is ready");
    const pid = await running.pid();
    if (pid !== null) {
      const status = readFileSync(`/proc/${pid}/status`, "utf8");
      const line = (name: string) => new RegExp(`^${name}:\\s*(.*)$`, "m").exec(status)?.[1] ?? "";
      expect(`the server runs as user ${USER}`, line("Uid").startsWith(`${USER}\t`), line("Uid"));
      expect("it has no capability", /^0+$/.test(line("CapEff")), line("CapEff"));
    }
    const protean = (...words: readonly string[]) => running.exec(["/usr/local/bin/protean", ...words]);
    const payload = JSON.stringify({ account_id: "ada", holder_name: "Ada Lovelace", opening_deposit: 500 });
    const sent = await protean("send", "command", "OpenAccount", payload, "--wait", "20s");
    expect("a command sent in is handled", sent.exitCode === 0, sent.output);
    const row = await protean("query", "AccountSummary", "ada", "--json");
    expect("its effect is in the projection", row.exitCode === 0 && row.output.includes('"Ada Lovelace"'), row.output);
    const health = await protean("health", "--json");
    expect("protean health answers inside", health.exitCode === 0 && health.output.includes('"status": "ok"'), health.output);
    const { exitCode, output } = await running.stop();
    expect("SIGTERM drains and ends it with 0", exitCode === 0 && output.includes("Stopped: handled"), `exit code ${exitCode}\n${output}`);
    const written = await running.written();
    expect("it wrote nothing outside of /data", written.length === 0, written.join("\n"));
  } finally {
    await running.remove();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({ args: process.argv.slice(2), options: { tag: { type: "string" } } });
  const tag = values.tag ?? `protean:${packageVersion()}`;
  const engine = await findEngine();
  say(`with ${engine.name}`);
  await build();
  await writeContext(context, program);
  await engine.build(tag, context, join(root, "Dockerfile"), { VERSION: packageVersion(), COMMIT: commit() });
  rmSync(context, { recursive: true });
  await attempt(engine, tag);
  if (engine.untried !== null) say(`not tried: ${engine.untried}`);
  say(`${tag} is ready, ${((await engine.size_bytes(tag)) / 1e6).toFixed(0)} MB`);
}

await main().catch((error: unknown) => {
  const isTold = error instanceof ImageError || (error as { readonly code?: string }).code?.startsWith("ERR_PARSE_ARGS") === true;
  process.stderr.write(`image: ${isTold ? (error as Error).message : Bun.inspect(error)}\n`);
  process.exitCode = 1;
});
