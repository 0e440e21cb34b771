/** Dates inside elements: reading is free, changing throws, because a changed Date would slip past checks and frozen messages. */
import { IncorrectUsageError } from "../errors.ts";

export class ImmutableDate extends Date {}

for (const name of Object.getOwnPropertyNames(Date.prototype)) {
  if (!name.startsWith("set")) continue;
  Object.defineProperty(ImmutableDate.prototype, name, {
    value: () => {
      throw new IncorrectUsageError("a date inside an element can't be changed; assign a new Date to the field instead");
    },
  });
}

/** The same moment as a date that can't be changed. */
export function immutableDate(date: Date): ImmutableDate {
  return date instanceof ImmutableDate ? date : new ImmutableDate(date.getTime());
}
