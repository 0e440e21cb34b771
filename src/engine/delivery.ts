import { type Acceptance, isPromise, type Reaction, type RunContext } from "../domain/reaction.ts";
import { DeadLetter, DeserializationError, Discard, NoHandlerError, RetryLater, TimeoutError } from "../errors.ts";
import { parseDateTime } from "../messages/datetime.ts";
import { redact } from "../messages/dead-letter.ts";
import type { DecodedMessage } from "../messages/envelope.ts";
import type { Clock } from "../ports/clock.ts";
import type { Lease } from "../ports/leases.ts";
import type { Log } from "../ports/log.ts";
import type { Labels, Telemetry } from "../ports/telemetry.ts";
import type { StoreOutage } from "./store-outage.ts";

/** How far a deadline of another machine's clock may lie behind ours (rulings 58). */
const DEADLINE_TOLERANCE_ms = 2_000;
/** A run longer than this is named in log and health (D41). */
const SLOW_ms = 30_000;
/** After the time limit a run that doesn't end holds its source stream for this many limits in all (rulings 9). */
const ZOMBIE_LIMITS = 3;
/** `onError` of the user may take this long; what is later is not waited for. */
const ON_FAILURE_LIMIT_ms = 30_000;
/** Types and error texts come from outside: what is remembered of them is bounded. */
const REMEMBERED_MAX = 1_000;

/** What became of one run. */
export type Outcome =
  | { readonly kind: "done" }
  /** No method for the type: counts as success. */
  | { readonly kind: "ignored" }
  /** Its deadline had passed: not run, counts as success (G66). */
  | { readonly kind: "expired" }
  /** The handler threw `Discard`: counts as success. */
  | { readonly kind: "discarded"; readonly reason: string }
  /**
   * To be run again. `after_ms`: when the handler said so, else null. `settled` is there after a run over its time limit: the run still goes on, and
   * no other message of its source stream may run before this resolves; it does so at the latest after 3 × the limit.
   */
  | { readonly kind: "retry"; readonly error: unknown; readonly after_ms: number | null; readonly settled: Promise<void> | null }
  /** No further attempts. */
  | { readonly kind: "deadLetter"; readonly error: unknown };

/** Circumstances of one run. */
export interface Run {
  /** 1 for the first. */
  readonly attempt: number;
  readonly deliveryKey: string;
  readonly workerId: string;
  readonly fences: readonly Lease[];
  /** Aborts when draining runs out. */
  readonly drain: AbortSignal;
  /** Category or stream it was read from, for traces. */
  readonly stream: string;
}

export interface DeliveryOptions {
  /** One, or all command handlers of a category. */
  readonly reactions: readonly Reaction[];
  /** What logs call the whole: the handler's name, or `Commands:<category>`. */
  readonly name: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly telemetry: Telemetry;
  /** Limit of one run; 0 = none. */
  readonly timeout_ms: number;
  /** Names of errors that are never retried. Decoding errors always belong to them (D35). */
  readonly deadLetterAtOnce: readonly string[];
  /** A run that a store's outage ended waits for the end of the outage and is done again, as the same attempt. */
  readonly outage?: StoreOutage | undefined;
}

/** What is known of a type of messages. */
interface Route {
  readonly acceptance: Acceptance | "no-handler";
  readonly reaction: Reaction | null;
  readonly handler: string;
  readonly labels: TypeLabels;
}

/** A message on its way, for what has to be said at the end. */
interface Delivering {
  readonly message: DecodedMessage;
  readonly reaction: Reaction;
  readonly route: Route;
  readonly run: Run;
  readonly started_ms: number;
}

interface Failure {
  readonly error: unknown;
  /** As in `Outcome`. */
  readonly settled: Promise<void> | null;
}

interface TypeLabels {
  readonly ok: Labels;
  readonly error: Labels;
  readonly timing: Labels;
}

const DONE: Outcome = { kind: "done" };
const IGNORED: Outcome = { kind: "ignored" };
const EXPIRED: Outcome = { kind: "expired" };

/** One run in progress: the context the handler sees, and what the watch needs to know. */
class ActiveRun implements RunContext {
  readonly attempt: number;
  readonly workerId: string;
  readonly deliveryKey: string;
  readonly fences: readonly Lease[];
  readonly type: string;
  readonly started_ms: number;
  /** By the monotonic clock; Infinity for none. */
  readonly limitAt_ms: number;
  readonly deadlineAt_ms: number;
  slowNamed = false;
  /** Set while somebody waits for the outcome: called once at the time limit. */
  onLimit: (() => void) | null = null;
  readonly #drain: AbortSignal;
  readonly #log: Log;
  #runLog: Log | null = null;
  #controller: AbortController | null = null;
  #abortReason: unknown = null;
  #stopListening: (() => void) | null = null;

  constructor(options: {
    readonly run: Run;
    readonly type: string;
    readonly started_ms: number;
    readonly limit_ms: number;
    readonly deadlineAt_ms: number;
    readonly log: Log;
  }) {
    const { run } = options;
    this.attempt = run.attempt;
    this.workerId = run.workerId;
    this.deliveryKey = run.deliveryKey;
    this.fences = run.fences;
    this.#drain = run.drain;
    this.type = options.type;
    this.started_ms = options.started_ms;
    this.limitAt_ms = options.limit_ms > 0 ? options.started_ms + options.limit_ms : Number.POSITIVE_INFINITY;
    this.deadlineAt_ms = options.deadlineAt_ms;
    this.#log = options.log;
  }

  get log(): Log {
    this.#runLog ??= this.#log.with({ message_type: this.type, attempt: this.attempt });
    return this.#runLog;
  }

  /** Made when somebody asks for it: most handlers never do. */
  get signal(): AbortSignal {
    if (this.#controller === null) {
      const controller = new AbortController();
      this.#controller = controller;
      if (this.#abortReason !== null) controller.abort(this.#abortReason);
      else if (this.#drain.aborted) controller.abort(this.#drain.reason);
      else {
        const listener = () => controller.abort(this.#drain.reason);
        this.#drain.addEventListener("abort", listener, { once: true });
        this.#stopListening = () => this.#drain.removeEventListener("abort", listener);
      }
    }
    return this.#controller.signal;
  }

  /** Doesn't make the signal. */
  get isAborted(): boolean {
    return this.#abortReason !== null || this.#drain.aborted;
  }

  abort(reason: unknown): void {
    this.#abortReason ??= reason;
    this.#controller?.abort(reason);
  }

  ended(): void {
    this.onLimit = null;
    this.#stopListening?.();
  }

  /** When the watch has to look at this run again. */
  dueAt_ms(): number {
    let due_ms = this.slowNamed ? Number.POSITIVE_INFINITY : this.started_ms + SLOW_ms;
    if (this.onLimit !== null && this.limitAt_ms < due_ms) due_ms = this.limitAt_ms;
    if (this.#abortReason === null && this.deadlineAt_ms < due_ms) due_ms = this.deadlineAt_ms;
    return due_ms;
  }
}

/**
 * Brings one message to its handler and says what became of it. Every kind of subscription ends here; where messages come from, how they are
 * acknowledged and when they are tried again is theirs.
 *
 * refused    no method (`ignored`), no handler of the command (`deadLetter`), a version we don't know (`retry`), too late (`expired`)
 * running    the handler works; over its limit the outcome is given while the run goes on as a zombie, whose unit of work its signal has closed
 * waiting    a store of ours was away under it: when it is back, running again
 * judged     what it threw becomes an outcome: Discard, DeadLetter, RetryLater, an error named in `dead_letter_at_once`, any other error
 *
 * Never throws, whatever user code does (G47). One timer watches all runs.
 */
export class Delivery {
  readonly name: string;
  readonly reactions: readonly Reaction[];
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #telemetry: Telemetry;
  readonly #limit_ms: number;
  readonly #outage: StoreOutage | undefined;
  readonly #atOnce: ReadonlySet<string>;
  readonly #isCommands: boolean;
  readonly #active = new Set<ActiveRun>();
  readonly #routes = new Map<string, Route>();
  /** A subscriber reads one stream. */
  #payloadLabels: TypeLabels | null = null;
  readonly #failuresSeen = new Map<string, number>();
  #cancelWatch: (() => void) | null = null;
  #watchAt_ms = Number.POSITIVE_INFINITY;

  constructor(options: DeliveryOptions) {
    this.name = options.name;
    this.reactions = options.reactions;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#telemetry = options.telemetry;
    this.#limit_ms = options.timeout_ms;
    this.#outage = options.outage;
    this.#atOnce = new Set(["DeserializationError", ...options.deadLetterAtOnce]);
    this.#isCommands = options.reactions.some((reaction) => reaction.kind === "commandHandler");
  }

  /**
   * What would become of a message of this type; looks at nothing else. `no-handler`: a command nobody here handles, which `deliver` dead-letters
   * and nobody may acknowledge (rulings 2).
   */
  accepts(type: string): Acceptance | "no-handler" {
    return this.#route(type).acceptance;
  }

  /** Runs in progress, zombies included. */
  get running(): number {
    return this.#active.size;
  }

  /** The run that has been going on longest, when longer than 30 s. */
  slow(): { readonly type: string; readonly running_ms: number } | null {
    const [oldest] = this.#active;
    if (oldest === undefined) return null;
    const running_ms = this.#clock.monotonic_ms() - oldest.started_ms;
    return running_ms < SLOW_ms ? null : { type: oldest.type, running_ms };
  }

  /**
   * Answers when the handler ended or its limit is reached; never throws or rejects. A handler that succeeds without waiting costs no promise.
   */
  deliver(message: DecodedMessage, run: Run): Outcome | Promise<Outcome> {
    const route = this.#route(message.type);
    const { acceptance, reaction } = route;
    if (acceptance === "ignored") return IGNORED;
    if (acceptance !== "handled" || reaction === null) return this.#refuse(message, run, route);
    const started_ms = this.#clock.monotonic_ms();
    let deadlineAt_ms = Number.POSITIVE_INFINITY;
    const { deadline } = message.metadata.headers;
    if (deadline !== null) {
      const parsed = parseDateTime(deadline);
      const left_ms = parsed === null ? Number.POSITIVE_INFINITY : parsed.epoch_ms + DEADLINE_TOLERANCE_ms - this.#clock.now_ms();
      if (left_ms < 0) return this.#expire(message, run, route, deadline);
      deadlineAt_ms = started_ms + left_ms;
    }

    if (this.#isTracing) {
      this.#telemetry.trace({ ...this.#stageOf(message, run, route), event: "handler.started", status: "ok", payload: message.dataText });
    }
    const active = new ActiveRun({ run, type: message.type, started_ms, limit_ms: this.#limit_ms, deadlineAt_ms, log: this.#log });
    const delivering: Delivering = { message, reaction, route, run, started_ms };
    let running: unknown;
    try {
      running = reaction.begin === undefined ? reaction.run(message, active) : reaction.begin(message, active);
    } catch (error) {
      active.ended();
      return this.#failed(delivering, { error, settled: null });
    }
    if (isPromise(running)) return this.#wait(delivering, active, running);
    active.ended();
    return this.#succeeded(delivering);
  }

  async #wait(delivering: Delivering, active: ActiveRun, running: Promise<unknown>): Promise<Outcome> {
    const failure = await this.#watched(active, running);
    return failure === null ? this.#succeeded(delivering) : this.#failed(delivering, failure);
  }

  #succeeded({ message, reaction, route, run, started_ms }: Delivering): Outcome {
    const duration_ms = this.#clock.monotonic_ms() - started_ms;
    this.#telemetry.observe("protean_handler_duration_seconds", duration_ms / 1000, route.labels.timing);
    this.#telemetry.count("protean_handler_invocations_total", route.labels.ok);
    if (!this.#isTracing) return DONE;
    const stage = this.#stageOf(message, run, route);
    this.#telemetry.trace({ ...stage, event: "handler.completed", status: "ok", duration_ms });
    if (reaction.kind === "processManager") {
      const metadata = { pm_type: reaction.name, pm_stream_category: stage.stream };
      this.#telemetry.trace({ ...stage, event: "pm.transition", status: "ok", metadata });
    }
    return DONE;
  }

  async #failed({ message, reaction, route, run, started_ms }: Delivering, failure: Failure): Promise<Outcome> {
    if (await this.#wasOutage(failure, run)) return await this.deliver(message, run);
    const { handler, labels } = route;
    const duration_ms = this.#clock.monotonic_ms() - started_ms;
    this.#telemetry.observe("protean_handler_duration_seconds", duration_ms / 1000, labels.timing);
    const stage = this.#stageOf(message, run, route);
    const outcome = this.#judge(failure);
    if (outcome.kind === "discarded") {
      this.#telemetry.count("protean_handler_discarded_total", labels.timing);
      this.#log.info("engine.message_discarded", { handler, message_type: message.type, message_id: message.id, reason: outcome.reason });
      this.#telemetry.trace({ ...stage, event: "handler.skipped", status: "discarded", duration_ms, metadata: { reason: outcome.reason } });
      return outcome;
    }
    this.#telemetry.count("protean_handler_invocations_total", labels.error);
    this.#telemetry.trace({ ...stage, event: "handler.failed", status: "error", duration_ms, error: nameAndMessage(failure.error) });
    this.#logFailure(handler, message.type, stage.message_id, run.attempt, failure.error, duration_ms);
    await this.#tellUser(reaction, failure.error, message);
    return outcome;
  }

  /** Resolves, when the outage is over, to true; at once to false for every other failure. */
  async #wasOutage({ error, settled }: Failure, run: Run): Promise<boolean> {
    return this.#outage !== undefined && settled === null && this.#outage.concerns(error) && (await this.#outage.isOver(run.drain));
  }

  /** A command nobody here handles, or a version that isn't known. */
  #refuse(message: DecodedMessage, run: Run, route: Route): Outcome {
    const { acceptance, handler } = route;
    const error =
      acceptance === "unknown-version"
        ? new DeserializationError(`${message.type}: this version is not known here`, {
            messageId: message.id,
            fix: "Run a server that has this version; the message is tried again until its attempts are used up.",
          })
        : new NoHandlerError(`no handler here takes the command ${message.type}`, {
            fix: "Start the server with its handler, then replay the dead letter.",
          });
    const stage = this.#stageOf(message, run, route);
    this.#telemetry.trace({ ...stage, event: "handler.failed", status: "error", error: nameAndMessage(error) });
    this.#logFailure(handler, message.type, stage.message_id, run.attempt, error, 0);
    this.#telemetry.count("protean_handler_invocations_total", route.labels.error);
    if (acceptance === "unknown-version") return { kind: "retry", error, after_ms: null, settled: null };
    return { kind: "deadLetter", error };
  }

  #expire(message: DecodedMessage, run: Run, route: Route, deadline: string): Outcome {
    this.#telemetry.count("protean_command_expired_total", { command_type: message.type });
    this.#log.info("engine.command_expired", { handler: route.handler, message_type: message.type, message_id: message.id, deadline });
    this.#telemetry.trace({
      ...this.#stageOf(message, run, route),
      event: "handler.skipped",
      status: "expired",
      metadata: { reason: "deadline_exceeded", deadline },
    });
    return EXPIRED;
  }

  /** What all traces of one run have in common. */
  #stageOf(message: DecodedMessage, run: Run, route: Route) {
    const { domain } = message.metadata;
    return {
      stream: domain.stream_category ?? (this.#isCommands ? "unknown" : run.stream),
      message_id: message.id ?? run.deliveryKey,
      message_type: message.type,
      handler: route.handler,
      worker_id: run.workerId,
      correlation_id: domain.correlation_id,
      causation_id: domain.causation_id,
    };
  }

  get #isTracing(): boolean {
    return this.#telemetry.isTracing !== false;
  }

  /** The same for a subscriber, whose foreign entries have no envelope. `run` as for `deliver`; no handler traces (wire-format §12). */
  async deliverPayload(payload: unknown, source: { readonly id: string; readonly stream: string }, run: Run): Promise<Outcome> {
    const [reaction] = this.reactions;
    if (reaction === undefined) return IGNORED;
    const started_ms = this.#clock.monotonic_ms();
    const active = new ActiveRun({
      run,
      type: source.stream,
      started_ms,
      limit_ms: this.#limit_ms,
      deadlineAt_ms: Number.POSITIVE_INFINITY,
      log: this.#log,
    });
    const failure = await this.#watched(active, (async () => reaction.runPayload(payload, source, active))());
    const duration_ms = this.#clock.monotonic_ms() - started_ms;
    this.#payloadLabels ??= labelsOf(reaction.name, source.stream);
    const labels = this.#payloadLabels;
    this.#telemetry.observe("protean_handler_duration_seconds", duration_ms / 1000, labels.timing);
    if (failure === null) {
      this.#telemetry.count("protean_handler_invocations_total", labels.ok);
      return DONE;
    }
    if (await this.#wasOutage(failure, run)) return await this.deliverPayload(payload, source, run);
    const outcome = this.#judge(failure);
    if (outcome.kind === "discarded") {
      this.#telemetry.count("protean_handler_discarded_total", labels.timing);
      this.#log.info("broker.message_discarded", { subscriber: reaction.name, message_id: source.id, reason: outcome.reason });
      return outcome;
    }
    this.#telemetry.count("protean_handler_invocations_total", labels.error);
    this.#logFailure(reaction.name, source.stream, source.id, run.attempt, failure.error, duration_ms);
    await this.#tellUser(reaction, failure.error, payload);
    return outcome;
  }

  #route(type: string): Route {
    const known = this.#routes.get(type);
    if (known !== undefined) return known;
    let acceptance: Acceptance | "no-handler" = this.#isCommands ? "no-handler" : "ignored";
    let chosen: Reaction | null = null;
    for (const reaction of this.reactions) {
      const answer = reaction.accepts(type);
      if (answer === "ignored") continue;
      chosen = reaction;
      acceptance = answer;
      if (answer === "handled") break;
    }
    const handler = chosen?.name ?? this.name;
    const route: Route = { acceptance, reaction: chosen, handler, labels: labelsOf(handler, type) };
    if (this.#routes.size >= REMEMBERED_MAX) this.#routes.clear();
    this.#routes.set(type, route);
    return route;
  }

  /** null for success, else what went wrong; resolves at the limit at the latest. */
  #watched(active: ActiveRun, running: Promise<unknown>): Promise<Failure | null> {
    return new Promise((resolve) => {
      let settle: (() => void) | null = null;
      const ended = (failure: { readonly error: unknown } | null) => {
        this.#active.delete(active);
        const waitedFor = active.onLimit !== null;
        active.ended();
        if (waitedFor) resolve(failure === null ? null : { error: failure.error, settled: null });
        else settle?.();
      };
      active.onLimit = () => {
        active.onLimit = null;
        const error = new TimeoutError(`${active.type}: the handler took longer than ${this.#limit_ms} ms`, {
          fix: "Raise timeout_ms of the handler, or let it stop when its signal aborts.",
        });
        active.abort(error);
        this.#telemetry.count("protean_handler_timeouts_total", { handler: this.name, exception: "TimeoutError" });
        const settled = new Promise<void>((resolveSettled) => {
          const giveUp = this.#clock.timer(this.#limit_ms * (ZOMBIE_LIMITS - 1), () => {
            this.#log.error("engine.handler_stuck", {
              handler: this.name,
              message_type: active.type,
              running_ms: Math.round(this.#clock.monotonic_ms() - active.started_ms),
            });
            resolveSettled();
          });
          settle = () => {
            giveUp();
            resolveSettled();
          };
        });
        resolve({ error, settled });
      };
      this.#active.add(active);
      this.#watch(active.dueAt_ms());
      running.then(
        () => ended(null),
        (error: unknown) => ended({ error }),
      );
    });
  }

  /** One timer for all runs, armed for the earliest due time; while messages end quickly it comes round once in 30 s or once per limit. */
  #watch(due_ms: number): void {
    if (due_ms >= this.#watchAt_ms) return;
    this.#cancelWatch?.();
    this.#watchAt_ms = due_ms;
    this.#cancelWatch = this.#clock.timer(Math.max(0, due_ms - this.#clock.monotonic_ms()), () => {
      this.#cancelWatch = null;
      this.#watchAt_ms = Number.POSITIVE_INFINITY;
      const now_ms = this.#clock.monotonic_ms();
      let next_ms = Number.POSITIVE_INFINITY;
      for (const active of [...this.#active]) {
        if (active.deadlineAt_ms <= now_ms) active.abort(new TimeoutError(`${active.type}: its deadline has passed`));
        if (!active.slowNamed && active.started_ms + SLOW_ms <= now_ms) {
          active.slowNamed = true;
          this.#log.warning("engine.handler_slow", {
            handler: this.name,
            message_type: active.type,
            delivery: active.deliveryKey,
            running_ms: Math.round(now_ms - active.started_ms),
          });
        }
        if (active.limitAt_ms <= now_ms) active.onLimit?.();
        next_ms = Math.min(next_ms, active.dueAt_ms());
      }
      if (next_ms !== Number.POSITIVE_INFINITY) this.#watch(next_ms);
    });
  }

  #judge(failure: Failure): Outcome {
    const { error, settled } = failure;
    const outcome = this.#judgeError(error);
    return outcome.kind === "retry" && settled !== null ? { ...outcome, settled } : outcome;
  }

  #judgeError(error: unknown): Outcome {
    if (error instanceof AggregateError && error.errors.length > 0) {
      // Several methods failed. Those that succeeded are skipped by their markers, so a retry serves whoever may still succeed.
      const outcomes = error.errors.map((single) => this.#judgeError(single));
      const retries = outcomes.filter((outcome) => outcome.kind === "retry");
      if (retries.length > 0) {
        const waits = retries.flatMap((outcome) => (outcome.after_ms === null ? [] : [outcome.after_ms]));
        return { kind: "retry", error, after_ms: waits.length === 0 ? null : Math.max(...waits), settled: null };
      }
      const discarded = outcomes.find((outcome) => outcome.kind === "discarded");
      if (discarded !== undefined && outcomes.every((outcome) => outcome.kind === "discarded")) return discarded;
      return { kind: "deadLetter", error };
    }
    if (error instanceof Discard) return { kind: "discarded", reason: error.message };
    if (error instanceof DeadLetter) return { kind: "deadLetter", error };
    if (error instanceof RetryLater) return { kind: "retry", error, after_ms: error.after_ms, settled: null };
    if (namesOf(error).some((name) => this.#atOnce.has(name))) return { kind: "deadLetter", error };
    return { kind: "retry", error, after_ms: null, settled: null };
  }

  /** The user's `onError`; must not hold up the message for ever nor change its outcome. */
  #tellUser(reaction: Reaction, error: unknown, message: unknown): Promise<void> {
    return new Promise((resolve) => {
      const failed = (own: unknown) => {
        this.#log.error("engine.error_handler_failed", { handler: reaction.name, error: own });
      };
      const giveUp = this.#clock.timer(ON_FAILURE_LIMIT_ms, () => {
        failed(new TimeoutError(`onError took longer than ${ON_FAILURE_LIMIT_ms} ms`));
        resolve();
      });
      const ended = () => {
        giveUp();
        resolve();
      };
      try {
        reaction.onFailure(error, message).then(ended, (own: unknown) => {
          failed(own);
          ended();
        });
      } catch (own) {
        failed(own);
        ended();
      }
    });
  }

  /** The stack once for each handler and error; after that the 10th, 100th, … time (D35). */
  #logFailure(handler: string, type: string, id: string, attempt: number, error: unknown, duration_ms: number): void {
    const key = `${handler}|${nameAndMessage(error)}`;
    const times = (this.#failuresSeen.get(key) ?? 0) + 1;
    if (times === 1 && this.#failuresSeen.size >= REMEMBERED_MAX) this.#failuresSeen.clear();
    this.#failuresSeen.set(key, times);
    const fields = {
      handler,
      message_type: type,
      message_id: id,
      attempt,
      duration_ms: Math.round(duration_ms * 100) / 100,
      error: nameAndMessage(error),
    };
    if (times === 1) this.#log.error("engine.message_failed", { ...fields, stack: stackOf(error) });
    else if (/^10+$/.test(String(times))) this.#log.error("engine.message_failed", { ...fields, times });
    else this.#log.debug("engine.message_failed", { ...fields, times });
  }
}

function labelsOf(handler: string, type: string): TypeLabels {
  return { ok: { handler, type, status: "ok" }, error: { handler, type, status: "error" }, timing: { handler, type } };
}

/** `ValidationError: balance: must be positive`, as traces, logs, probes and status show errors; passwords in it are masked. */
export function nameAndMessage(error: unknown): string {
  if (!(error instanceof Error)) return redact(String(error));
  if (error instanceof AggregateError && error.errors.length > 0) {
    return `${error.name}: ${error.errors.map((single) => nameAndMessage(single)).join("; ")}`;
  }
  return `${error.name}: ${redact(error.message)}`;
}

function stackOf(error: unknown): string | null {
  if (error instanceof AggregateError) return error.errors.map((single) => stackOf(single)).join("\n");
  return error instanceof Error ? (error.stack ?? null) : null;
}

/** By which an error may be named in configuration: its name, its code, and the classes it comes from. */
function namesOf(error: unknown): readonly string[] {
  if (!(error instanceof Error)) return [];
  const names = [error.name];
  if ("code" in error && typeof error.code === "string") names.push(error.code);
  for (let prototype: unknown = Object.getPrototypeOf(error); prototype instanceof Error; prototype = Object.getPrototypeOf(prototype)) {
    names.push(prototype.constructor.name);
  }
  return names;
}
