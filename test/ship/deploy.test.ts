/** The samples under deploy/: what they say fits together, the program takes their words, and it runs with their configuration on real servers. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join, normalize } from "node:path";
import process from "node:process";
import { DatabaseSync } from "node:sqlite";
import { findOnPath } from "../../scripts/programs.ts";
import { binary, runBinary } from "../support/binary.ts";
import { programWords, refusal } from "../support/command-lines.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { freshDatabase } from "../support/postgres.ts";
import { type RedisService, startRedis } from "../support/redis.ts";
import { endAll, mustRun, type Place, rowsOf, startProgram } from "../support/running.ts";
import { until } from "../support/until.ts";

const root = join(import.meta.dir, "..", "..");
const at = (...parts: string[]) => join(root, "deploy", ...parts);
const read = (...parts: string[]) => readFileSync(at(...parts), "utf8");
const yaml = (...parts: string[]) => Bun.YAML.parse(read(...parts)) as Tree;
const handlers = join(root, "examples", "fidelis", "handlers");
/** Beyond the drain timeout the engine waits this long for a service that doesn't end (src/engine/engine.ts). */
const OVERTIME_s = 2;

// biome-ignore lint/suspicious/noExplicitAny: YAML of many shapes; a wrong path fails the test that walks it.
type Tree = any;

/** Effective values of a sample, by the program itself. */
function effective(sample: string, key: string): string {
  const environment = { DATABASE_URL: "postgresql://a@b/c", REDIS_URL: "redis://d", PROTEAN_ENV: "production" };
  const { stdout, stderr } = runBinary(["config", "get", key, "--config", at(sample, "domain.toml")], { directory: root, environment });
  return stdout.trim() || stderr;
}

/** Variables that a domain.toml takes from the environment and gives no default. */
function needed(sample: string): readonly string[] {
  const names = [...read(sample, "domain.toml").matchAll(/\$\{([^}|]+)\}/g)].map(([, name = ""]) => name);
  return [...new Set(names)].sort();
}

test.each(["systemd", "compose", "kubernetes"])("deploy/%s/domain.toml has no key that nobody reads", (sample) => {
  const environment = { ...Object.fromEntries(needed(sample).map((name) => [name, "redis://x"])), DATABASE_URL: "postgresql://a@b/c" };
  const words = ["config", "validate", "--config", at(sample, "domain.toml"), "--env", "production"];
  expect(runBinary(words, { directory: root, environment })).toMatchObject({ exitCode: 0, stderr: "" });
});

test("the image's command and HEALTHCHECK are taken by the program", () => {
  const file = readFileSync(join(root, "Dockerfile"), "utf8");
  const listed = (pattern: RegExp) => JSON.parse(pattern.exec(file)?.[1] ?? "[]") as string[];
  expect(listed(/^ENTRYPOINT (.*)$/m)).toEqual(["/usr/local/bin/protean"]);
  const [program, ...health] = listed(/^HEALTHCHECK .* CMD (.*)$/m);
  expect(program).toBe("/usr/local/bin/protean");
  for (const words of [listed(/^CMD (.*)$/m), health]) expect([words.length > 0, refusal(words)]).toEqual([true, null]);
});

describe("the systemd unit", () => {
  const unit = read("systemd", "protean.service");
  const setting = (name: string) => new RegExp(`^${name}=(.*)$`, "m").exec(unit)?.[1] ?? "";

  test.skipIf(findOnPath("systemd-analyze") === null)("is understood by systemd in every line", () => {
    const folder = temporaryFolder();
    symlinkSync(binary(), folder.at("protean"));
    folder.write({ "protean.service": unit.replaceAll("/usr/local/bin/protean", folder.at("protean")) });
    const { status, stderr } = spawnSync("systemd-analyze", ["verify", folder.at("protean.service")], { encoding: "utf8" });
    folder.remove();
    expect([status, stderr]).toEqual([0, ""]);
  });

  test("starts the program with words that it takes and a configuration that lies where the page puts it", () => {
    const [program, ...words] = setting("ExecStart").split(" ");
    expect(program).toBe("/usr/local/bin/protean");
    expect(refusal(words)).toBe(null);
    expect(words).toContain("/etc/protean/domain.toml");
  });

  test("lets it write where its data lies, as a user that sysusers.conf makes", () => {
    expect(`/var/lib/${setting("StateDirectory")}`).toBe(effective("systemd", "protean.data_dir"));
    expect(read("systemd", "sysusers.conf")).toContain(`\nu ${setting("User")} `);
  });

  test("gives it longer to end than it takes", () => {
    const drain_s = Number(effective("systemd", "server.drain_timeout"));
    expect(drain_s).toBeGreaterThan(0);
    expect(Number(setting("TimeoutStopSec"))).toBeGreaterThan(drain_s + OVERTIME_s);
  });

  test("doesn't start it again after the exit code of a wrong configuration", () => {
    const folder = temporaryFolder({ "domain.toml": '[databases.default]\nprovider = "oracle"\n', "handlers/a.ts": "export {};\n" });
    const { exitCode } = runBinary(["server"], { directory: folder.path });
    folder.remove();
    expect(String(exitCode)).toBe(setting("RestartPreventExitStatus"));
  });
});

describe("the compose file", () => {
  const { services, volumes } = yaml("compose", "compose.yaml");
  const ours = ["setup", "engine"];

  test("has commands that the program takes", () => {
    for (const name of ours) expect([name, refusal(services[name].command)]).toEqual([name, null]);
  });

  test("gives every variable that domain.toml needs, and mounts files that are there", () => {
    for (const name of ours) {
      const { environment, volumes: mounts } = services[name];
      expect(Object.keys(environment)).toEqual(expect.arrayContaining([...needed("compose")]));
      const sources = (mounts as string[]).map((mount) => mount.replace(/^\$\{\w+:-(.*?)\}/, "$1").split(":")[0] ?? "");
      for (const source of sources) expect([source, existsSync(normalize(at("compose", source)))]).toEqual([source, true]);
    }
  });

  test("gives the engine longer to end than it takes", () => {
    const [, grace_s] = /^(\d+)s$/.exec(services.engine.stop_grace_period) ?? [];
    expect(Number(grace_s)).toBeGreaterThan(Number(effective("compose", "server.drain_timeout")) + OVERTIME_s);
  });

  test("waits for services that it has, and that say when they are ready", () => {
    for (const [name, { depends_on = {}, volumes: mounts = [] }] of Object.entries<Tree>(services)) {
      for (const [other, { condition }] of Object.entries<Tree>(depends_on)) {
        const says = condition === "service_healthy" ? services[other]?.healthcheck : services[other]?.command;
        expect([name, other, says !== undefined]).toEqual([name, other, true]);
      }
      const named = (mounts as string[]).map((mount) => mount.split(":")[0] ?? "").filter((source) => /^\w+$/.test(source));
      for (const volume of named) expect(Object.keys(volumes)).toContain(volume);
    }
  });

  test("runs it with a read-only root and no privilege", () => {
    for (const name of ours) {
      expect(services[name]).toMatchObject({ read_only: true, cap_drop: ["ALL"], security_opt: ["no-new-privileges:true"] });
    }
  });
});

describe("the Kubernetes manifests", () => {
  const deployment = yaml("kubernetes", "deployment.yaml");
  const { template, selector } = deployment.spec;
  const [engine] = template.spec.containers;
  const containers: readonly Tree[] = [...template.spec.initContainers, engine];

  test("have commands that the program takes", () => {
    for (const { name, args } of containers) expect([name, refusal(args)]).toEqual([name, null]);
  });

  test("ask for probes at the port where the engine answers, on an address that the kubelet reaches", () => {
    const [port] = engine.ports;
    expect(String(port.containerPort)).toBe(effective("kubernetes", "server.health.port"));
    expect(effective("kubernetes", "server.health.host")).toBe("0.0.0.0");
    expect(effective("kubernetes", "server.health.port_auto_increment")).toBe("false");
    for (const probe of ["startupProbe", "livenessProbe", "readinessProbe"]) expect(engine[probe].httpGet.port).toBe(port.name);
    expect(engine.startupProbe.httpGet.path).toBe("/livez");
    expect(engine.livenessProbe.httpGet.path).toBe("/livez");
    expect(engine.readinessProbe.httpGet.path).toBe("/readyz");
  });

  test("give it longer to end than it takes", () => {
    const drain_s = Number(effective("kubernetes", "server.drain_timeout"));
    expect(template.spec.terminationGracePeriodSeconds).toBeGreaterThan(drain_s + OVERTIME_s);
  });

  test("give every variable that domain.toml needs", () => {
    const secret = yaml("kubernetes", "secret.yaml");
    expect(Object.keys(secret.stringData).sort()).toEqual([...needed("kubernetes")]);
    for (const { envFrom } of containers) expect(envFrom[0].secretRef.name).toBe(secret.metadata.name);
  });

  test("mount the configuration where PROTEAN_CONFIG says, and the data folder of the image", () => {
    const { configMapGenerator, resources } = yaml("kubernetes", "kustomization.yaml");
    for (const { env, volumeMounts } of containers) {
      const variables = Object.fromEntries((env as Tree[]).map(({ name, value }) => [name, value]));
      const [config, data] = volumeMounts;
      expect(variables["PROTEAN_CONFIG"]).toBe(`${config.mountPath}/${configMapGenerator[0].files[0]}`);
      expect(readFileSync(join(root, "Dockerfile"), "utf8")).toContain(`PROTEAN_DATA=${data.mountPath} `);
    }
    const volume = template.spec.volumes.find(({ name }: Tree) => name === "config");
    expect(volume.configMap.name).toBe(configMapGenerator[0].name);
    for (const file of resources) expect(existsSync(at("kubernetes", file))).toBe(true);
  });

  test("select the same pods everywhere, as the user of the image, with a read-only root and no privilege", () => {
    const labels = template.metadata.labels;
    expect(selector.matchLabels).toEqual(labels);
    expect(yaml("kubernetes", "disruption-budget.yaml").spec.selector.matchLabels).toEqual(labels);
    expect(yaml("kubernetes", "network-policy.yaml").spec.podSelector.matchLabels).toEqual(labels);
    const [, user] = /^USER (\d+):/m.exec(readFileSync(join(root, "Dockerfile"), "utf8")) ?? [];
    expect(template.spec.securityContext).toMatchObject({ runAsNonRoot: true, runAsUser: Number(user) });
    for (const { securityContext } of containers) {
      expect(securityContext).toEqual({ allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ["ALL"] } });
    }
  });

  test.skipIf(findOnPath("kubectl") === null)("are put together by kubectl, with the configuration under a name of its contents", () => {
    const { status, stdout, stderr } = spawnSync("kubectl", ["kustomize", at("kubernetes")], { encoding: "utf8" });
    expect([status, stderr]).toEqual([0, ""]);
    const [, name = "?"] = /^ {2}name: (protean-[a-z0-9]{10})$/m.exec(stdout) ?? [];
    expect(stdout).toContain(`- configMap:\n          name: ${name}\n`);
    expect(stdout).not.toMatch(/image: protean$/m);
  });
});

describe("an engine with the configuration of", () => {
  let redis: RedisService;
  let folder: TemporaryFolder;
  beforeAll(async () => {
    redis = await startRedis();
    folder = temporaryFolder();
  });
  afterEach(async () => await endAll());
  afterAll(async () => {
    await redis.stop();
    folder.remove();
  });

  test.each(["compose", "kubernetes"])(
    "deploy/%s handles a command, drains, and ends",
    async (sample) => {
      const database = await freshDatabase("empty");
      try {
        await redis.cli("FLUSHALL");
        const config = folder.at("domain.toml");
        // The image has its handlers at /app/handlers; here they lie elsewhere.
        writeFileSync(config, read(sample, "domain.toml").replace("/app/handlers", handlers));
        const variables = { REDIS_URL: redis.url, DATABASE_URL: database.url, PROTEAN_ENV: "production", PROTEAN_CONFIG: config };
        const place: Place = { directory: folder.path, environment: variables };
        const here = ["--handlers", handlers];
        await mustRun(["db", "setup", ...here], place);
        const server = startProgram(["server", ...here, "--http", "127.0.0.1:0"], place);
        await until("the server says where it listens", () => server.output().includes('"event":"server.running"'));
        const [, url = ""] = /"http":"(http:[^"]+)"/.exec(server.output()) ?? [];
        const statusOf = async (path: string, method = "GET") => (await fetch(`${url}${path}`, { method })).status;
        const { livenessProbe, readinessProbe } = yaml("kubernetes", "deployment.yaml").spec.template.spec.containers[0];
        await until("it is ready", async () => (await statusOf(readinessProbe.httpGet.path)) === 200);
        expect(await statusOf(livenessProbe.httpGet.path)).toBe(200);
        const payload = JSON.stringify({ account_id: "ada", holder_name: "Ada", opening_deposit: 500 });
        await mustRun(["send", "command", "OpenAccount", payload, "--wait", "20s", ...here], place);
        expect(await rowsOf(["query", "AccountSummary", ...here], place)).toMatchObject([{ account_id: "ada", balance: 500 }]);
        expect(await statusOf("/drainz", "POST")).toBe(200);
        expect([await statusOf(readinessProbe.httpGet.path), await statusOf(livenessProbe.httpGet.path)]).toEqual([503, 200]);
        expect((await server.end("SIGTERM")).exitCode).toBe(0);
      } finally {
        await endAll();
        await database.drop();
      }
    },
    60_000,
  );
});

test("a backup by VACUUM INTO, taken while the server runs, is whole", async () => {
  const place = temporaryFolder({ "data/.keep": "", "restored/.keep": "" });
  const here = ["--handlers", handlers];
  const at = (name: string): Place => ({ directory: place.path, environment: { PROTEAN_DATA: place.at(name) } });
  const server = startProgram(["server", ...here, "--http", "off"], at("data"));
  try {
    const payload = JSON.stringify({ account_id: "ada", holder_name: "Ada", opening_deposit: 500 });
    await mustRun(["send", "command", "OpenAccount", payload, "--wait", "20s", ...here], at("data"));
    const database = new DatabaseSync(place.at("data", "protean.db"));
    database.exec(`VACUUM INTO '${place.at("restored", "protean.db")}'`);
    database.close();
    expect((await server.end("SIGTERM")).exitCode).toBe(0);
    expect(await rowsOf(["query", "AccountSummary", ...here], at("restored"))).toMatchObject([{ account_id: "ada", balance: 500 }]);
    // Nothing is left to do in it, and nothing is done twice.
    await mustRun(["server", "--test-mode", ...here], at("restored"));
    expect(await rowsOf(["query", "AccountSummary", ...here], at("restored"))).toMatchObject([{ account_id: "ada", balance: 500 }]);
  } finally {
    await endAll();
    place.remove();
  }
}, 60_000);

test("words that the program wouldn't take are found out", () => {
  expect(refusal(["server", "--handler-folder", "x"])).toContain("--handler-folder");
  expect(refusal(["severe"])).toContain("severe");
  expect(programWords("sudo -u protean protean dlq list --config '/etc/a b.toml' | head")).toEqual([
    "dlq",
    "list",
    "--config",
    "/etc/a b.toml",
  ]);
  expect(programWords("kubectl exec deploy/protean -- protean health")).toEqual(["health"]);
  expect(programWords("systemctl restart protean")).toBe(null);
});

if (findOnPath("systemd-analyze") === null)
  process.stderr.write("skipped: the systemd unit is not verified, there is no systemd-analyze on PATH\n");
if (findOnPath("kubectl") === null) process.stderr.write("skipped: the manifests are not put together, there is no kubectl on PATH\n");
