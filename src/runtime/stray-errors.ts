/** Errors that nobody awaited: left alone they end the process (Node, Deno) or print a page of source (Bun). */
import process from "node:process";

export type StrayKind = "rejection" | "exception";

/** Calls `listener` for each, and the process goes on, until the returned function is called. */
export function onStrayErrors(listener: (error: unknown, kind: StrayKind) => void): () => void {
  const rejection = (error: unknown): void => listener(error, "rejection");
  const exception = (error: unknown): void => listener(error, "exception");
  process.on("unhandledRejection", rejection);
  process.on("uncaughtException", exception);
  return () => {
    process.off("unhandledRejection", rejection);
    process.off("uncaughtException", exception);
  };
}
