import type { WireValue } from "../messages/json.ts";
import type { Column, Table } from "../ports/database.ts";
import type { Domain } from "./domain.ts";

/** Key of an element class's description. A registered symbol, so that two copies of the module still understand each other. */
export const META: unique symbol = Symbol.for("protean.meta");

export type ElementKind =
  | "event"
  | "externalEvent"
  | "command"
  | "query"
  | "aggregate"
  | "entity"
  | "valueObject"
  | "projection"
  | "processManager";

export type FieldKind =
  | "string"
  | "text"
  | "identifier"
  | "auto"
  | "integer"
  | "float"
  | "decimal"
  | "boolean"
  | "date"
  | "datetime"
  | "status"
  | "list"
  | "dict"
  | "valueObject"
  | "hasOne"
  | "hasMany"
  | "custom";

/** A field after declaration: defaults applied, names derived. */
export interface FieldMeta {
  readonly kind: FieldKind;
  /** As declared in code. */
  readonly name: string;
  /** On the wire and, unless `referencedAs` says otherwise, as column. */
  readonly wireName: string;
  readonly column: string;
  readonly required: boolean;
  readonly identifier: boolean;
  readonly unique: boolean;
  readonly options: Readonly<Record<string, unknown>>;
  /** Lists and dicts: what they hold. */
  readonly inner: FieldMeta | null;
  /** Value objects and entities. */
  readonly target: ElementMeta | null;
}

export type Constructor<T extends object = object> = new (init: never) => T;

/** Description of an element class. One per declaration; `constructor` is the most derived class seen. */
export interface ElementMeta {
  readonly kind: ElementKind;
  readonly name: string;
  readonly domain: Domain;
  readonly fields: ReadonlyMap<string, FieldMeta>;
  readonly version: number;
  /** Declared name of the identity field; null for elements without one. */
  readonly identity: string | null;
  /** Full type string for messages (`Fidelis.DepositMade.v1`); else the element's name. */
  readonly type: string;
  readonly fqn: string;
  /** The definition object as the user gave it. */
  readonly options: Readonly<Record<string, unknown>>;
  /** `file:line:column` of the declaration. */
  readonly declaredAt: string;
  construct: Constructor;
  /** Events and commands: their aggregate. Queries: their projection. Entities: their root. */
  owner: ElementMeta | null;
  /** Aggregates and process managers: stream category, `fidelis::account`. */
  readonly category: string | null;
}

/** JSON object in wire names, floats marked so that they print as Python's. */
export type WireObject = { readonly [key: string]: WireValue };

/** A table and the way between it and instances; made by `tablesOf`. */
export interface ElementTable extends Table {
  readonly meta: ElementMeta;
  readonly columns: readonly Column[];
  /** Child entities: column that names the parent. */
  readonly parentColumn: string | null;
}
