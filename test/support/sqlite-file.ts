/** A SQLite file as somebody else sees it: every call opens it, and closes it again. */
import { DatabaseSync } from "node:sqlite";

export function rowsIn(path: string, sql: string): Record<string, unknown>[] {
  const database = new DatabaseSync(path);
  try {
    return database.prepare(sql).all();
  } finally {
    database.close();
  }
}

export function executeIn(path: string, sql: string): void {
  const database = new DatabaseSync(path);
  try {
    database.exec(sql);
  } finally {
    database.close();
  }
}
