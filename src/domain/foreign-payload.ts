/** Payloads of subscribers, checked at the border: by a value object class or any Standard Schema. */
import { ValidationError } from "../errors.ts";
import type { JsonObject } from "../messages/json.ts";
import { META } from "./element.ts";
import { metaOf } from "./instance.ts";
import { fromInput } from "./wire.ts";

/** The part of Standard Schema v1 that is used here. */
interface Schema {
  readonly "~standard": { validate(value: unknown): SchemaResult | Promise<SchemaResult> };
}

interface SchemaResult {
  readonly value?: unknown;
  readonly issues?:
    | readonly { readonly message: string; readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined }[]
    | undefined;
}

/**
 * The payload as the subscriber's handler gets it: untouched without a schema. A value object class takes wire and declared names and leaves out keys
 * that it doesn't know: the sender is somebody else and may say more than we need.
 * @throws ValidationError with all issues
 */
export async function valueFromForeign(schema: unknown, payload: unknown, subscriber: string): Promise<unknown> {
  if (schema === null || schema === undefined) return payload;
  if (META in (schema as object)) {
    const meta = metaOf(schema as object);
    if (typeof payload !== "object" || payload === null || Array.isArray(payload)) {
      throw new ValidationError({ [subscriber]: [`the payload is no object, as \`${meta.name}\` wants it`] });
    }
    const known = new Set([...meta.fields.values()].flatMap((field) => [field.name, field.wireName]));
    return fromInput(meta, Object.fromEntries(Object.entries(payload as JsonObject).filter(([key]) => known.has(key))));
  }
  const result = await (schema as Schema)["~standard"].validate(payload);
  if (result.issues === undefined) return result.value;
  const messages: Record<string, string[]> = {};
  for (const { message, path = [] } of result.issues) {
    const place = path.map((part) => String(typeof part === "object" ? part.key : part)).join(".") || subscriber;
    const reasons = messages[place];
    if (reasons === undefined) messages[place] = [message];
    else reasons.push(message);
  }
  throw new ValidationError(messages);
}
