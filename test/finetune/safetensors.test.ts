/**
 * @file .safetensors files of the fine-tuning example: round trips, files written by Python's `safetensors`, and
 * truncated or malicious files.
 */
import {execFileSync} from 'node:child_process';
import {existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, truncateSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect} from 'chai';
import * as fc from 'fast-check';
import type {HostTensor} from '../../examples/finetune/host_tensor.js';
import {bfloat16ToFloat32, float16ToFloat32} from '../../examples/finetune/weights/float16.js';
import {openSafetensors, shapesOf, writeSafetensors} from '../../examples/finetune/weights/safetensors.js';
import {expectClearErrorOrTensors, rejection} from '../support/hostile_files.js';
import {skip} from '../support/skip.js';
import {askJudge, reasonToSkipJudge} from '../support/weights_judge.js';

let folder = '';
let path = '';

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'safetensors-'));
  path = join(folder, 'a.safetensors');
});

after(() => rmSync(folder, {recursive: true, force: true}));

async function readAll(): Promise<Map<string, HostTensor>> {
  const file = await openSafetensors(path);
  try {
    const tensors = new Map<string, HostTensor>();
    for (const name of file.entries.keys()) {
      tensors.set(name, await file.read(name));
    }
    return tensors;
  } finally {
    await file.close();
  }
}

/** A file with any header, as text or JSON, and any number of data bytes. */
function fileOf(header: unknown, dataBytes: number): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, Buffer.alloc(dataBytes, 1)]);
}

const range = (count: number): Float32Array => Float32Array.from({length: count}, (_, i) => i + 0.5);

describe('safetensors', () => {
  it('reads what it wrote, whatever the names, shapes and order', async () => {
    const tensor = fc.array(fc.nat(4), {maxLength: 4}).map((shape): HostTensor => {
      return {shape, data: range(shape.reduce((product, size) => product * size, 1))};
    });
    const name = fc.oneof(fc.string({unit: 'grapheme'}), fc.constantFrom('__proto__', '7', 'constructor', '"\\'));
    const tensors = fc.uniqueArray(fc.tuple(name, tensor), {selector: ([text]) => text, maxLength: 6});
    const metadata = fc.dictionary(fc.string(), fc.string(), {maxKeys: 3});
    await fc.assert(
      fc.asyncProperty(tensors, metadata, async (list, texts) => {
        await writeSafetensors(path, shapesOf(list), [...list].reverse(), texts);
        expect([...(await readAll())].sort()).to.deep.equal([...list].sort());
        const file = await openSafetensors(path);
        expect(file.metadata).to.deep.equal(texts);
        await file.close();
      }),
      {seed: 1, numRuns: 60},
    );
    expect(readdirSync(folder)).to.deep.equal(['a.safetensors']);
  });

  it('writes tensors that are made one after another', async () => {
    async function* make(): AsyncGenerator<[string, HostTensor]> {
      for (const name of ['b', 'a']) {
        yield [name, {shape: [2, 3], data: range(6)}];
      }
    }
    await writeSafetensors(path, new Map(['a', 'b'].map((name) => [name, [2, 3]])), make());
    expect((await readAll()).get('b')).to.deep.equal({shape: [2, 3], data: range(6)});
  });

  it('leaves the old file and no other when the tensors are not those it was told', async () => {
    await writeSafetensors(path, new Map([['old', [1]]]), [['old', {shape: [1], data: range(1)}]]);
    const old = readFileSync(path);
    const shapes = new Map([['x', [2]]]);
    const write = (tensors: [string, HostTensor][]) => rejection(writeSafetensors(path, shapes, tensors));
    const x: [string, HostTensor] = ['x', {shape: [2], data: range(2)}];
    expect(await write([])).to.match(/no numbers came for x/);
    expect(await write([['y', x[1]]])).to.match(/got y of shape \[2\].*no such tensor was still to come/);
    expect(await write([['x', {shape: [1, 2], data: range(2)}]])).to.match(/got x of shape \[1,2\].*one of \[2\]/);
    expect(await write([['x', {shape: [2], data: range(3)}]])).to.match(/with 3 numbers/);
    expect(await write([x, x])).to.match(/got x of shape \[2\].*no such tensor was still to come/);
    expect(readFileSync(path)).to.deep.equal(old);
    expect(readdirSync(folder)).to.deep.equal(['a.safetensors']);
  });

  it('reads half precision: every bfloat16, and float16 of every kind', () => {
    const bits = Uint16Array.from({length: 65536}, (_, i) => i);
    const bytes = new Uint8Array(bits.buffer);
    const [half, brain] = [new Float32Array(65536), new Float32Array(65536)];
    float16ToFloat32(bytes, half);
    bfloat16ToFloat32(bytes, brain);
    const upper = Float32Array.from(new Float32Array(Uint32Array.from(bits, (value) => value << 16).buffer));
    expect(brain).to.deep.equal(upper);
    const kinds: [number, number][] = [
      ...([
        [0x3c00, 1],
        [0xc000, -2],
        [0x3555, 0.333251953125],
        [0x7bff, 65504],
        [0x0400, 2 ** -14],
      ] as const),
      ...([
        [0x0001, 2 ** -24],
        [0x83ff, -1023 * 2 ** -24],
        [0x7c00, Infinity],
        [0xfc00, -Infinity],
        [0x8000, -0],
      ] as const),
    ].map(([pattern, number]) => [pattern, number]);
    for (const [pattern, number] of kinds) {
      expect(half[pattern], pattern.toString(16)).to.equal(number);
    }
    expect(half[0x7e00]).to.be.NaN;
  });

  it('reads large half-precision tensors piece by piece', async () => {
    const count = 5 * 2 ** 20 + 3;
    const header = fileOf({x: {dtype: 'BF16', shape: [count], data_offsets: [0, 2 * count]}}, 0);
    const data = Uint16Array.from({length: count}, (_, i) => i % 0x7f80);
    writeFileSync(path, Buffer.concat([header, new Uint8Array(data.buffer)]));
    const x = (await readAll()).get('x')!.data;
    const expected = new Float32Array(Uint32Array.from(data, (bits) => bits << 16).buffer);
    expect(Buffer.compare(Buffer.from(x.buffer), Buffer.from(expected.buffer))).to.equal(0);
  });
});

describe('safetensors that are damaged or hostile', () => {
  const entry = (shape: unknown, offsets: unknown, dtype: unknown = 'F32') => ({dtype, shape, data_offsets: offsets});
  const cases: [string, Buffer, RegExp][] = [
    ['nothing', Buffer.alloc(0), /has 0 bytes/],
    ['less than its length', Buffer.alloc(7), /has 7 bytes/],
    [
      'a header beyond the file',
      Buffer.concat([Buffer.from('ffffffffffffffff', 'hex'), Buffer.from('{}')]),
      /should have 18446744073709551615 bytes, but the file has 10/,
    ],
    ['no JSON', fileOf('{"a": ', 0), /its header is not JSON/],
    ['a list', fileOf([], 0), /not a JSON object/],
    ['null', fileOf('null', 0), /not a JSON object/],
    ['metadata that are no texts', fileOf({__metadata__: {a: 1}}, 0), /__metadata__ is not an object of texts/],
    ['a tensor that is no object', fileOf({a: [1]}, 0), /tensor "a" is not described by an object/],
    ['a type that is no text', fileOf({a: entry([1], [0, 4], 33)}, 4), /has the type 33, which should be a text/],
    ['no shape', fileOf({a: {dtype: 'F32', data_offsets: [0, 4]}}, 4), /has the shape undefined/],
    ['a negative length', fileOf({a: entry([-1, -1], [0, 4])}, 4), /has the shape \[ -1, -1 \]/],
    ['a broken length', fileOf({a: entry([0.5, 2], [0, 4])}, 4), /has the shape/],
    ['a length of text', fileOf({a: entry(['1'], [0, 4])}, 4), /has the shape/],
    ['lengths that overflow', fileOf({a: entry([2 ** 40, 2 ** 40], [0, 4])}, 4), /takes Infinity bytes/],
    ['lengths that wrap to 0', fileOf({a: entry([2 ** 32, 2 ** 32], [0, 0])}, 0), /takes Infinity bytes/],
    ['a negative offset', fileOf({a: entry([1], [-4, 0])}, 0), /data_offsets \[ -4, 0 \]/],
    ['offsets in the wrong order', fileOf({a: entry([1], [4, 0])}, 4), /data_offsets \[ 4, 0 \]/],
    ['three offsets', fileOf({a: entry([1], [0, 4, 8])}, 4), /data_offsets/],
    [
      'other bytes than its shape takes',
      fileOf({a: entry([2], [0, 4])}, 4),
      /takes 8 bytes, but its data_offsets span 4/,
    ],
    [
      'a tensor beyond the file',
      fileOf({a: entry([2 ** 30], [0, 2 ** 32])}, 4),
      /ends at byte \d+, but the file has \d+: it is truncated/,
    ],
    ['overlapping tensors', fileOf({a: entry([2], [0, 8]), b: entry([2], [4, 12])}, 12), /tensor "b" overlaps/],
    ['the same bytes twice', fileOf({a: entry([1], [0, 4]), b: entry([1], [0, 4])}, 4), /overlaps/],
    ['a hole', fileOf({a: entry([1], [0, 4]), b: entry([1], [8, 12])}, 12), /leaves 4 bytes before it unused/],
    ['bytes of no tensor', fileOf({a: entry([1], [0, 4])}, 9), /tensors end at byte \d+, but the file has/],
    [
      'a tensor twice',
      fileOf(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\\u0061" : {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        4,
      ),
      /has "\\u0061" twice/,
    ],
    [
      'deep nesting',
      fileOf(`{"a":{"dtype":"F32","shape":${'['.repeat(9000)}${']'.repeat(9000)},"data_offsets":[0,4]}}`, 4),
      /has the shape/,
    ],
  ];
  for (const [what, bytes, message] of cases) {
    it(`refuses ${what}`, async () => {
      writeFileSync(path, bytes);
      const text = await rejection(openSafetensors(path));
      expect(text).to.match(message);
      expect(text).to.include(path);
    });
  }

  it('takes nested keys and brackets in names for what they are', async () => {
    const x = entry([1], [0, 4]);
    writeFileSync(path, fileOf({__metadata__: {a: '{"a": {"a":'}, a: x, '{"a": [': entry([1], [4, 8])}, 8));
    expect([...(await readAll()).keys()]).to.deep.equal(['a', '{"a": [']);
  });

  it('names a type that is not read, and a tensor that is not there', async () => {
    writeFileSync(path, fileOf({a: entry([1], [0, 8], 'I64')}, 8));
    const file = await openSafetensors(path);
    expect(await rejection(file.read('a'))).to.match(/a is of type I64. Only F32, F16 and BF16/);
    expect(await rejection(file.read('b'))).to.match(/has no tensor b/);
    await file.close();
    expect(await rejection(openSafetensors(join(folder, 'absent')))).to.match(/Cannot read .*absent \(ENOENT\)/);
    expect(await rejection(openSafetensors(folder))).to.match(/is no file/);
  });

  it('does not wait for a named pipe', async function () {
    if (process.platform === 'win32') skip(this, 'Windows has no named pipes in folders');
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    expect(await rejection(openSafetensors(pipe))).to.match(/pipe is no file/);
    rmSync(pipe);
  });

  it('notices a file that shrinks while it is read', async () => {
    writeFileSync(path, fileOf({a: entry([64], [0, 256])}, 256));
    const file = await openSafetensors(path);
    truncateSync(path, 200);
    expect(await rejection(file.read('a'))).to.match(/ends at byte 200, while it is being read/);
    await file.close();
  });

  it('reads what it knows beside a tensor of a type of tomorrow, and takes no metadata for none', async () => {
    const header = {__metadata__: null, a: entry([1], [0, 4]), b: entry([9], [4, 7], 'F6_E2M3')};
    writeFileSync(path, fileOf(header, 7));
    const file = await openSafetensors(path);
    expect((await file.read('a')).shape).to.deep.equal([1]);
    expect(await rejection(file.read('b'))).to.include('b is of type F6_E2M3. Only F32, F16 and BF16 are supported.');
    expect(file.metadata).to.deep.equal({});
    await file.close();
    writeFileSync(path, fileOf({...header, b: entry([9], [4, 8], 'F6_E2M3')}, 7));
    expect(await rejection(openSafetensors(path))).to.include('it is truncated');
  });

  it('gives a clear error or sound tensors after any cut or change of bytes', async function () {
    this.timeout(120_000);
    const halves = entry([3], [16, 22], 'BF16');
    const sound = fileOf(
      {__metadata__: {format: 'pt'}, w: entry([2, 2], [0, 16]), v: halves, e: entry([0], [22, 22])},
      22,
    );
    await expectClearErrorOrTensors(path, sound, async () => [...(await readAll()).values()]);
    expect(existsSync(path)).to.equal(true);
  });
});

const reason = reasonToSkipJudge('torch', 'safetensors');

(reason ? describe.skip : describe)(`safetensors judged by Python${reason && ` (${reason})`}`, function () {
  this.timeout(120_000);

  it('reads the file that is written here', async () => {
    const tensors: [string, HostTensor][] = [
      ['model.b', {shape: [2, 3], data: range(6)}],
      ['model.a', {shape: [], data: range(1)}],
      ['z', {shape: [0, 4], data: range(0)}],
    ];
    await writeSafetensors(path, shapesOf(tensors), tensors, {format: 'pt', step: '7'});
    const tensor = (shape: number[], numbers: Float32Array) => ({dtype: 'torch.float32', shape, numbers: [...numbers]});
    expect(askJudge('read_safetensors', {path})).to.deep.equal({
      metadata: {format: 'pt', step: '7'},
      tensors: {'model.a': tensor([], range(1)), 'model.b': tensor([2, 3], range(6)), z: tensor([0, 4], range(0))},
    });
  });

  it('wrote a file of every type that is read here', async () => {
    const expected = askJudge('write_safetensors', {path}) as Record<string, string[]>;
    const tensors = await readAll();
    expect([...tensors.keys()].sort()).to.deep.equal(['torch.bfloat16', 'torch.float16', 'torch.float32']);
    for (const [name, {shape, data}] of tensors) {
      expect(shape).to.deep.equal([8, 12]);
      const numbers = expected[name].map((number) => Number(number.replace('inf', 'Infinity')));
      expect([...data], name).to.deep.equal(numbers);
    }
  });
});
