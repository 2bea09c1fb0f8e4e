/** @file Reads JSON lines and JSON lists item by item, so that memory never holds a whole file. */
import {createReadStream} from 'node:fs';
import {stat} from 'node:fs/promises';

/** One item of a file. */
export interface JsonItem {
  /** Counts from 0, without blank lines. */
  index: number;
  /** `line 3` or `item 3`, counted from 1, for messages. */
  place: string;
  value: unknown;
  /** Length in the file, in bytes. */
  bytes: number;
}

/** Called with the problem of an item that is left out. */
export type SkipBad = (problem: string) => void;

export interface ReadOptions {
  /** The items [first, end) to read. Default: all. */
  first?: number;
  end?: number;
  /** Called for each item that is not JSON, which is then left out. Without `onBad` such an item throws. */
  onBad?: SkipBad;
}

/** The bytes of an item, before parsing. */
interface Slice {
  index: number;
  place: string;
  bytes: Buffer;
  /** The problem with the slice as a whole, if any. */
  problem?: string;
}

/** A longer item counts as damage, because V8's strings end at 512 MB. */
const MAX_ITEM_BYTES = 2 ** 28;

const [NEWLINE, QUOTE, COMMA, BACKSLASH] = [0x0a, 0x22, 0x2c, 0x5c];
const [LIST_START, LIST_END, OBJECT_START, OBJECT_END] = [0x5b, 0x5d, 0x7b, 0x7d];
const BLANKS: ReadonlySet<number> = new Set([0x20, 0x09, 0x0a, 0x0d]);

/**
 * Items of a JSON list (a file that starts with `[`) or of JSON lines (any other file), in order. Memory holds one item
 * and the piece of the file being read.
 *
 * @throws Error that names the file and the line or the number of the item, counted from 1.
 */
export async function* readJsonItems(path: string, options: ReadOptions = {}): AsyncGenerator<JsonItem> {
  const {first = 0, end = Infinity, onBad} = options;
  for await (const slice of slices(path)) {
    const {index, place, bytes} = slice;
    if (index < first) continue;
    if (index >= end) return;
    try {
      yield {index, place, value: parseSlice(slice), bytes: bytes.length};
    } catch (error) {
      if (!(error instanceof BadItem)) throw error;
      const problem = `${path}, ${place}: ${error.message}`;
      if (onBad === undefined) throw new Error(`${problem} Fix it, or leave out such items with --skip-bad.`);
      onBad(problem);
    }
  }
}

/** The problem of one item, as opposed to the file. */
class BadItem extends Error {}

function parseSlice({index, bytes, problem}: Slice): unknown {
  if (problem !== undefined) throw new BadItem(problem);
  let text: string;
  try {
    text = new TextDecoder('utf-8', {fatal: true}).decode(bytes);
  } catch {
    throw new BadItem('this is not UTF-8 text.');
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    const types = index === 0 ? ' A file of data has one JSON object on each line, or is one JSON list.' : '';
    throw new BadItem(`this is not JSON: ${(error as Error).message}.${types}`);
  }
}

async function* slices(path: string): AsyncGenerator<Slice> {
  let splitter: LineSplitter | ListSplitter | null = null;
  for await (const piece of pieces(path)) {
    let rest = piece;
    if (splitter === null) {
      const start = rest.findIndex((byte) => !BLANKS.has(byte));
      if (start < 0) continue;
      splitter = rest[start] === LIST_START ? new ListSplitter() : new LineSplitter();
      if (splitter instanceof ListSplitter) rest = rest.subarray(start + 1);
    }
    yield* splitter.split(rest);
    splitter.checkLength(path);
  }
  if (splitter !== null) yield* splitter.finish();
}

/** The bytes of a file, without byte order mark. */
async function* pieces(path: string): AsyncGenerator<Buffer> {
  let first = true;
  try {
    const found = await stat(path);
    // A device or a pipe may never end, and data are read once for each epoch.
    if (!found.isFile() && !found.isDirectory()) throw Object.assign(new Error('it is no file'), {code: 'ENOTSUP'});
    for await (const piece of createReadStream(path, {highWaterMark: 2 ** 18})) {
      const bytes = piece as Buffer;
      const mark = first && bytes.subarray(0, 3).equals(Buffer.from([0xef, 0xbb, 0xbf])) ? 3 : 0;
      first = false;
      yield bytes.subarray(mark);
    }
  } catch (error) {
    const {code, message} = error as NodeJS.ErrnoException;
    if (code === undefined) throw error;
    const why = code === 'ENOENT' ? 'there is no such file' : code === 'EISDIR' ? 'it is a folder' : message;
    throw new Error(`Cannot read the data ${path}: ${why}.`, {cause: error});
  }
}

/** Bytes of the item being read, across the pieces of the file that it spans. */
class Pending {
  private parts: Buffer[] = [];
  private length = 0;
  protected index = 0;

  /** Throws on a file without line breaks, or on a list that never ends, before it fills the memory. */
  checkLength(path: string): void {
    if (this.length <= MAX_ITEM_BYTES) return;
    const item = `An item of ${path} is longer than ${MAX_ITEM_BYTES / 2 ** 20} MB`;
    throw new Error(`${item} (after ${this.index} whole ones): is it a list of JSON objects, or one on each line?`);
  }

  protected keep(bytes: Buffer): void {
    if (bytes.length === 0) return;
    this.parts.push(bytes);
    this.length += bytes.length;
  }

  protected take(): Buffer {
    const bytes = Buffer.concat(this.parts);
    this.parts = [];
    this.length = 0;
    return bytes;
  }
}

/** JSON lines: a line break ends an item, and blank lines are not items. */
class LineSplitter extends Pending {
  private line = 1;

  *split(piece: Buffer): Generator<Slice> {
    let start = 0;
    for (let end = piece.indexOf(NEWLINE); end >= 0; end = piece.indexOf(NEWLINE, start)) {
      this.keep(piece.subarray(start, end));
      yield* this.finish();
      this.line++;
      start = end + 1;
    }
    this.keep(piece.subarray(start));
  }

  *finish(): Generator<Slice> {
    const bytes = this.take();
    if (!isBlank(bytes)) yield {index: this.index++, place: `line ${this.line}`, bytes};
  }
}

/** A JSON list: commas between its items, found by counting brackets outside of strings. */
class ListSplitter extends Pending {
  private depth = 1;
  private inString = false;
  private escaped = false;
  private separated = false;

  *split(piece: Buffer): Generator<Slice> {
    let start = 0;
    for (let i = 0; i < piece.length; i++) {
      if (!this.endsItem(piece[i])) continue;
      this.keep(piece.subarray(start, i));
      start = i + 1;
      yield* this.endItem(piece[i] === COMMA);
    }
    this.keep(piece.subarray(start));
  }

  /** Checks the end of the file: after the list, or in the middle of it. */
  *finish(): Generator<Slice> {
    const bytes = this.take();
    const blank = isBlank(bytes);
    if (this.depth === 0) {
      if (!blank) yield this.slice(bytes, 'there is text after the end of the list.');
    } else {
      yield this.slice(bytes, `the file ends ${blank ? 'before the list does' : 'within this item'}: it is cut off.`);
    }
  }

  private *endItem(comma: boolean): Generator<Slice> {
    const bytes = this.take();
    const blank = isBlank(bytes);
    // `[]` has no items, but in `[1, ]` and `[, 1]` one is missing.
    if (!blank) yield this.slice(bytes);
    else if (comma || this.separated) yield this.slice(bytes, 'there is a comma but no item.');
    this.separated = comma;
  }

  private slice(bytes: Buffer, problem?: string): Slice {
    const index = this.index++;
    return {index, place: `item ${index + 1}`, bytes, problem};
  }

  /** Whether this byte ends an item: a comma between items, or the end of the list. */
  private endsItem(byte: number): boolean {
    if (this.depth === 0) return false;
    if (this.inString) {
      if (this.escaped) this.escaped = false;
      else if (byte === BACKSLASH) this.escaped = true;
      else if (byte === QUOTE) this.inString = false;
      return false;
    }
    if (byte === COMMA) return this.depth === 1;
    if (byte === QUOTE) this.inString = true;
    else if (byte === LIST_START || byte === OBJECT_START) this.depth++;
    else if (byte === LIST_END || byte === OBJECT_END) return --this.depth === 0;
    return false;
  }
}

function isBlank(bytes: Buffer): boolean {
  return bytes.every((byte) => BLANKS.has(byte));
}
