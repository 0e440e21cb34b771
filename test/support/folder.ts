import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

export interface TemporaryFolder {
  /** Absolute, without links. */
  readonly path: string;
  at(...parts: string[]): string;
  write(files: Readonly<Record<string, string>>): void;
  remove(): void;
}

/** A folder of this test's own, with files in it. */
export function temporaryFolder(files: Readonly<Record<string, string>> = {}): TemporaryFolder {
  const path = realpathSync(mkdtempSync(join(tmpdir(), "protean-test-")));
  const folder: TemporaryFolder = {
    path,
    at: (...parts) => join(path, ...parts),
    write: (more) => {
      for (const [name, text] of Object.entries(more)) {
        mkdirSync(dirname(join(path, name)), { recursive: true });
        writeFileSync(join(path, name), text);
      }
    },
    remove: () => rmSync(path, { recursive: true, force: true }),
  };
  folder.write(files);
  return folder;
}
