import type { Database } from "../../ports/database.ts";

/** A store that has a life of its own: neither the database itself, nor memory, which begins anew with each start. */
export function isBeside(store: { readonly identity: string; readonly provider: string }, database: Pick<Database, "identity">): boolean {
  return store.identity !== database.identity && store.provider !== "memory" && store.provider !== "inline";
}
