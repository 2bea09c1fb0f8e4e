/** @file Names the files of tables that people try as data, and what to do with them. */
import {closeSync, openSync, readSync} from 'node:fs';
import {extname} from 'node:path';

/** Kinds of tables, by the ends of their names. */
const ENDS: Readonly<Record<string, Table>> = {
  '.csv': {name: 'a CSV file', reader: 'read_csv'},
  '.tsv': {name: 'a TSV file', reader: 'read_table'},
  '.parquet': {name: 'a Parquet file', reader: 'read_parquet'},
  '.arrow': {name: 'an Arrow file', reader: 'read_feather'},
  '.xlsx': {name: 'an Excel file', reader: 'read_excel'},
};
/** Kinds by the first bytes of a file, whatever it is called. */
const STARTS: Readonly<Record<string, Table>> = {
  PAR1: ENDS['.parquet'],
  ARRO: ENDS['.arrow'],
  'PK\x03\x04': ENDS['.xlsx'],
};

interface Table {
  name: string;
  /** The function of Python's pandas that reads it. */
  reader: string;
}

/** @throws Error for a file that is a table, with the way to convert it. */
export function checkFileType(path: string): void {
  const table = STARTS[firstBytes(path)] ?? ENDS[extname(path).toLowerCase()];
  if (table === undefined) return;
  const lines = `${path.slice(0, path.length - extname(path).length)}.jsonl`;
  throw new Error(
    `--data: ${path} is ${table.name}, which is not read. Give JSON lines (.jsonl) or a JSON list (.json), in Python: ` +
      `pandas.${table.reader}(${JSON.stringify(path)}).to_json(${JSON.stringify(lines)}, orient="records", lines=True)`,
  );
}

function firstBytes(path: string): string {
  const file = openSync(path, 'r');
  try {
    const bytes = Buffer.alloc(4);
    return bytes.toString('latin1', 0, readSync(file, bytes));
  } finally {
    closeSync(file);
  }
}
