/** The server from source under Bun and under Deno, with handlers that forget an `await` and throw in a timer. */
import { afterEach, describe, expect, test } from "bun:test";
import { type RunningCli, runCli, startCli } from "../support/cli.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";

const HANDLERS = `import { Domain, f } from "protean";
const domain = new Domain("Workshop");
class Thing extends domain.aggregate("Thing", { fields: { no: f.identifier({ identifier: true }), uses: f.integer({ default: 0 }) } }) {}
class Make extends domain.command("Make", { partOf: Thing, fields: { no: f.identifier() } }) {}
class Forget extends domain.command("Forget", { partOf: Thing, fields: { no: f.identifier() } }) {}
class Trip extends domain.command("Trip", { partOf: Thing, fields: { no: f.identifier() } }) {}
async function later(no: string) {
  await new Promise((resolve) => setTimeout(resolve, 20));
  const thing = await domain.repositoryFor(Thing).get(no);
  thing.uses += 1;
  await domain.repositoryFor(Thing).add(thing);
}
domain.commandHandler("Things", { partOf: Thing })
  .handle(Make, async (command) => {
    await domain.repositoryFor(Thing).add(new Thing({ no: command.no }));
  })
  .handle(Forget, (command) => {
    void later(command.no);
  })
  .handle(Trip, () => {
    setTimeout(() => {
      throw new Error("from a timer");
    }, 5);
  });
`;

let folder: TemporaryFolder | null = null;
let server: RunningCli | null = null;
afterEach(async () => {
  await server?.stop("SIGKILL");
  folder?.remove();
});

describe.each(["bun", "deno"] as const)("a server under %s", (runtime) => {
  test("sees what other processes write again and again, and outlives what its handlers forget", async () => {
    folder = temporaryFolder({ "handlers/things.ts": HANDLERS });
    const directory = folder.path;
    server = startCli(["server", "--http", "off"], { directory, runtime });
    await server.says("Engine running");
    const send = (command: string, no: string): number | null =>
      runCli(["send", "command", command, JSON.stringify({ no }), "--wait", "10s"], { directory }).exitCode;
    // One after another, each from a process of its own: the last to close a file that seems unused removes its write-ahead log.
    expect(["1", "2", "3", "4"].map((no) => send("Make", no))).toEqual([0, 0, 0, 0]);
    expect(send("Forget", "1")).toBe(0);
    await server.says(/handler\.stray_error .*kind=rejection .*UnitOfWorkClosedError.*at=.*things\.ts:\d+/);
    expect(send("Trip", "1")).toBe(0);
    await server.says(/handler\.stray_error .*kind=exception .*from a timer.*at=.*things\.ts:\d+/);
    expect(send("Make", "5")).toBe(0);
    expect(await server.stop()).toBe(0);
    expect(server.stderr()).toContain("handled 7, failed 0");
  }, 90_000);
});
