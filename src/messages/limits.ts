/** Limits on messages. Whatever is above them is refused by writers and is undecodable for readers (rulings 57). */

/** Largest message text, in bytes of UTF-8: 4 MiB. Writers throw above it; an incoming larger one is dead-lettered by reference. */
export const MESSAGE_MAX_BYTES = 4 * 1024 * 1024;

/** Deepest nesting of objects and arrays in a payload; the payload object itself is level 1. */
export const JSON_MAX_DEPTH = 64;
