/** Writes the tables of configuration keys into README.md and docs/configuration.md. A test compares them with the schema. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describeKeysAsMarkdown } from "../src/config/describe-keys.ts";

const root = join(import.meta.dir, "..");

/** Files that hold a table, relative to the project's root. */
export const PAGES_WITH_KEYS: readonly string[] = ["README.md", join("docs", "configuration.md")];

/** The page with its tables made anew. @throws when it has no place for one */
export function withKeys(page: string): string {
  const places = /(<!-- keys: (new|all) -->\n)[\s\S]*?(<!-- keys: end -->)/g;
  if (!places.test(page)) throw new Error("the page has no <!-- keys: new --> or <!-- keys: all -->");
  return page.replace(
    places,
    (_, begin: string, which: string, end: string) => `${begin}\n${describeKeysAsMarkdown({ oursOnly: which === "new" }).trim()}\n\n${end}`,
  );
}

if (import.meta.main) {
  for (const name of PAGES_WITH_KEYS) {
    const path = join(root, name);
    writeFileSync(path, withKeys(readFileSync(path, "utf8")));
  }
}
