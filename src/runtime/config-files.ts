import { readFileSync } from "node:fs";

/** Reads configuration files from disk; a missing file, or a folder of that name, is null. */
export const configFiles = {
  readText(path: string): string | null {
    try {
      return readFileSync(path, "utf8");
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "ENOENT" || code === "ENOTDIR" || code === "EISDIR") return null;
      throw error;
    }
  },
};
