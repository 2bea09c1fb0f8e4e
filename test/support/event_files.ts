/** @file Reads the scalars in a folder of event files, which TensorBoard shows. */
import {readFileSync, readdirSync} from 'node:fs';
import {join} from 'node:path';
import {fieldsOf} from '../../src/backends/tensorflow/traced/protobuf.js';

/** `name`, `step` and `value` of each scalar, in the order of the files. */
export function readScalars(folder: string): {name: string; step: number; value: number}[] {
  const files = readdirSync(folder).sort();
  return files.flatMap((file) => recordsOf(readFileSync(join(folder, file))).flatMap(scalarsOf));
}

/** The records of a TFRecord file: a length of 8 bytes and its checksum of 4, the bytes, their checksum of 4. */
function recordsOf(bytes: Buffer): Uint8Array[] {
  const records: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = at + 12 + Number(bytes.readBigUInt64LE(at));
    records.push(bytes.subarray(at + 12, end));
    at = end + 4;
    if (at > bytes.length) throw new Error('a record is not whole');
  }
  return records;
}

/** Event: 2 step, 5 summary. Summary: 1 values. Value: 1 tag, 2 simple_value. */
function scalarsOf(event: Uint8Array): ReturnType<typeof readScalars> {
  const fields = fieldsOf(event);
  const step = fields.find(({field}) => field === 2)?.int ?? 0;
  const values = fields.filter(({field}) => field === 5).flatMap(({bytes}) => fieldsOf(bytes));
  return values.map((value) => {
    const [tag, number] = [1, 2].map((field) => fieldsOf(value.bytes).find((own) => own.field === field)!.bytes);
    const [float] = new Float32Array(Uint8Array.from(number).buffer);
    return {name: new TextDecoder().decode(tag), step, value: float};
  });
}
