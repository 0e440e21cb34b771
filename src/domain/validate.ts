/** Finds every mistake in the declarations of a domain (sdk-api §11), each with its place and what to do about it. */
import { ConfigurationError, IncorrectUsageError, NotSupportedError, ProteanError } from "../errors.ts";
import type { Domain } from "./domain.ts";
import type { ElementKind, ElementMeta, FieldKind } from "./element.ts";
import type { FieldPlan } from "./field-plan.ts";
import { Model } from "./model.ts";
import { didYouMean } from "./nearest.ts";
import { at, shortPlace } from "./place.ts";
import type { ReactionKind } from "./reaction.ts";
import type { MethodMeta, ReactionMeta } from "./reactions.ts";
import { upcasterMistakes } from "./upcasters.ts";

// ---------------------------------------------------------------------------------------------------------------- options

const AGGREGATE = [
  "fields",
  "events",
  "eventSourced",
  "apply",
  "factEvents",
  "invariants",
  "streamCategory",
  "provider",
  "schemaName",
  "autoAddIdField",
  "limit",
  "indexes",
  "reserved",
];
const HANDLER = [
  "fqn",
  "subscriptionType",
  "subscriptionProfile",
  "subscriptionConfig",
  "sequentialBy",
  "retries",
  "backoff",
  "retryExceptions",
  "concurrency",
  "shared",
  "timeout_ms",
  "deadLetterAtOnce",
];

const OPTIONS: Readonly<Record<Exclude<ElementKind, "processManager"> | ReactionKind | "upcaster" | "domain", readonly string[]>> = {
  domain: ["wireNames", "config", "identity", "clock"],
  aggregate: AGGREGATE,
  entity: ["fields", "invariants", "schemaName", "provider", "autoAddIdField"],
  valueObject: ["fields", "invariants"],
  event: ["fields", "version", "published", "deprecated", "supersededBy", "lenient"],
  externalEvent: ["fields"],
  command: ["fields", "partOf", "version", "returns", "deprecated", "supersededBy", "lenient"],
  query: ["fields", "partOf", "returns"],
  projection: ["fields", "provider", "schemaName", "limit", "indexes"],
  upcaster: ["eventType", "fromVersion", "toVersion"],
  commandHandler: ["partOf", "expiresAfter_ms", ...HANDLER],
  eventHandler: ["partOf", "streamCategory", "sourceStream", ...HANDLER],
  projector: ["projectorFor", "aggregates", "streamCategories", "idempotent", ...HANDLER],
  processManager: ["fields", "aggregates", "streamCategories", "streamCategory", "onMissing", ...HANDLER],
  queryHandler: ["partOf"],
  subscriber: ["stream", "broker", "payload", ...HANDLER],
};

/** How the kinds are called in messages. */
const WORDS: Readonly<Record<string, string>> = {
  valueObject: "value object",
  externalEvent: "external event",
  commandHandler: "command handler",
  eventHandler: "event handler",
  processManager: "process manager",
  queryHandler: "query handler",
};

function word(kind: string): string {
  return WORDS[kind] ?? kind;
}

/** Notes unknown options as mistakes of the domain. */
export function checkOptions(domain: Domain, kind: keyof typeof OPTIONS, name: string, given: object, place: string): void {
  const known = OPTIONS[kind];
  for (const option of Object.keys(given)) {
    if (known.includes(option)) continue;
    domain.mistake(
      new ConfigurationError(`${word(kind)} \`${name}\` has no option \`${option}\`${didYouMean(option, known)}`, {
        ...at(place, `Options are: ${known.join(", ")}.`),
        code: "UNKNOWN_OPTION",
      }),
    );
  }
}

const COMMON = [
  "optional",
  "default",
  "identifier",
  "unique",
  "choices",
  "description",
  "referencedAs",
  "wireName",
  "renamedFrom",
  "deprecated",
  "validators",
];
const FIELD_OPTIONS: Readonly<Record<FieldKind, readonly string[]>> = {
  string: [...COMMON, "minLength", "maxLength"],
  text: [...COMMON, "minLength", "maxLength"],
  identifier: COMMON,
  auto: [...COMMON, "increment"],
  integer: [...COMMON, "min", "max", "bigint"],
  float: [...COMMON, "min", "max"],
  decimal: [...COMMON, "precision", "scale", "min", "max"],
  boolean: COMMON,
  date: COMMON,
  datetime: [...COMMON, "autoNow", "autoNowAdd", "as"],
  status: [...COMMON, "transitions"],
  list: COMMON,
  dict: COMMON,
  valueObject: COMMON,
  hasOne: COMMON,
  hasMany: COMMON,
  custom: [...COMMON, "toWire"],
};

// ---------------------------------------------------------------------------------------------------------------- everything

/** All mistakes, in the order of declaration. Also settles which aggregate an entity belongs to. */
export function validateDomain(domain: Domain): Error[] {
  const mistakes: Error[] = [];
  const models = [...domain.elements.values()].filter((meta): meta is Model => meta instanceof Model);
  for (const model of models) mistakes.push(...fieldMistakes(model), ...elementMistakes(model));
  mistakes.push(...entityMistakes(models), ...tableMistakes(models));
  for (const reaction of domain.reactionMetas) mistakes.push(...reactionMistakes(reaction));
  mistakes.push(...handledTwice(domain), ...sameGroup(domain), ...upcasterMistakes(domain));
  return mistakes;
}

function fieldMistakes(model: Model): Error[] {
  const mistakes: Error[] = [];
  const what = `${word(model.kind)} \`${model.name}\``;
  const wrong = (message: string, fix?: string): void => {
    mistakes.push(new IncorrectUsageError(message, at(model.declaredAt, fix)));
  };
  const wire = new Map<string, FieldPlan>();
  const columns = new Map<string, FieldPlan>();
  for (const plan of model.plans) {
    const other = wire.get(plan.wireName);
    if (other !== undefined) {
      wrong(
        `\`${other.name}\` and \`${plan.name}\` are both \`${plan.wireName}\` on the wire`,
        `Rename one of them in ${what}, or give it a wireName.`,
      );
    }
    wire.set(plan.wireName, plan);
    const sameColumn = columns.get(plan.column);
    if (sameColumn !== undefined && other === undefined)
      wrong(`${what}: \`${sameColumn.name}\` and \`${plan.name}\` have one column, \`${plan.column}\``);
    columns.set(plan.column, plan);
    if (plan.wireName === "_version" || plan.wireName in Object.prototype)
      wrong(`${what}: \`${plan.wireName}\` can't be the wire name of \`${plan.name}\``);
    mistakes.push(...planMistakes(model, plan, what));
  }
  const identities = model.plans.filter((plan) => plan.identifier);
  if (identities.length > 1)
    wrong(
      `${what} has ${identities.length} identities: ${identities.map(({ name }) => `\`${name}\``).join(", ")}`,
      "Keep { identifier: true } on one.",
    );
  return mistakes;
}

function planMistakes(model: Model, plan: FieldPlan, what: string): Error[] {
  const mistakes: Error[] = [];
  const wrong = (message: string, fix?: string): void => {
    mistakes.push(new IncorrectUsageError(`${what}, field \`${plan.name}\`: ${message}`, at(model.declaredAt, fix)));
  };
  const known = FIELD_OPTIONS[plan.kind];
  for (const option of Object.keys(plan.options)) {
    if (known.includes(option)) continue;
    mistakes.push(
      new ConfigurationError(`${what}, field \`${plan.name}\`: f.${plan.kind} has no option \`${option}\`${didYouMean(option, known)}`, {
        ...at(model.declaredAt),
        code: "UNKNOWN_OPTION",
      }),
    );
  }
  const isChangeable = model.kind === "aggregate" || model.kind === "entity" || model.kind === "projection";
  const isFact = model.owner instanceof Model && model.owner.factEvent === model;
  if ((plan.kind === "hasOne" || plan.kind === "hasMany") && model.kind !== "aggregate" && model.kind !== "entity" && !isFact) {
    wrong("only aggregates and entities hold child entities", "Use f.list(f.valueObject(...)) or f.valueObject(...).");
  }
  if ((plan.kind === "hasOne" || plan.kind === "hasMany") && plan.target !== null && plan.target.kind !== "entity") {
    wrong(`\`${plan.target.name}\` is no entity but ${article(word(plan.target.kind))}`);
  }
  if (plan.kind === "valueObject" && plan.target !== null && plan.target.kind !== "valueObject") {
    wrong(`\`${plan.target.name}\` is no value object but ${article(word(plan.target.kind))}`);
  }
  if (model.kind === "valueObject" && (plan.identifier || plan.options["unique"] === true))
    wrong("value objects have neither identity nor unique fields");
  if ((plan.autoNow || plan.autoNowAdd) && !isChangeable && !isFact)
    wrong("autoNow and autoNowAdd are stamped when saved; only aggregates, entities and projections are");
  if (plan.autoNow && plan.autoNowAdd) wrong("autoNow and autoNowAdd exclude each other");
  if (plan.kind === "auto" && plan.options["increment"] === true) {
    mistakes.push(
      new NotSupportedError(
        `${what}, field \`${plan.name}\`: counting identities belong to a later version`,
        at(model.declaredAt, "Leave `increment` out: identities are then random UUIDs."),
      ),
    );
  }
  const reserved = (model.options["reserved"] as readonly string[] | undefined) ?? [];
  if (reserved.includes(plan.name)) wrong("the name is retired (`reserved`) and may not be declared again");
  if (plan.transitions !== null) {
    const states = (plan.options["choices"] as readonly string[] | undefined) ?? [];
    for (const state of [...Object.keys(plan.transitions), ...Object.values(plan.transitions).flat()]) {
      if (!states.includes(state)) wrong(`\`transitions\` name the state '${state}', which isn't declared${didYouMean(state, states)}`);
    }
  }
  if (plan.hasDefault && typeof plan.options["default"] !== "function") {
    try {
      plan.initial();
    } catch (error) {
      wrong(`its default is refused: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  return mistakes;
}

function article(noun: string): string {
  return `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}`;
}

function elementMistakes(model: Model): Error[] {
  const mistakes: Error[] = [];
  const what = `${word(model.kind)} \`${model.name}\``;
  const wrong = (message: string, fix?: string): void => {
    mistakes.push(new IncorrectUsageError(message, at(model.declaredAt, fix)));
  };
  const { version, fields } = model.options;
  if (version !== undefined && !(Number.isSafeInteger(version) && (version as number) >= 1))
    wrong(`${what}: version is a whole number from 1, not ${String(version)}`);
  if (fields === undefined && !(model.owner instanceof Model && model.owner.factEvent === model)) wrong(`${what} needs \`fields\``);
  if (hasOwnConstructor(model))
    wrong(`${model.name}: declare a static factory instead of a constructor`, "static open(...) { return new this({ ... }); }");
  if (model.kind === "event" && model.owner === null) {
    wrong(`event \`${model.name}\` is in no aggregate's \`events\`; list it, or declare it with \`domain.externalEvent\``);
  }
  if (model.kind === "externalEvent" && !/^[^.]+\.[^.]+\.v\d+$/.test(model.type)) {
    wrong(
      `external event \`${model.type}\`: the name is a full type string`,
      'As in domain.externalEvent("Inventory.StockReserved.v1", …).',
    );
  }
  if (model.kind === "projection" && model.identity === null) wrong(`projection \`${model.name}\` needs a field with { identifier: true }`);
  if ((model.kind === "aggregate" || model.kind === "entity") && model.identity === null)
    wrong(`${what} needs a field with { identifier: true }`, "Or leave autoAddIdField on.");
  if (model.kind === "aggregate") mistakes.push(...foldMistakes(model));
  return mistakes;
}

function foldMistakes(model: Model): Error[] {
  const mistakes: Error[] = [];
  const wrong = (message: string): void => {
    mistakes.push(new IncorrectUsageError(`aggregate \`${model.name}\`: ${message}`, at(model.declaredAt)));
  };
  const apply = (model.options["apply"] as Readonly<Record<string, unknown>> | undefined) ?? {};
  if (!model.eventSourced) {
    if (model.options["apply"] !== undefined) wrong("`apply` belongs to event-sourced aggregates; add `eventSourced: true` or remove it");
    return mistakes;
  }
  const names = model.eventModels.map(({ name }) => name);
  for (const name of names) if (typeof apply[name] !== "function") wrong(`\`apply\` lacks \`${name}\``);
  for (const name of Object.keys(apply))
    if (!names.includes(name)) wrong(`\`apply\` has \`${name}\`, which is not among its \`events\`${didYouMean(name, names)}`);
  return mistakes;
}

/** A constructor written by the user; one that only passes its arguments on (compilers make those) doesn't count. */
function hasOwnConstructor(model: Model): boolean {
  const source = Function.prototype.toString.call(model.construct);
  if (!/^class\b[^{]*\bextends\b/.test(source)) return false;
  // The library's own base classes stand in until the user's class is seen.
  if (Object.hasOwn(model.construct, "fromWire")) return false;
  if (model.construct.length > 0) return true;
  const match = /[{;}]\s*constructor\s*\(\s*(\.\.\.\s*\w+)?\s*\)\s*\{\s*(super\(\s*\.\.\.\s*\w+\s*\))?/.exec(source);
  return match !== null && match[2] === undefined;
}

function entityMistakes(models: readonly Model[]): Error[] {
  const mistakes: Error[] = [];
  const holders = new Map<Model, { readonly model: Model; readonly field: string }>();
  for (const model of models) {
    for (const plan of model.childPlans) {
      const child = plan.model;
      if (child === null || child.kind !== "entity") continue;
      const known = holders.get(child);
      if (known === undefined) {
        holders.set(child, { model, field: plan.name });
        continue;
      }
      mistakes.push(
        new IncorrectUsageError(
          `entity \`${child.name}\` is held by \`${known.model.name}.${known.field}\` and \`${model.name}.${plan.name}\``,
          at(child.declaredAt, "Declare an entity of its own for each, or a value object for both."),
        ),
      );
    }
  }
  for (const [child, holder] of holders) {
    let root = holder.model;
    for (let up = holders.get(root); up !== undefined && root.kind === "entity"; up = holders.get(root)) root = up.model;
    child.owner = root;
  }
  return mistakes;
}

function tableMistakes(models: readonly Model[]): Error[] {
  const mistakes: Error[] = [];
  for (const model of models) {
    const indexes = (model.options["indexes"] as readonly { readonly columns: readonly string[] }[] | undefined) ?? [];
    for (const name of indexes.flatMap(({ columns }) => columns)) {
      if (!model.fields.has(name)) {
        mistakes.push(
          new IncorrectUsageError(
            `${word(model.kind)} \`${model.name}\`: an index names \`${name}\`, which is no field${didYouMean(name, model.fields.keys())}`,
            at(model.declaredAt),
          ),
        );
      }
    }
  }
  return mistakes;
}

// ---------------------------------------------------------------------------------------------------------------- reactions

/** What each kind of handler can handle. */
const TARGETS: Readonly<Record<ReactionKind, readonly ElementKind[]>> = {
  commandHandler: ["command"],
  eventHandler: ["event", "externalEvent"],
  projector: ["event", "externalEvent"],
  processManager: ["event", "externalEvent"],
  queryHandler: ["query"],
  subscriber: [],
};

function reactionMistakes(reaction: ReactionMeta): Error[] {
  const what = `${word(reaction.kind)} \`${reaction.name}\``;
  const mistakes: Error[] = [];
  const wrong = (message: string, place = reaction.declaredAt, fix?: string): void => {
    mistakes.push(new IncorrectUsageError(message, at(place, fix)));
  };
  const { given, owner } = reaction;
  const wanted = reaction.kind === "queryHandler" ? "projection" : "aggregate";
  if ((reaction.kind === "commandHandler" || reaction.kind === "queryHandler") && owner?.kind !== wanted)
    wrong(`${what} needs \`partOf\`: its ${wanted}`);
  if (reaction.kind === "eventHandler" && owner === null && typeof given["streamCategory"] !== "string") {
    wrong(`${what} needs \`partOf\` (an aggregate) or \`streamCategory\``);
  }
  if (reaction.kind === "projector") {
    if (reaction.projection?.kind !== "projection") wrong(`${what} needs \`projectorFor\`: its projection`);
    if (reaction.categories().length === 0) wrong(`${what} needs \`aggregates\` or \`streamCategories\``);
  }
  if (reaction.kind === "processManager") {
    if (reaction.categories().length === 0) wrong(`${what} needs \`aggregates\` or \`streamCategories\``);
    if (!reaction.methods.some(({ start }) => start === true))
      wrong(`process manager \`${reaction.name}\` needs a handler with { start: true }`);
  }
  if (reaction.kind === "subscriber") {
    if (reaction.stream === null || reaction.stream === "") wrong(`subscriber \`${reaction.name}\` needs \`stream\``);
    if (reaction.methods.length > 1) wrong(`${what} has ${reaction.methods.length} \`handle\` functions; it takes one`);
  }
  const targets = new Set<ElementMeta | null>();
  const names = new Map<string, MethodMeta>();
  for (const method of reaction.methods) {
    mistakes.push(...methodMistakes(reaction, method, what));
    if (reaction.kind === "subscriber") continue;
    if (targets.has(method.target) && (!method.isNamed || method.target === null)) {
      wrong(
        `\`${reaction.name}\` handles \`${method.target?.name ?? "any event"}\` twice; give the second one { name }`,
        method.declaredAt,
      );
    } else if (names.has(method.name)) {
      wrong(`\`${reaction.name}\` has two methods named \`${method.name}\`; give one of them { name }`, method.declaredAt);
    }
    targets.add(method.target);
    names.set(method.name, method);
  }
  mistakes.push(...sequentialMistakes(reaction, what));
  return mistakes;
}

function methodMistakes(reaction: ReactionMeta, method: MethodMeta, what: string): Error[] {
  const { target } = method;
  if (target === null) return [];
  const place = method.declaredAt;
  if (!TARGETS[reaction.kind].includes(target.kind)) {
    return [new IncorrectUsageError(`${what} can't handle \`${target.name}\`: it is ${article(word(target.kind))}`, at(place))];
  }
  if (target.domain !== reaction.domain) {
    return [
      new IncorrectUsageError(
        `${what}: \`${target.name}\` belongs to domain "${target.domain.name}"`,
        at(place, "Declare it here with domain.externalEvent."),
      ),
    ];
  }
  if (reaction.kind === "commandHandler" || reaction.kind === "queryHandler") {
    if (target.owner === null || reaction.owner === null || target.owner === reaction.owner) return [];
    const noun = reaction.kind === "commandHandler" ? "command" : "query";
    return [
      new IncorrectUsageError(
        `${noun} \`${target.name}\` is part of \`${target.owner.name}\`, handler \`${reaction.name}\` is for \`${reaction.owner.name}\``,
        at(place),
      ),
    ];
  }
  const mistakes: Error[] = [];
  if (!receives(reaction, target)) {
    mistakes.push(
      new IncorrectUsageError(
        `${word(reaction.kind)} \`${reaction.name}\` never receives \`${target.name}\`: it listens to ${reaction.categories().join(", ")}`,
        at(place),
      ),
    );
  }
  if (reaction.kind === "processManager") mistakes.push(...correlationMistakes(reaction, method, target));
  return mistakes;
}

/** Whether an event can come from the categories that are read. Foreign events can come from anything named as a category. */
function receives(reaction: ReactionMeta, target: ElementMeta): boolean {
  const { given } = reaction;
  const categories = reaction.categories();
  if (categories.length === 0 || categories.includes("$all")) return true;
  // D31: with a category of its own choice an event handler takes any event.
  if (reaction.kind === "eventHandler" && typeof given["streamCategory"] === "string") return true;
  if (target.kind === "externalEvent") return given["streamCategories"] !== undefined;
  const category = target.owner?.category ?? null;
  return category === null || categories.includes(category);
}

function correlationMistakes(reaction: ReactionMeta, method: MethodMeta, target: ElementMeta): Error[] {
  const { correlate, declaredAt } = method;
  const wrong = (message: string): Error[] => [new IncorrectUsageError(message, at(declaredAt))];
  const state = reaction.state;
  if (state === undefined) return [];
  if (correlate === undefined || correlate === null) return wrong(`\`${reaction.name}\` handles \`${target.name}\` without \`correlate\``);
  const pairs = typeof correlate === "string" ? [[correlate, correlate] as const] : Object.entries(correlate);
  const [pair] = pairs;
  if (pairs.length !== 1 || pair === undefined)
    return wrong(`\`${reaction.name}\`, \`${target.name}\`: \`correlate\` takes exactly one pair, not ${pairs.length}`);
  const shown = JSON.stringify(correlate);
  const mistakes: Error[] = [];
  if (!state.fields.has(pair[0])) {
    mistakes.push(
      ...wrong(`\`correlate: ${shown}\` is not a field of process manager \`${reaction.name}\`${didYouMean(pair[0], state.fields.keys())}`),
    );
  }
  if (!target.fields.has(pair[1])) {
    mistakes.push(
      ...wrong(`\`correlate: ${shown}\` is not a field of event \`${target.name}\`${didYouMean(pair[1], target.fields.keys())}`),
    );
  }
  return mistakes;
}

/** Checked as far as it goes, then refused: ordering by key is not part of this version. */
function sequentialMistakes(reaction: ReactionMeta, what: string): Error[] {
  const { sequentialBy } = reaction.options;
  if (sequentialBy === undefined || sequentialBy === false) return [];
  const mistakes: Error[] = [];
  if (typeof sequentialBy === "string") {
    for (const { target, declaredAt } of reaction.methods) {
      if (target !== null && !target.fields.has(sequentialBy)) {
        mistakes.push(
          new IncorrectUsageError(
            `${what}: \`sequentialBy: ${JSON.stringify(sequentialBy)}\` is not a field of \`${target.name}\`${didYouMean(sequentialBy, target.fields.keys())}`,
            at(declaredAt),
          ),
        );
      }
    }
  }
  mistakes.push(
    new ConfigurationError(`${what}: \`sequentialBy\` belongs to a later version`, {
      ...at(reaction.declaredAt, "Remove it: messages of one aggregate are handled in order anyway."),
      code: "NOT_YET",
    }),
  );
  return mistakes;
}

function handledTwice(domain: Domain): Error[] {
  const mistakes: Error[] = [];
  for (const kind of ["commandHandler", "queryHandler"] as const) {
    const noun = kind === "commandHandler" ? "command" : "query";
    const handlers = new Map<ElementMeta, ReactionMeta>();
    for (const reaction of domain.reactionMetas) {
      if (reaction.kind !== kind) continue;
      for (const target of new Set(reaction.methods.map((method) => method.target))) {
        if (target === null) continue;
        const known = handlers.get(target);
        if (known === undefined) handlers.set(target, reaction);
        else {
          mistakes.push(
            new NotSupportedError(
              `${noun} \`${target.name}\` has two handlers: ${shortPlace(known.declaredAt)}, ${shortPlace(reaction.declaredAt)}`,
              at(reaction.declaredAt, `Keep it in \`${known.name}\` or in \`${reaction.name}\`.`),
            ),
          );
        }
      }
    }
  }
  return mistakes;
}

/** Two handlers with one `fqn` would share a consumer group, and each would get half of the messages. */
function sameGroup(domain: Domain): Error[] {
  const mistakes: Error[] = [];
  const groups = new Map<string, ReactionMeta>();
  for (const reaction of domain.reactionMetas) {
    const known = groups.get(reaction.fqn);
    if (known !== undefined && known.name !== reaction.name) {
      mistakes.push(
        new IncorrectUsageError(
          `\`${known.name}\` and \`${reaction.name}\` have one fqn, "${reaction.fqn}"`,
          at(reaction.declaredAt, "Give each its own."),
        ),
      );
    }
    groups.set(reaction.fqn, reaction);
  }
  return mistakes;
}

// ---------------------------------------------------------------------------------------------------------------- findings

/** One finding of `protean check`. */
export interface Diagnostic {
  readonly level: "error" | "warning" | "info";
  readonly code: string;
  readonly message: string;
  /** `file:line:column`. */
  readonly at: string | null;
  readonly fix: string | null;
}

/** Mistakes as errors, then what is only worth knowing. */
export function checkDomain(domain: Domain, mistakes: readonly Error[]): readonly Diagnostic[] {
  const found: Diagnostic[] = mistakes.map((error) => ({
    level: "error",
    code: error instanceof ProteanError ? error.code : "ERROR",
    message: `${error.name}: ${error.message}`,
    at: error instanceof ProteanError ? (error.about.at ?? null) : null,
    fix: error instanceof ProteanError ? (error.about.fix ?? null) : null,
  }));
  const add = (level: "warning" | "info", code: string, message: string, place: string, fix: string | null = null): void => {
    found.push({ level, code, message, at: place, fix });
  };
  for (const model of domain.elements.values()) {
    const className = (model.construct as unknown as { readonly name: string }).name;
    if (model.kind !== "externalEvent" && model.kind !== "processManager" && className !== "" && className !== model.name) {
      add("info", "NAME_DIFFERS", `class ${className} is element \`${model.name}\``, model.declaredAt);
    }
    if (model.kind === "entity" && model.owner === null) {
      add(
        "warning",
        "ENTITY_UNUSED",
        `entity \`${model.name}\` is held by no aggregate`,
        model.declaredAt,
        "Hold it with f.hasMany or f.hasOne.",
      );
    }
    for (const plan of model.fields.values()) {
      const { deprecated } = plan.options;
      if (deprecated === true || typeof deprecated === "string") {
        add(
          "info",
          "FIELD_DEPRECATED",
          `\`${model.name}.${plan.name}\` is deprecated${typeof deprecated === "string" ? `: ${deprecated}` : ""}`,
          model.declaredAt,
        );
      }
    }
    if (model.kind === "event") checkTexts(model, add);
  }
  for (const reaction of domain.reactionMetas) {
    if (reaction.methods.length === 0)
      add("warning", "HANDLER_EMPTY", `${word(reaction.kind)} \`${reaction.name}\` has no methods`, reaction.declaredAt);
    for (const { target, declaredAt } of reaction.methods) {
      const deprecated = target?.options["deprecated"];
      if (target !== null && deprecated !== undefined && deprecated !== false) {
        const instead = target.options["supersededBy"];
        add(
          "info",
          "MESSAGE_DEPRECATED",
          `\`${reaction.name}\` handles deprecated \`${target.name}\`${typeof instead === "string" ? `; superseded by ${instead}` : ""}`,
          declaredAt,
        );
      }
    }
  }
  return found;
}

/** D38: a text of any length in the aggregate, cut off at 255 characters in its event. */
function checkTexts(event: ElementMeta, add: (level: "warning", code: string, message: string, place: string, fix: string) => void): void {
  for (const plan of event.fields.values()) {
    const source = event.owner?.fields.get(plan.name);
    if (plan.kind === "string" && source?.kind === "text" && plan.options["maxLength"] === undefined) {
      add(
        "warning",
        "TEXT_INTO_STRING",
        `\`${event.name}.${plan.name}\` takes 255 characters, \`${source.name}\` of \`${event.owner?.name}\` any number`,
        event.declaredAt,
        "Declare it with f.text() in the event too.",
      );
    }
  }
}
