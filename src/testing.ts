/** All that `import … from "protean/testing"` offers. */
export { ValidationError } from "./errors.ts";
