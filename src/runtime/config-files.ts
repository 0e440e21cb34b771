import { readFileSync } from "node:fs";
import type { ReadFile } from "../config/find.ts";

/** Reads configuration files from disk; a missing file, or a folder of that name, is null. */
export const configFiles: ReadFile = {
  readText(path) {
    try {
      return readFileSync(path, "utf8");
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "ENOENT" || code === "ENOTDIR" || code === "EISDIR") return null;
      throw error;
    }
  },
};
