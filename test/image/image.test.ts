/** scripts/image.sh builds the container image and tries it; here it is run as it stands, twice, as people run it. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import process from "node:process";
import { ImageError } from "../../scripts/image/context.ts";
import { findEngine } from "../../scripts/image/engine.ts";
import { temporaryFolder } from "../support/folder.ts";

const root = join(import.meta.dir, "..", "..");
const LIMIT_ms = 180_000;

/** null: there is one. */
const missing = await findEngine().then(
  () => null,
  (error: unknown) => {
    if (error instanceof ImageError) return error.message;
    throw error;
  },
);
if (missing !== null) process.stderr.write(`skipped: the image, ${missing}\n`);

describe.skipIf(missing !== null)("scripts/image.sh", () => {
  for (const time of ["first", "second"]) {
    test(
      `builds the image, starts it and sees a command handled, the ${time} time`,
      () => {
        // From another folder, as everybody's path is another one.
        const place = temporaryFolder();
        const { stdout, stderr, exitCode } = Bun.spawnSync(["sh", join(root, "scripts", "image.sh"), "--tag", "protean:test"], {
          cwd: place.path,
        });
        place.remove();
        expect([stdout.toString(), stderr.toString(), exitCode]).toEqual([
          expect.stringContaining("protean:test is ready, "),
          expect.anything(),
          0,
        ]);
        expect(stdout.toString()).toContain("ok  it wrote nothing outside of /data");
      },
      LIMIT_ms,
    );
  }

  test(
    "makes an image on which others build theirs, as deploy/Dockerfile does",
    async () => {
      const engine = await findEngine();
      const place = temporaryFolder({ "domain.toml": "", "handlers/a.ts": "export {};\n" });
      await engine.build("protean:test-shop", place.path, join(root, "deploy", "Dockerfile"), { BASE: "protean:test" });
      place.remove();
      const settings = await engine.settings("protean:test");
      expect(await engine.settings("protean:test-shop")).toEqual(settings);
      expect(settings.command).toEqual(["/usr/local/bin/protean", "server", "--handlers", "/app/handlers"]);
      for (const tag of ["protean:test-shop", "protean:test"]) await engine.remove(tag);
    },
    LIMIT_ms,
  );
});

test("without docker and buildah scripts/image.ts says so", () => {
  const { stderr, exitCode } = Bun.spawnSync([process.execPath, join(root, "scripts", "image.ts")], { env: { PATH: "" }, stderr: "pipe" });
  expect(stderr.toString()).toBe("image: nothing here builds images: no docker on PATH; no buildah on PATH\n");
  expect(exitCode).toBe(1);
});
