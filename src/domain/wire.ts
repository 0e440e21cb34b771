/** Elements to and from JSON in wire names. */
import { DeserializationError, ValidationError } from "../errors.ts";
import type { JsonObject, JsonValue } from "../messages/json.ts";
import type { ElementMeta, WireObject } from "./element.ts";
import type { FieldPlan, Reader } from "./field-plan.ts";
import { plainFields, writeFields } from "./field-plan.ts";
import { setVersion } from "./instance.ts";
import { Loaded, type Model, metaOf } from "./model.ts";
import { Problems } from "./problems.ts";

/** All fields of an instance in wire names; floats marked so that they print as Python's. Aggregates: without `_version`. */
export function toWire(instance: object): WireObject {
  return writeFields(metaOf(instance) as Model, instance as Record<string, unknown>);
}

/** All fields in wire names as plain JSON; what `toJSON()` gives. */
export function toPlain(instance: object): JsonObject {
  return plainFields(metaOf(instance) as Model, instance as Record<string, unknown>);
}

/** Raw value of a field: its name, then older names, then (forms and command line) the declared name. Undefined when absent. */
function rawValue(plan: FieldPlan, data: JsonObject, reader: Reader): JsonValue | undefined {
  const value = data[plan.wireName];
  if (value !== undefined) return value;
  for (const name of plan.renamedFrom) if (data[name] !== undefined) return data[name];
  return reader.names === "any" ? data[plan.name] : undefined;
}

/**
 * Values of all fields, in the order of the plans. What is wrong stands in `reader.problems`, under `prefix`.
 * Absent fields take their default; without one they are refused when required.
 */
export function readValues(model: Model, data: JsonObject, reader: Reader, prefix: string): unknown[] {
  const { plans } = model;
  const values: unknown[] = new Array(plans.length);
  let present = 0;
  for (let index = 0; index < plans.length; index += 1) {
    const plan = plans[index] as FieldPlan;
    const raw = rawValue(plan, data, reader);
    if (raw === undefined || raw === null) {
      if (raw === null) present += 1;
      values[index] = absent(model, plan, raw, reader, prefix);
    } else {
      present += 1;
      values[index] = plan.read(raw, reader, prefix === "" ? plan.name : prefix + plan.name);
    }
  }
  if (!reader.lenient) {
    let keys = 0;
    for (const _key in data) keys += 1;
    if (keys !== present) refuseUnknown(model, data, reader, prefix);
  }
  return values;
}

function absent(model: Model, plan: FieldPlan, raw: null | undefined, reader: Reader, prefix: string): unknown {
  const initial = reader.restoring && raw === null ? null : plan.initial();
  if (initial !== null) return initial;
  if (plan.isMany) return [];
  if (plan.required && plan.identifier && model.kind !== "externalEvent") {
    // Commands from outside may leave their identity to us; stored messages and state always have one.
    if (reader.names === "any") return model.domain.newIdentity();
  }
  if (plan.required && !(reader.restoring && raw === null)) reader.problems.add(prefix + plan.name, "is required");
  return null;
}

function refuseUnknown(model: Model, data: JsonObject, reader: Reader, prefix: string): void {
  const known = new Set<string>();
  for (const plan of model.plans) {
    known.add(plan.wireName);
    for (const name of plan.renamedFrom) known.add(name);
    if (reader.names === "any") known.add(plan.name);
  }
  const reserved = (model.options["reserved"] as readonly string[] | undefined) ?? [];
  for (const key of Object.keys(data)) {
    if (!known.has(key) && !reserved.includes(key)) reader.problems.add(prefix + key, "is not a declared field");
  }
}

/**
 * A message from its stored payload. External events take a declared subset and convert between text and numbers (D29).
 * @param options.lenient drop unknown fields instead of refusing them; also on when the class says so
 * @throws DeserializationError naming type and field
 */
export function messageFromWire(meta: ElementMeta, data: JsonObject, options: { readonly lenient: boolean }): object {
  const model = meta as Model;
  const external = model.kind === "externalEvent";
  const problems = new Problems();
  const reader: Reader = {
    names: "wire",
    lenient: options.lenient || model.lenient || external,
    tolerant: external,
    restoring: false,
    problems,
  };
  if (typeof data !== "object" || data === null || Array.isArray(data)) {
    throw new DeserializationError(`${model.type}: the payload is not a JSON object`);
  }
  const values = readValues(model, data, reader, "");
  if (problems.found) throw unreadable(model, problems);
  try {
    return model.instantiate(new Loaded(values, false));
  } catch (error) {
    if (error instanceof ValidationError) throw new DeserializationError(`${model.type}: ${error.message}`, { cause: error });
    throw error;
  }
}

function unreadable(model: Model, problems: Problems): DeserializationError {
  const reasons = Object.entries(problems.messages).map(([path, messages]) => {
    const plan = model.fields.get(path);
    const named = plan === undefined ? `field \`${path}\`` : `field \`${plan.wireName}\` (${plan.kind})`;
    return `${named} ${messages.join("; ")}`;
  });
  return new DeserializationError(`${model.type}: ${reasons.join(", ")}`, { at: model.declaredAt });
}

/**
 * An element from JSON that a person or a web form wrote: wire names and declared names, every mistake reported. External events and classes
 * declared `lenient` drop unknown fields here too.
 * @throws ValidationError with declared field names
 */
export function fromInput(meta: ElementMeta, data: unknown): object {
  const model = meta as Model;
  const problems = new Problems();
  if (typeof data !== "object" || data === null || Array.isArray(data)) {
    throw new ValidationError({ [model.name]: ["must be a JSON object"] });
  }
  const external = model.kind === "externalEvent";
  const reader: Reader = { names: "any", lenient: model.lenient || external, tolerant: external, restoring: false, problems };
  const values = readValues(model, data as JsonObject, reader, "");
  problems.throwIfFound();
  return model.instantiate(new Loaded(values, true));
}

/**
 * State that we stored ourselves: a snapshot (with `_version`) or a process manager's state.
 * @returns null when it no longer fits the class; then the stream is replayed
 */
export function stateFromWire(meta: ElementMeta, data: JsonObject): object | null {
  const model = meta as Model;
  const { _version: version, ...fields } = data;
  const problems = new Problems();
  const values = readValues(model, fields, { names: "wire", lenient: false, tolerant: false, restoring: true, problems }, "");
  if (problems.found) return null;
  const instance = model.instantiate(new Loaded(values, false));
  if (typeof version === "number") setVersion(instance, version);
  return instance;
}
