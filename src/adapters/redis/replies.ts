/** From the driver's answers to the ports' values. What has another shape than Redis documents is a bug of ours or of the server: assert. */
import { assert } from "../../errors.ts";
import type { EntryFields, StreamEntry } from "../../ports/broker.ts";
import { type Argument, Refusal, type Reply } from "./connection.ts";

export function listOf(reply: Reply): readonly Reply[] {
  assert(Array.isArray(reply), "Redis answers a list");
  return reply as readonly Reply[];
}

export function textOf(reply: Reply | undefined): string {
  if (typeof reply === "string") return reply;
  assert(reply instanceof Uint8Array, "Redis answers a text");
  return reply.toString("latin1");
}

export function numberOf(reply: Reply | undefined): number {
  const value = Number(reply);
  assert(reply !== null && reply !== undefined && Number.isFinite(value), "Redis answers a number");
  return value;
}

/** Throws what a pipeline left in the place of an answer. */
export function accepted(reply: Reply | undefined): Reply {
  if (reply instanceof Refusal) throw reply;
  return reply ?? null;
}

/** Entries as XRANGE, XREADGROUP and XCLAIM give them, asked for in bytes. */
export function entriesOf(reply: Reply): StreamEntry[] {
  const list = listOf(reply);
  const entries = new Array<StreamEntry>(list.length);
  for (let at = 0; at < list.length; at++) {
    const entry = list[at] as readonly [Buffer, readonly Buffer[]];
    entries[at] = { id: entry[0].toString("latin1"), fields: fieldsOf(entry[1]) };
  }
  return entries;
}

function fieldsOf(strings: readonly Buffer[]): EntryFields {
  const fields: [string, Uint8Array][] = [];
  for (let at = 0; at + 1 < strings.length; at += 2) {
    fields.push([(strings[at] as Buffer).toString("utf8"), strings[at + 1] as Buffer]);
  }
  return fields;
}

/** Name and value by turns, for XADD. */
export function fieldArguments(fields: Readonly<Record<string, string | Uint8Array>>): Argument[] {
  const args: Argument[] = [];
  for (const name of Object.keys(fields)) args.push(name, bytesOrText(fields[name] ?? ""));
  return args;
}

/** The driver takes Buffers only; a view costs no copy. */
function bytesOrText(value: string | Uint8Array): string | Buffer {
  if (typeof value === "string" || Buffer.isBuffer(value)) return value;
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
}

/** `XINFO` gives names and values by turns. */
export function infoOf(reply: Reply): ReadonlyMap<string, Reply> {
  const list = listOf(reply);
  const info = new Map<string, Reply>();
  for (let at = 0; at + 1 < list.length; at += 2) info.set(textOf(list[at]), list[at + 1] ?? null);
  return info;
}
