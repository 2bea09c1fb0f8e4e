/** @file Files of records, a JSON object per line. */
import {appendFileSync, existsSync, mkdirSync, readFileSync} from 'node:fs';
import {dirname} from 'node:path';
import {checkRecord, latest, type BenchRecord} from './record.js';

/** Appends a line. Makes the folder. */
export function appendRecord(path: string, record: BenchRecord): void {
  mkdirSync(dirname(path), {recursive: true});
  appendFileSync(path, `${JSON.stringify(record)}\n`);
}

/**
 * The records of a file, the latest of each call; none without a file. Skips an incomplete last line of a killed run.
 */
export function readRecords(path: string): BenchRecord[] {
  if (!existsSync(path)) return [];
  const text = readFileSync(path, 'utf8');
  const lines = text
    .slice(0, text.lastIndexOf('\n') + 1)
    .split('\n')
    .filter(Boolean);
  return latest(lines.map((line) => checkRecord(JSON.parse(line) as BenchRecord, path)));
}
