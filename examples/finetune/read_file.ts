/** @file Reads text and JSON files that may be hostile, in bounded time and memory. Each error names the file. */
import {constants} from 'node:fs';
import {type FileHandle, open} from 'node:fs/promises';

/** More than the tokenizer.json of any model (40 MB), and less than the longest string of V8. */
const MOST_BYTES = 2 ** 28;
/** Real files nest a dozen levels. JSON.parse takes any number, and JSON.stringify would overflow the stack. */
const MOST_DEPTH = 100;

/**
 * The text of a file.
 *
 * @throws Error that names the file, with the system's `code`: if it cannot be opened, is no regular file (a device or
 *   a pipe might never end), or has more than `most` bytes.
 */
export async function readTextFile(path: string, most = MOST_BYTES): Promise<string> {
  let file: FileHandle;
  try {
    // Without O_NONBLOCK a named pipe would block.
    file = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  } catch (error) {
    const {code, message} = error as NodeJS.ErrnoException;
    const why = code === 'ENOENT' ? 'there is no such file' : message;
    throw Object.assign(new Error(`Cannot read ${path}: ${why}.`, {cause: error}), {code});
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw new Error(`${path} must be a file, got ${stat.isDirectory() ? 'a folder' : 'no file'}.`);
    if (stat.size > most) throw new Error(`${path} must have at most ${most} bytes, got ${stat.size}.`);
    return await file.readFile('utf8');
  } finally {
    await file.close();
  }
}

/** The value of a JSON file. Throws as `readTextFile` does, and for text that is no JSON or nests too deeply. */
export async function readJsonFile(path: string, most?: number): Promise<unknown> {
  const text = await readTextFile(path, most);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`${path} is not JSON: ${(error as Error).message}.`, {cause: error});
  }
  const depth = depthOf(text);
  if (depth > MOST_DEPTH) throw new Error(`${path} must nest at most ${MOST_DEPTH} levels of JSON, got ${depth}.`);
  return value;
}

/** The object of a JSON file. Throws as `readJsonFile` does, and for another value. */
export async function readJsonObject(path: string, most?: number): Promise<Record<string, unknown>> {
  const value = await readJsonFile(path, most);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error(`${path} is not a JSON object.`);
  }
  return value as Record<string, unknown>;
}

/** Levels of valid JSON. */
export function depthOf(json: string): number {
  let [depth, deepest, inString] = [0, 0, false];
  for (let at = 0; at < json.length; at++) {
    const character = json[at];
    if (character === '"') inString = !inString;
    else if (inString) at += character === '\\' ? 1 : 0;
    else if (character === '{' || character === '[') deepest = Math.max(deepest, ++depth);
    else if (character === '}' || character === ']') depth--;
  }
  return deepest;
}
