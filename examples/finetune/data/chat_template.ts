/**
 * @file Renders chat templates by @huggingface/jinja, with two limits. The text depends on the conversation alone: the
 * clock, the time zone and the locale are fixed. Time and memory are bounded, because templates come with models.
 */
import * as jinja from '@huggingface/jinja';

/** The parts of the package that are used here. The package's own types do not resolve in Node's ESM. */
interface Environment {
  set(name: string, value: unknown): void;
}
/** `filter` is that of `x | tojson(sort_keys=true)`. */
interface Statement {
  filter?: {callee?: {value?: unknown}; args?: {key?: {value?: unknown}}[]};
}
interface Value {
  value: unknown;
}
interface Interpreter {
  run(program: unknown): Value;
  evaluate(statement: Statement | undefined, environment: Environment): Value;
  /** Called for each turn of a loop too. The package's own types call it private. */
  evaluateBlock(statements: Statement[], environment: Environment): Value;
}
const {Environment, Interpreter, parse, tokenize} = jinja as unknown as {
  Environment: new () => Environment;
  Interpreter: new (environment: Environment) => Interpreter;
  parse: (tokens: unknown) => unknown;
  tokenize: (source: string, options: {lstrip_blocks: boolean; trim_blocks: boolean}) => unknown;
};

/** Real templates have less than a tenth of it. */
const MOST_CHARACTERS = 2 ** 20;
/** A conversation of thousands of messages takes a tenth of it, in a second or so. */
const MOST_STEPS = 5_000_000;
/** Steps that the turn of a loop counts as, by the time that the package takes. */
const TURN_STEPS = 20;
/** Elements of a list, and characters of a text. */
const MOST_ITEMS = 100_000;
const MOST_TEXT = 2 ** 26;

/** Llama 3's template writes today's date if it gets none. The tokens of a run must not depend on the day. */
const DATE_STRING = '26 Jul 2024';
/** The same day, a Friday, by the letters of strftime. */
const DATE: Readonly<Record<string, string>> = {
  ...{Y: '2024', y: '24', m: '07', '-m': '7', B: 'July', b: 'Jul', h: 'Jul', d: '26', '-d': '26', e: '26', j: '208'},
  ...{A: 'Friday', a: 'Fri', H: '00', I: '12', M: '00', S: '00', p: 'AM', Z: 'UTC', z: '+0000', F: '2024-07-26'},
  '%': '%',
};

export class ChatTemplate {
  private readonly program: unknown;

  /** @throws Error for a template that is too long or cannot be parsed. */
  constructor(source: string) {
    if (source.length > MOST_CHARACTERS) {
      throw new Error(`it must have at most ${MOST_CHARACTERS} characters, got ${source.length}`);
    }
    this.program = parse(tokenize(source, {lstrip_blocks: true, trim_blocks: true}));
  }

  /** @throws Error if the template raises one, or takes too long. */
  render(variables: Readonly<Record<string, unknown>>): string {
    const environment = new Environment();
    const values = {...globals(), date_string: DATE_STRING, ...variables};
    Object.entries(values).forEach(([name, value]) => environment.set(name, value));
    return new BoundedInterpreter(environment).run(this.program).value as string;
  }
}

/** What templates find without being given it, as in transformers. */
function globals(): Record<string, unknown> {
  const constants = {true: true, false: false, none: null, True: true, False: false, None: null};
  const raise = (message: string): never => {
    throw new Error(message);
  };
  return {...constants, raise_exception: raise, range, strftime_now: strftime};
}

function range(first: number, second?: number, step = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (!(length <= MOST_ITEMS)) throw new Error(`range() must give at most ${MOST_ITEMS} numbers, got ${length}`);
  return Array.from({length}, (_, i) => start + i * step);
}

/** @example strftime('%d %B %Y') // '26 July 2024' */
function strftime(format: string): string {
  return format.replace(/%(-?.)/g, (text, letter: string) => {
    const part = DATE[letter];
    if (part === undefined) throw new Error(`strftime_now() must get letters that it knows, got ${text}`);
    return part;
  });
}

class BoundedInterpreter extends Interpreter {
  private steps = 0;

  override evaluate(statement: Statement | undefined, environment: Environment): Value {
    if (sortsByLocale(statement)) throw new Error("tojson(sort_keys) sorts by the machine's language here");
    const result = super.evaluate(statement, environment);
    const {value} = result;
    this.count(value);
    if (Array.isArray(value) && value.length > MOST_ITEMS) throw new Error(`a list has more than ${MOST_ITEMS} items`);
    if (typeof value === 'string' && value.length > MOST_TEXT) {
      throw new Error(`a text has more than ${MOST_TEXT} characters`);
    }
    return result;
  }

  override evaluateBlock(statements: Statement[], environment: Environment): Value {
    this.steps += TURN_STEPS;
    return super.evaluateBlock(statements, environment);
  }

  /** Long values count more, because what is done with them takes longer. */
  private count(value: unknown): void {
    this.steps += 1 + (Array.isArray(value) ? value.length / 16 : typeof value === 'string' ? value.length / 256 : 0);
    if (this.steps > MOST_STEPS) throw new Error(`it must end within ${MOST_STEPS} steps`);
  }
}

function sortsByLocale(statement: Statement | undefined): boolean {
  const filter = statement?.filter;
  return filter?.callee?.value === 'tojson' && (filter.args ?? []).some(({key}) => key?.value === 'sort_keys');
}
