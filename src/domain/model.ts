/** The description of one declared element, with everything precomputed that running it needs. */
import { IncorrectUsageError } from "../errors.ts";
import type { Domain } from "./domain.ts";
import { type Constructor, type ElementKind, type ElementMeta, META } from "./element.ts";
import { compileField, type FieldPlan } from "./field-plan.ts";
import { type AnyField, type Fields, isField } from "./fields.ts";
import { at } from "./place.ts";

/** Values that need no further checks, handed to a class's constructor instead of the user's input. In the order of the plans. */
export class Loaded {
  readonly values: unknown[];
  /** Run the post invariants: values from outside that were only checked field by field. */
  readonly checkInvariants: boolean;
  constructor(values: unknown[], checkInvariants: boolean) {
    this.values = values;
    this.checkInvariants = checkInvariants;
  }
}

export type Invariant = readonly [name: string, check: (self: object) => void];
export type Fold = (state: object, event: object) => void;

export interface ModelInput {
  readonly kind: ElementKind;
  readonly name: string;
  readonly domain: Domain;
  readonly fields: Fields;
  readonly options: Readonly<Record<string, unknown>>;
  readonly type: string;
  readonly fqn: string;
  readonly version: number;
  readonly category: string | null;
  readonly declaredAt: string;
  /** Fact events hold child entities as data. */
  readonly asData?: boolean;
}

/** Members of our classes, and of every object: no field may have these names. */
const RESERVED = new Set([
  ...Object.getOwnPropertyNames(Object.prototype),
  "toJSON",
  "raise",
  "equals",
  "then",
  "markAsComplete",
  "canTransitionTo",
  "prototype",
]);

export function isReservedName(name: string): boolean {
  return RESERVED.has(name) || /^[$_~]/.test(name) || name === "";
}

export class Model implements ElementMeta {
  readonly kind: ElementKind;
  readonly name: string;
  readonly domain: Domain;
  readonly options: Readonly<Record<string, unknown>>;
  readonly type: string;
  readonly fqn: string;
  readonly version: number;
  readonly category: string | null;
  readonly declaredAt: string;
  /** Fields as given, the added identity included. */
  readonly declaredFields: Fields;
  readonly fields: ReadonlyMap<string, FieldPlan>;
  readonly plans: readonly FieldPlan[];
  /** Value objects first, as Python writes them. */
  readonly wirePlans: readonly FieldPlan[];
  readonly childPlans: readonly FieldPlan[];
  readonly statusPlans: readonly FieldPlan[];
  readonly identityPlan: FieldPlan | null;
  readonly identity: string | null;
  readonly pre: readonly Invariant[];
  readonly post: readonly Invariant[];
  /** True when `autoNow` fields are here or in children. */
  readonly hasStamps: boolean;
  readonly eventSourced: boolean;
  readonly lenient: boolean;
  construct: Constructor = Object as unknown as Constructor;
  owner: ElementMeta | null = null;
  /** Aggregates: the generated fact event, when `factEvents` is on. */
  factEvent: Model | null = null;

  constructor(input: ModelInput) {
    this.kind = input.kind;
    this.name = input.name;
    this.domain = input.domain;
    this.options = input.options;
    this.type = input.type;
    this.fqn = input.fqn;
    this.version = input.version;
    this.category = input.category;
    this.declaredAt = input.declaredAt;
    this.declaredFields = input.fields;
    this.plans = compileFields(input);
    this.fields = new Map(this.plans.map((plan) => [plan.name, plan]));
    this.wirePlans = [
      ...this.plans.filter((plan) => plan.kind === "valueObject"),
      ...this.plans.filter((plan) => plan.kind !== "valueObject"),
    ];
    this.childPlans = input.asData === true ? [] : this.plans.filter((plan) => plan.kind === "hasOne" || plan.kind === "hasMany");
    this.statusPlans = this.plans.filter((plan) => plan.transitions !== null);
    this.identityPlan = this.plans.find((plan) => plan.identifier) ?? null;
    this.identity = this.identityPlan?.name ?? null;
    const invariants = input.options["invariants"] as
      | Record<"pre" | "post", Record<string, (self: object) => void> | undefined>
      | undefined;
    this.pre = Object.entries(invariants?.pre ?? {});
    this.post = Object.entries(invariants?.post ?? {});
    this.hasStamps =
      this.plans.some((plan) => plan.autoNow || plan.autoNowAdd) || this.childPlans.some((plan) => plan.model?.hasStamps === true);
    this.eventSourced = input.options["eventSourced"] === true;
    this.lenient = input.options["lenient"] === true;
  }

  /** A new instance of the user's class from checked values. */
  instantiate(loaded: Loaded): object {
    return new (this.construct as unknown as new (loaded: Loaded) => object)(loaded);
  }

  /** The user's fold for an event, by its element name. */
  foldOf(eventName: string): Fold | null {
    const folds = this.options["apply"] as Readonly<Record<string, Fold>> | undefined;
    return folds !== undefined && Object.hasOwn(folds, eventName) ? (folds[eventName] ?? null) : null;
  }

  /** Aggregates: the classes given as `events`. */
  get eventModels(): readonly Model[] {
    return ((this.options["events"] as readonly object[] | undefined) ?? []).map((event) => metaOf(event) as Model);
  }
}

function compileFields(input: ModelInput): FieldPlan[] {
  const entries: [string, AnyField][] = [];
  for (const [name, field] of Object.entries(input.fields)) {
    if (isReservedName(name)) {
      input.domain.mistake(
        new IncorrectUsageError(`field name \`${name}\` is reserved (\`${input.name}\`)`, at(input.declaredAt, "Choose another name.")),
      );
    } else if (!isField(field)) {
      input.domain.mistake(
        new IncorrectUsageError(
          `${input.kind} \`${input.name}\`: \`${name}\` is no field; use the functions of \`f\``,
          at(input.declaredAt),
        ),
      );
    } else entries.push([name, field]);
  }
  return entries.map(([name, field], index) =>
    compileField(field, { name, index, wireNames: input.domain.wireNames, asData: input.asData === true }),
  );
}

/**
 * Description of an element class or of an instance of one. Seeing a class remembers it as the one to make instances of.
 * @throws IncorrectUsageError when it is no domain element
 */
export function metaOf(target: object): ElementMeta {
  const meta = (target as { readonly [META]?: Model } | null | undefined)?.[META];
  if (meta === undefined) {
    const shown = typeof target === "function" ? `class ${(target as { name: string }).name}` : `a value of type ${typeof target}`;
    throw new IncorrectUsageError(`${shown} is not a domain element`, {
      fix: "Declare it with domain.event, domain.command, domain.aggregate and so on.",
    });
  }
  if (typeof target === "function") remember(meta, target as Constructor);
  return meta;
}

/** Takes the most derived class: instances read from stores are made of it. */
export function remember(meta: Model, seen: Constructor): void {
  if (seen !== meta.construct && Object.prototype.isPrototypeOf.call(meta.construct, seen)) meta.construct = seen;
}

/** Remembers element classes among the exports of a loaded module. */
export function rememberExports(exports: Readonly<Record<string, unknown>>): void {
  for (const value of Object.values(exports)) {
    if (typeof value !== "function") continue;
    const meta = (value as { readonly [META]?: unknown })[META];
    if (meta instanceof Model) remember(meta, value as unknown as Constructor);
  }
}
