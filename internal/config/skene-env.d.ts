// Written by `sidecar check`, for editors and tsc. Commit it; it changes only with the sidecar's version.

declare module '@skene/sdk' {
  /** A policy: what counts, how much of it fits, and what happens at the wall. */
  export interface Loop {
    /** What kind of loop this is: the first half of its name. a–z, 0–9, `_`, `-`, `.`. */
    type: 'freemium' | (string & {});
    /** Free text that says why this loop exists. */
    opinion?: string;
    /** One step per feature. No two steps, of any file, may limit the same feature. */
    steps: Step[];
    /** About the step's action. A block is a transaction and needs no retries. */
    recovery?: { retries?: number };
  }

  export interface Step {
    /** Which usage rows count. */
    trigger: ApiTrigger | FeatureTrigger;
    /** How many of them fit. */
    condition: Condition;
    /** What happens when no more fit. */
    action: BlockAction;
    /** The feature's name. Default: the trigger's feature, else the endpoint's last literal segment. */
    feature?: string;
    /** `shadow` decides and records, but blocks and mails nobody. Default: `async`. */
    enforcement?: 'async' | 'strict' | 'shadow';
  }

  /** Counts rows by endpoint. All endpoints that match share one count. */
  export interface ApiTrigger {
    type: 'api';
    /** A path. `*` is one segment, `**` any number. */
    endpoint: `/${string}`;
    /** Default: any method. */
    method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE' | 'HEAD' | 'OPTIONS';
  }

  /** Counts rows by their feature column. */
  export interface FeatureTrigger {
    type: 'feature';
    feature: string;
  }

  export type Condition = AnchoredUsage | CalendarUsage;

  interface Usage {
    type: 'usage';
    /**
     * Uses per window for each tier. `free` is everybody who does not pay, `paid` any paying tier without
     * an entry of its own, `0` not in the plan, `Infinity` no limit. The hundredth of 100 is served.
     */
    limit: { free: number; [tier: string]: number };
    /** Fractions of the limit, each between 0 and 1, at which a warning leaves: `[0.8]`. */
    warnAt?: number[];
  }

  /** A window that opens with the subject's first use. */
  export interface AnchoredUsage extends Usage {
    window?: 'anchored';
    /** From two minutes to ten years. Left out: a lifetime limit. */
    period?: `${number}${'s' | 'm' | 'h' | 'd' | 'w'}` | CalendarUnit;
    timezone?: undefined;
  }

  /** A window that begins with the hour, day, week (on Monday), month or year. */
  export interface CalendarUsage extends Usage {
    window: 'calendar';
    period: CalendarUnit;
    /** An IANA name such as `Europe/Berlin`. Default: `UTC`. */
    timezone?: string;
  }

  export type CalendarUnit = 'hour' | 'day' | 'week' | 'month' | 'year';

  /** Closes the flag until the window ends or the subject pays. */
  export interface BlockAction {
    type: 'block';
    /** Shown to the blocked user. */
    message?: string;
    /** The email that the wall sends. Left out: none. */
    upgradePrompt?: UpgradePrompt;
  }

  export interface UpgradePrompt {
    type: 'email';
    /** Default: `resend`. */
    provider?: 'resend' | 'smtp';
    /** Default: `upgrade_prompt`, which is built in. */
    template?: string;
    /** Attempts after the first. Default: with back-off, as long as the provider recognises a repeat. */
    retries?: number;
  }

  /** Checks a loop's type, and returns it as it is. */
  export function defineLoop(loop: Loop): Loop;
}
