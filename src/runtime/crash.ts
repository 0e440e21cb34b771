/** The hardest end a process can have, for tests of what it leaves behind. */
import process from "node:process";

/** Ends this process as `kill -9` does: nothing is flushed, closed or told to anybody. */
export function endAsKilled(): never {
  process.kill(process.pid, "SIGKILL");
  // The signal is delivered on the way back from the call; nothing may run in between.
  for (;;);
}
