/** @file Checks the fields of a JSON object from a file as they are read. */

/** Most characters of a value in a message, because a hostile value could fill the screen. */
const MOST_CHARACTERS = 200;

/** Every method throws an Error that names the file, the field and its value. A null field counts as absent. */
export class JsonFields {
  private readonly json: Record<string, unknown>;

  /** @param origin How error messages begin. */
  constructor(
    json: unknown,
    readonly origin: string,
  ) {
    if (typeof json !== 'object' || json === null || Array.isArray(json)) {
      throw new Error(`${origin} must be a JSON object, got ${shown(json)}.`);
    }
    this.json = json as Record<string, unknown>;
  }

  /** The value in the file, undefined if absent. */
  value(name: string): unknown {
    return this.json[name];
  }

  /** A short form of the value, for messages. */
  text(name: string): string {
    return shown(this.json[name]);
  }

  positiveInteger(name: string, ifMissing?: number): number {
    return this.read(name, 'a positive integer', (x) => Number.isSafeInteger(x) && (x as number) > 0, ifMissing);
  }

  positive(name: string, ifMissing?: number): number {
    return this.read(name, 'a positive number', (x) => Number.isFinite(x) && (x as number) > 0, ifMissing);
  }

  nonNegative(name: string, ifMissing?: number): number {
    return this.read(name, 'a number of 0 or more', (x) => Number.isFinite(x) && (x as number) >= 0, ifMissing);
  }

  boolean(name: string, ifMissing: boolean): boolean {
    return this.read(name, 'true or false', (x) => typeof x === 'boolean', ifMissing);
  }

  object(name: string): JsonFields {
    return new JsonFields(this.json[name], `${this.origin}: ${name}`);
  }

  strings(name: string): string[] | null {
    const isList = (x: unknown) => x === null || (Array.isArray(x) && x.every((item) => typeof item === 'string'));
    return this.read(name, 'a list of strings', isList, null as string[] | null);
  }

  /** One id or a list of ids; none if the field is null. */
  tokenIds(name: string, ifMissing: number | null): number[] {
    const given = this.json[name];
    const value = given === undefined ? ifMissing : given;
    const ids: unknown[] = value === null ? [] : Array.isArray(value) ? value : [value];
    if (!ids.every((id) => Number.isSafeInteger(id) && (id as number) >= 0)) {
      throw new Error(`${this.origin}: ${name} must be a token id or a list of them, got ${this.text(name)}.`);
    }
    return ids as number[];
  }

  private read<T>(name: string, what: string, isValid: (value: unknown) => boolean, ifMissing?: T): T {
    const value = this.json[name] ?? ifMissing;
    if (value === undefined || !isValid(value)) {
      throw new Error(`${this.origin}: ${name} must be ${what}, got ${shown(value)}.`);
    }
    return value as T;
  }
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)}…` : text;
}
