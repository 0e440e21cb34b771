/**
 * Places at which a process can be made to die, for tests: `PROTEAN_CRASH_AT=C8` kills it between the publishing of outbox rows and their being marked.
 * Everything durable goes through the ports, so the places are put around their calls; domain, engine and adapters know nothing of them, and without
 * the variable nothing is wrapped. The ids are those of the table in docs/guarantees.md ("What a kill leaves").
 *
 * `C8:3` dies at the third pass, `C8:3/Tally` at the third pass whose handler, group, stream or message type contains `Tally`.
 */
import type { DomainStores } from "../domain/stores.ts";
import { ConfigurationError } from "../errors.ts";

import { categoryOf, isCommandCategory } from "../messages/names.ts";
import type { Broker } from "../ports/broker.ts";
import type { CommitSet, Database } from "../ports/database.ts";
import type { Append, EventStore } from "../ports/event-store.ts";
import type { Leases } from "../ports/leases.ts";
import type { OutboxStore } from "../ports/outbox-store.ts";

/** Point to what lies on both sides of it. */
export const CRASH_POINTS = {
  C1: "a command is committed | its handler starts",
  C2: "a handler's body has ended | its unit of work is committed",
  C3: "inside a commit: messages are appended | rows are written",
  C4: "messages are in the event store | the other database is committed",
  C5: "inside a commit: messages, rows and markers are written | outbox rows are written",
  C6: "a handler's unit of work is committed | anything else",
  C7: "outbox rows are claimed | they are published",
  C8: "outbox rows are published | they are marked",
  C9: "entries are read | their handler starts",
  C10: "a handler has ended | its entry is acknowledged",
  C11: "an entry is acknowledged | the next one runs",
  C12: "a further attempt is counted | it runs",
  C13: "a dead letter is written and its entry acknowledged | anything else",
  "C13-before": "the last attempt has failed | its dead letter is written",
  C14: "an event-store subscription has handled a message | its cursor is written",
  C15: "a handler of an event-store subscription has failed | the failure is recorded",
  C16: "the failure is recorded | the cursor is written",
  C17: "a failed message was handled by recovery | that is recorded",
  C20: "a lease is taken | what its former owner left is taken over",
  C23: "reconciliation has added outbox rows | it goes on",
  R1: "after a restore: rows that are published already are marked | entries leave the streams",
  R2: "after a restore: entries have left a stream | groups go back",
  R3: "after a restore: a group went back | the rest",
  R4: "after a restore: all is repaired | the database forgets that it was put back",
} as const;

export type CrashPoint = keyof typeof CRASH_POINTS;

/** Called at every pass of a point; dies or returns. `detail` says whose pass it is. */
export type Crash = (point: CrashPoint, detail: string) => void;

/**
 * Reads the value of `PROTEAN_CRASH_AT`.
 * @param die ends the process
 * @throws ConfigurationError for a point that there isn't
 */
export function parseCrashPoint(text: string, die: () => never): Crash {
  const match = /^(?<point>[^:/]+)(?::(?<pass>\d+))?(?:\/(?<who>.+))?$/.exec(text);
  const { point = "", pass = "1", who = "" } = match?.groups ?? {};
  if (!Object.hasOwn(CRASH_POINTS, point)) {
    throw new ConfigurationError(`PROTEAN_CRASH_AT: there is no point "${text}"`, {
      fix: `Use one of ${Object.keys(CRASH_POINTS).join(", ")}, with :PASS and /NAME as you like.`,
    });
  }
  let left = Number(pass);
  return (passed, detail) => {
    if (passed !== point || !detail.includes(who)) return;
    left -= 1;
    if (left <= 0) die();
  };
}

/** The same stores, with the points around their calls. */
export function withCrashPoints<Stores extends DomainStores>(stores: Stores, crash: Crash): Stores {
  const mapped = <Part>(parts: ReadonlyMap<string, Part>, wrap: (part: Part) => Part) =>
    new Map([...parts].map(([name, part]) => [name, wrap(part)]));
  const leases = new Map<Leases, Leases>();
  const watched = (own: Leases): Leases => {
    let found = leases.get(own);
    if (found === undefined) {
      found = leasesWith(own, crash);
      leases.set(own, found);
    }
    return found;
  };
  return {
    ...stores,
    databases: mapped(stores.databases, (database) => databaseWith(database, crash, watched(database.leases))),
    brokers: mapped(stores.brokers, (broker) => brokerWith(broker, crash, watched(broker.leases))),
    eventStore: eventStoreWith(stores.eventStore, crash, watched(stores.eventStore.leases)),
  };
}

/** `target` with some members replaced; everything else is its own, private parts included. */
function replaced<Target extends object>(target: Target, members: Partial<Target>): Target {
  return new Proxy(target, {
    get(own, key) {
      if (Object.hasOwn(members, key)) return members[key as keyof Target];
      const value: unknown = Reflect.get(own, key, own);
      return typeof value === "function" ? value.bind(own) : value;
    },
  });
}

function databaseWith(database: Database, crash: Crash, leases: Leases): Database {
  return replaced(database, {
    leases,
    outbox: outboxWith(database.outbox, crash),
    async settleRestored() {
      crash("R4", database.name);
      await database.settleRestored();
    },
    async commit(set) {
      const who = [...set.markers.map(({ handler }) => handler), ...set.appends.map(({ type }) => type)].join(" ");
      const isHandlers = set.markers.length > 0;
      if (isHandlers) crash("C2", who);
      const result = await database.commit(interrupted(set, crash, who));
      if (set.appends.some(isCommand)) crash("C1", who);
      if (isHandlers) crash("C6", who);
      return result;
    },
  });
}

/** The adapter asks for `rows` when the messages are appended, and for `outbox` when all else is written (contract of `Database.commit`). */
function interrupted(set: CommitSet, crash: Crash, who: string): CommitSet {
  return {
    ...set,
    get rows() {
      if (set.appends.length > 0) crash("C3", who);
      return set.rows;
    },
    get outbox() {
      if (set.outbox.length > 0) crash("C5", who);
      return set.outbox;
    },
  };
}

function outboxWith(outbox: OutboxStore, crash: Crash): OutboxStore {
  return replaced(outbox, {
    async claim(options) {
      const rows = await outbox.claim(options);
      for (const row of rows) crash("C7", row.type);
      return rows;
    },
    async notePublished(rows) {
      const noted = await outbox.notePublished(rows);
      if (noted > 0) crash("R1", "");
      return noted;
    },
    async insertMissing(rows) {
      const added = await outbox.insertMissing(rows);
      if (added > 0) crash("C23", rows.map(({ type }) => type).join(" "));
      return added;
    },
  });
}

function brokerWith(broker: Broker, crash: Crash, leases: Leases): Broker {
  return replaced(broker, {
    leases,
    async publish(entries) {
      const ids = await broker.publish(entries);
      crash("C8", entries.map(({ stream }) => stream).join(" "));
      return ids;
    },
    async read(requests) {
      const results = await broker.read(requests);
      for (const [at, result] of results.entries()) {
        if (result.kind === "entries" && result.entries.length > 0) crash("C9", requests[at]?.group ?? "");
      }
      return results;
    },
    async acknowledge(stream, group, ids) {
      crash("C10", group);
      const count = await broker.acknowledge(stream, group, ids);
      crash("C11", group);
      return count;
    },
    async setAttempts(stream, group, consumer, attempts) {
      await broker.setAttempts(stream, group, consumer, attempts);
      crash("C12", group);
    },
    async remove(stream, ids) {
      const removed = await broker.remove(stream, ids);
      crash("R2", stream);
      return removed;
    },
    async rewind(stream, group, to) {
      const made = await broker.rewind(stream, group, to);
      crash("R3", group);
      return made;
    },
    async deadLetter(letter) {
      crash("C13-before", letter.group);
      const id = await broker.deadLetter(letter);
      crash("C13", letter.group);
      return id;
    },
  });
}

function eventStoreWith(store: EventStore, crash: Crash, leases: Leases): EventStore {
  return replaced(store, {
    leases,
    async append(messages) {
      const [first] = messages;
      const type = first?.type ?? "";
      const who = first?.stream ?? "";
      if (type === "Read") crash("C14", who);
      if (type === "Failed") crash("C15", who);
      if (type === "Resolved") crash("C17", who);
      const appended = await store.append(messages);
      if (type === "Failed") crash("C16", who);
      if (messages.some((message) => !BOOKKEEPING.has(message.type))) crash("C4", messages.map((message) => message.type).join(" "));
      return appended;
    },
  });
}

const BOOKKEEPING = new Set(["Read", "Failed", "Resolved", "Exhausted", "Checkpoint"]);

function leasesWith(leases: Leases, crash: Crash): Leases {
  return replaced(leases, {
    async acquire(name, owner, ttl_ms) {
      const lease = await leases.acquire(name, owner, ttl_ms);
      if (lease !== null) crash("C20", name);
      return lease;
    },
  });
}

function isCommand({ stream }: Append): boolean {
  return isCommandCategory(categoryOf(stream));
}
