/**
 * The software bill of materials: CycloneDX 1.6 as JSON. `scope` says whether a part is in the executable (`required`) or was only used to make
 * or test it, or left out by the bundler (`excluded`).
 */
import { createHash } from "node:crypto";
import type { Contents, Part } from "./contents.ts";

export interface Origin {
  readonly commit: string;
  /** Seconds since 1970: SOURCE_DATE_EPOCH. */
  readonly made_s: number;
}

/** @returns the document's text, the same for the same contents and origin */
export function sbom({ name, version, license, parts, needs }: Contents, { commit, made_s }: Origin): string {
  const ref = `${name}@${version}`;
  const component = (part: Part) => ({
    type: "library",
    "bom-ref": part.ref,
    name: part.name,
    version: part.version,
    scope: part.isInside ? "required" : "excluded",
    ...(part.sha512 === null ? {} : { hashes: [{ alg: "SHA-512", content: part.sha512 }] }),
    licenses: licenses(part.license),
    purl: `pkg:npm/${part.name.replace("@", "%40")}@${part.version}`,
    ...(part.name === "bun" ? { description: BUN_NOTE } : {}),
  });
  const document = {
    $schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
    bomFormat: "CycloneDX",
    specVersion: "1.6",
    serialNumber: `urn:uuid:${uuidOf(`${ref} ${commit}`)}`,
    version: 1,
    metadata: {
      timestamp: new Date(made_s * 1000).toISOString(),
      component: {
        type: "application",
        "bom-ref": ref,
        name,
        version,
        licenses: licenses(license),
        purl: `pkg:generic/${name}@${version}`,
        properties: [{ name: "protean:commit", value: commit }],
      },
    },
    components: parts.map(component),
    dependencies: [{ ref, dependsOn: needs }, ...parts.map((part) => ({ ref: part.ref, dependsOn: part.needs }))],
  };
  return `${JSON.stringify(document, null, 2)}\n`;
}

const BUN_NOTE =
  "The runtime inside the executable. It links JavaScriptCore (LGPL-2) and other libraries statically; THIRD_PARTY_LICENSES lists them.";

function licenses(expression: string): readonly object[] {
  if (expression === "NOASSERTION") return [];
  return [/[\s()]/.test(expression) ? { expression } : { license: { id: expression } }];
}

/** A name-based UUID (RFC 9562, version 8: any hash of our choice). */
function uuidOf(text: string): string {
  const hex = createHash("sha256").update(text).digest("hex");
  const variant = "89ab"[Number.parseInt(hex[16] ?? "0", 16) % 4];
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
