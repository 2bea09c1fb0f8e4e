/** @file Typed look-ups in the metadata of a .gguf file, with errors that name the file and the key. */
import type {GgufValue} from './gguf.js';

export class Metadata {
  constructor(
    private readonly values: ReadonlyMap<string, GgufValue>,
    readonly path: string,
  ) {}

  /** Throws if there is no such text and no default. */
  text(key: string, otherwise?: string): string {
    return this.get(key, 'a text', (value) => typeof value === 'string', otherwise);
  }

  boolean(key: string, otherwise: boolean): boolean {
    return this.get(key, 'true or false', (value) => typeof value === 'boolean', otherwise);
  }

  /** A number. float32 numbers come in their shortest decimal form: 1e-5, not 0.000009999999747378752. */
  number(key: string, otherwise?: number): number {
    const value = this.get(key, 'a number', (value) => typeof value === 'number', otherwise);
    return Number.isInteger(value) ? value : shortest(value);
  }

  optionalNumber(key: string): number | null {
    return this.values.has(key) ? this.number(key) : null;
  }

  optionalText(key: string): string | null {
    return this.values.has(key) ? this.text(key) : null;
  }

  texts(key: string): string[] {
    const every = (value: unknown): value is string[] =>
      isList(value) && value.every((text) => typeof text === 'string');
    return this.get(key, 'a list of texts', every);
  }

  numbers(key: string, otherwise?: number[]): number[] {
    const every = (value: unknown): value is number[] => isList(value) && value.every((one) => typeof one === 'number');
    return this.get(key, 'a list of numbers', every, otherwise);
  }

  private get<T>(key: string, kind: string, is: (value: unknown) => value is T, otherwise?: T): T {
    const value = this.values.get(key) ?? otherwise;
    if (!is(value)) {
      const got = value === undefined ? 'nothing' : JSON.stringify(value).slice(0, 60);
      throw new Error(`${this.path}: its metadata ${key} should be ${kind}, got ${got}.`);
    }
    return value;
  }
}

/** The decimal with the fewest digits that is the same float32 number. Numbers that float32 cannot hold stay. */
function shortest(value: number): number {
  for (let digits = 1; digits <= 9; digits++) {
    const decimal = Number(value.toPrecision(digits));
    if (Math.fround(decimal) === value) return decimal;
  }
  return value;
}

function isList(value: unknown): value is unknown[] {
  return Array.isArray(value);
}
