/** Collects what is wrong with the values of one construction, so that all of it is reported together. */
import { ValidationError, type ValidationMessages } from "../errors.ts";

export class Problems {
  #messages: Record<string, string[]> | null = null;

  get found(): boolean {
    return this.#messages !== null;
  }

  /** @param path declared field name; `total.currency` inside value objects, `tags[2]` inside lists */
  add(path: string, reason: string): void {
    this.#messages ??= Object.create(null) as Record<string, string[]>;
    const reasons = this.#messages[path];
    if (reasons === undefined) this.#messages[path] = [reason];
    else reasons.push(reason);
  }

  /** Takes over what the check of one field threw. A validator serves many fields, so the field is named by `path` and not by what it threw. */
  addThrown(path: string, error: unknown): void {
    if (error instanceof ValidationError) for (const reason of Object.values(error.messages).flat()) this.add(path, reason);
    else this.add(path, error instanceof Error ? error.message : String(error));
  }

  addAll(messages: ValidationMessages, prefix: string): void {
    for (const [path, reasons] of Object.entries(messages)) for (const reason of reasons) this.add(prefix + path, reason);
  }

  get messages(): ValidationMessages {
    return { ...this.#messages };
  }

  /** @throws ValidationError when something was found */
  throwIfFound(): void {
    if (this.#messages !== null) throw new ValidationError(this.messages);
  }
}
