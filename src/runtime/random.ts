import { randomBytes, randomUUID } from "node:crypto";
import type { Random } from "../ports/random.ts";

/** Chance from the operating system. */
export class SystemRandom implements Random {
  uuid(): string {
    return randomUUID();
  }

  hex(length: number): string {
    return randomBytes(Math.ceil(length / 2))
      .toString("hex")
      .slice(0, length);
  }

  float(): number {
    return Math.random();
  }
}
