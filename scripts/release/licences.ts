/**
 * THIRD_PARTY_LICENSES: the licences of all that is in the executable, word for word as the packages carry them. Where a package carries none, and for the
 * libraries inside of Bun, stands the text of SPDX.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import spdx from "spdx-license-list/full.js";
import { type Contents, type Part, root } from "./contents.ts";

/** How Bun's page on licences calls them; the first that matches counts for each half of a dual licence. */
const BUN_WORDS: readonly (readonly [RegExp, readonly string[]])[] = [
  [/\bMIT\b/, ["MIT"]],
  [/BSD 3-Clause|BSD License/, ["BSD-3-Clause"]],
  [/BSD 2-Clause/, ["BSD-2-Clause"]],
  [/Apache 2\.0/, ["Apache-2.0"]],
  [/LGPL v2\.1/, ["LGPL-2.1-only"]],
  [/\bzlib\b/, ["Zlib"]],
  [/ICU license/, ["ICU", "Unicode-3.0"]],
  [/\bIJG\b/, ["IJG"]],
  [/PNG Reference Library/, ["libpng-2.0"]],
  [/public domain/, ["blessing"]],
];
/** Licences that the page names by a link alone: BoringSSL's and libarchive's "several licenses". JavaScriptCore's stands in its prose. */
const BUN_LINKED: Readonly<Record<string, readonly string[]>> = {
  boringssl: ["Apache-2.0", "OpenSSL", "ISC"],
  libarchive: ["BSD-2-Clause", "BSD-3-Clause", "CC0-1.0"],
};
const JAVASCRIPT_CORE = "LGPL-2.0-only";

/** @throws when a text can't be had, or Bun's page names a licence that isn't known here */
export function thirdPartyLicenses({ name, version, license, parts }: Contents): string {
  const inside = parts.filter(({ isInside }) => isInside);
  const sections = [
    [
      `Licences of what is inside ${name} ${version}`,
      "",
      `${name} itself is under ${license}: see LICENSE. Inside the executable are also, under their own licences:`,
      "",
      ...inside.map((part) => `  ${part.name} ${part.version}: ${part.license}`),
    ].join("\n"),
    ...inside.map((part) =>
      part.name === "bun" ? bunSection(part) : section(`${part.name} ${part.version}`, part.license, ownText(part)),
    ),
  ];
  return `${sections.map((text) => text.trim()).join(`\n\n${"=".repeat(100)}\n\n`)}\n`;
}

function section(title: string, license: string, text: string): string {
  return `${title} (${license})\n\n${text.trim()}`;
}

/** The package's own files, else SPDX's text. */
function ownText(part: Part): string {
  const files = readdirSync(part.folder).filter((file) => /^(licen[cs]e|copying|notice|mit-license)/i.test(file));
  if (files.length > 0)
    return files
      .sort()
      .map((file) => readFileSync(join(part.folder, file), "utf8").trim())
      .join("\n\n");
  const { author } = JSON.parse(readFileSync(join(part.folder, "package.json"), "utf8")) as { readonly author?: unknown };
  return `${author === undefined ? "" : `Author: ${typeof author === "string" ? author : JSON.stringify(author)}\n\n`}${spdxText(part.license)}`;
}

function spdxText(id: string): string {
  const text = spdx[id]?.licenseText;
  if (text === undefined) throw new Error(`no text is known for the licence "${id}"`);
  return text;
}

function bunSection(part: Part): string {
  const page = readFileSync(join(root, "node_modules", "bun-types", "docs", "project", "license.mdx"), "utf8").replace(
    /^---[\s\S]*?---\n/,
    "",
  );
  const ids = new Set(["MIT", JAVASCRIPT_CORE]);
  for (const [, library = "", words = ""] of page.matchAll(/^\| (?:A fork of |Parts of )?\[`?([^`\]]+)`?\][^|]*\|([^|]*)\|$/gm)) {
    const found = [...(BUN_LINKED[library] ?? []), ...BUN_WORDS.flatMap(([pattern, named]) => (pattern.test(words) ? named : []))];
    if (found.length === 0)
      throw new Error(`Bun's page on licences says "${words.trim()}" of ${library}: add it to scripts/release/licences.ts`);
    for (const id of found) ids.add(id);
  }
  const texts = [...ids].sort().map((id) => `${"-".repeat(100)}\n${id} (text of SPDX)\n\n${spdxText(id).trim()}`);
  return [
    `bun ${part.version} (${part.license}), the runtime, with the libraries that it links statically`,
    "What follows is Bun's own page on licences, then the full text of each licence that it names.",
    page.trim(),
    ...texts,
  ].join("\n\n");
}
