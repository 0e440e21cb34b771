import { type KeySpec, SCHEMA } from "./schema.ts";

/** One line of the table of keys in the documentation. */
export interface KeyRow {
  readonly section: string;
  readonly key: string;
  readonly type: string;
  readonly default: string;
  readonly unit: string;
  readonly allowed: string;
  readonly doc: string;
  /** New in this implementation. */
  readonly ours: boolean;
  /** What is missing, or "". */
  readonly later: string;
}

/** What a key accepts, in words: `one of sync, async`, `an integer > 0`. Used by errors and by the documentation alike. */
export function allowedInWords(spec: KeySpec): string {
  if (spec.allowed !== undefined) return `one of ${spec.allowed.join(", ")}`;
  const bounds = [
    spec.above === undefined ? null : `> ${spec.above}`,
    spec.minimum === undefined ? null : `≥ ${spec.minimum}`,
    spec.maximum === undefined ? null : `≤ ${spec.maximum}`,
  ].filter((bound) => bound !== null);
  const kinds: Record<KeySpec["type"], string> = {
    string: "a text",
    boolean: "true or false",
    integer: "a whole number",
    number: "a number",
    list: "a list of texts",
    table: "a table",
    duration: 'a duration such as "7d", "12h", "30m", "45s", or "off"',
    any: "any value",
  };
  return [kinds[spec.type], bounds.join(" and ")].filter((part) => part !== "").join(" ");
}

/** All keys in the order of the schema, ready to be printed. */
export function describeKeys(): readonly KeyRow[] {
  return SCHEMA.map((spec) => {
    const dot = spec.path.lastIndexOf(".");
    const written = spec.default === undefined ? (spec.defaultNote ?? "none") : JSON.stringify(spec.default);
    return {
      section: dot < 0 ? "" : `[${spec.path.slice(0, dot).replaceAll("*", "NAME")}]`,
      key: spec.path.slice(dot + 1),
      type: spec.type,
      default: spec.default !== undefined && spec.defaultNote !== undefined ? `${written} (${spec.defaultNote})` : written,
      unit: spec.unit ?? "",
      allowed: allowedInWords(spec),
      doc: spec.doc,
      ours: spec.ours === true,
      later: spec.later ?? "",
    };
  });
}

/** The table as Markdown, one per section. `oursOnly` gives the list of keys that are new here (D17). */
export function describeKeysAsMarkdown(options: { readonly oursOnly?: boolean } = {}): string {
  const cell = (text: string): string => text.replaceAll("|", "\\|");
  const sections = new Map<string, KeyRow[]>();
  for (const row of describeKeys()) {
    if (options.oursOnly && !row.ours) continue;
    const rows = sections.get(row.section) ?? [];
    rows.push(row);
    sections.set(row.section, rows);
  }
  const parts: string[] = [];
  for (const [section, rows] of sections) {
    parts.push(
      `### ${section === "" ? "Top level" : `\`${section}\``}\n`,
      "| Key | Allowed | Default | Unit | What it does |",
      "|---|---|---|---|---|",
      ...rows.map((row) => {
        const marks = `${row.ours ? " *New here.*" : ""}${row.later === "" ? "" : ` *Not yet: ${row.later}.*`}`;
        return `| \`${row.key}\` | ${cell(row.allowed)} | ${cell(row.default)} | ${row.unit} | ${cell(row.doc)}${cell(marks)} |`;
      }),
      "",
    );
  }
  return parts.join("\n");
}
