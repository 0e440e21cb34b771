/** Identity and chance come in from outside; tests and simulation give a seeded one. */
export interface Random {
  /** A lower-case hyphenated version 4 UUID. */
  uuid(): string;
  /** `length` lower-case hexadecimal digits. */
  hex(length: number): string;
  /** 0 ≤ x < 1. */
  float(): number;
}
