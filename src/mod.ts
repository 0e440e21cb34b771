/** All that `import … from "protean"` offers, and nothing else. */
export * from "./errors.ts";
