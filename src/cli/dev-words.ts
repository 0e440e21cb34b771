/** What a worker of `protean dev` writes to stdout when it handles messages. */
export const READY_WORD = "protean:ready";
/** What it is told on its standard input to drain and end. */
export const END_WORD = "protean:end";
