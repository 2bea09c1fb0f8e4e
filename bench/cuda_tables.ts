/**
 * @file Tables of what bench/cuda/bench.py recorded: the CUDA kernels next to PyTorch's attention; and of tfjs-node on a GPU next to
 * PyTorch's FlexAttention, where both have been timed on float32 tensors of the same sizes.
 */
import type {BenchRecord} from './report.js';
import {type Column, figure, table, times} from './tables.js';

/** A line of bench.py's --out: an attention by our kernels, or by one of PyTorch's. */
export interface CudaRecord {
  backend: 'cuda';
  device: string;
  mask: string;
  B: number;
  N: number;
  H: number;
  Hkv: number;
  D: number;
  sparsity: number;
  attention: 'flash' | 'flex' | 'cudnn' | 'fa2';
  /** Type of the tensors. */
  input: 'bfloat16' | 'float16' | 'float32';
  /** Of our kernels, from float32 tensors. */
  precision?: string;
  forwardMs?: number;
  backwardMs?: number;
  forwardTflops?: number;
  backwardTflops?: number;
}

export const isCudaRecord = (record: {backend: string}): record is CudaRecord => record.backend === 'cuda';

/** What one call took by each attention. */
interface Row {
  flash: CudaRecord;
  others: Partial<Record<CudaRecord['attention'], CudaRecord>>;
}

type Timed = Pick<BenchRecord, 'forwardMs' | 'backwardMs' | 'forwardTflops' | 'backwardTflops'>;

const both = ({forwardMs = NaN, backwardMs = NaN}: Timed): number => forwardMs + backwardMs;
const callOf = ({device, mask, B, N, H, Hkv, D, input}: CudaRecord): string =>
  [device, input, mask, B, N, H, Hkv, D].join(' ');
const speeds = (x?: Timed): string => (x ? `${figure(x.forwardTflops)} / ${figure(x.backwardTflops)}` : '–');
const faster = (ours: Timed, theirs?: Timed): string => (theirs ? times(both(theirs) / both(ours)) : '–');

/** Where a call was measured twice, the later line counts. */
function rowsOf(records: readonly CudaRecord[]): Row[] {
  const calls = new Map<string, Row['others']>();
  for (const record of records) {
    const call = calls.get(callOf(record)) ?? {};
    call[record.attention] = record;
    calls.set(callOf(record), call);
  }
  return [...calls.values()].flatMap((others) => (others.flash ? [{flash: others.flash, others}] : []));
}

const CALL: Column<Row>[] = [
  ['mask', ({flash}) => `\`${flash.mask}\``],
  ['N', ({flash}) => String(flash.N)],
  ['D', ({flash}) => String(flash.D)],
  ['masked', ({flash}) => `${(100 * flash.sparsity).toFixed(1)}%`],
];

const NEXT_TO_PYTORCH: Column<Row>[] = [
  ...CALL,
  ['ms forward / backward', ({flash}) => `${figure(flash.forwardMs)} / ${figure(flash.backwardMs)}`],
  ['TFLOP/s forward / backward', ({flash}) => speeds(flash)],
  ['FlexAttention', ({others}) => speeds(others.flex)],
  ['faster', ({flash, others}) => faster(flash, others.flex)],
  ['SDPA, cuDNN', ({others}) => speeds(others.cudnn)],
  ['SDPA, FlashAttention 2', ({others}) => speeds(others.fa2)],
];

/** How the sizes that all rows share are named. */
function sizesOf({flash: {B, H, Hkv}}: Row): string {
  return `B ${B}, H ${H}${Hkv === H ? '' : `, Hkv ${Hkv}`}`;
}

/** The kernels next to PyTorch, a table for each device, type of tensors and heads. */
export function cudaTables(records: readonly CudaRecord[]): string[] {
  const groups = new Map<string, Row[]>();
  for (const row of rowsOf(records)) {
    const title = `**${row.flash.device}**, CUDA kernels on ${row.flash.input} tensors, ${sizesOf(row)}`;
    groups.set(title, [...(groups.get(title) ?? []), row]);
  }
  return [...groups].flatMap(([title, rows]) => [
    `${title}, next to PyTorch's attention in the same run:`,
    table(NEXT_TO_PYTORCH, rows),
  ]);
}

/** A call in tfjs-node, and FlexAttention's on float32 tensors. */
interface NodeRow {
  node: BenchRecord;
  flex: CudaRecord;
}

const NODE: Column<NodeRow>[] = [
  ['mask', ({node}) => `\`${node.mask}\``],
  ['N', ({node}) => String(node.N)],
  ['H', ({node}) => String(node.H)],
  ['D', ({node}) => String(node.D)],
  ['tfjs-node, TFLOP/s forward / backward', ({node}) => speeds(node)],
  ['FlexAttention, TF32', ({flex}) => speeds(flex)],
  ['faster', ({node, flex}) => faster(node, flex)],
];

/** tfjs-node against FlexAttention on float32 tensors, where the same device ran the same call. */
export function nodeTables(node: readonly BenchRecord[], cuda: readonly CudaRecord[]): string[] {
  const flexOf = ({device, mask, N, H, D}: BenchRecord): CudaRecord | undefined =>
    cuda.find(
      (r) =>
        r.attention === 'flex' && r.input === 'float32' && r.B === 1 && r.H === H && r.Hkv === H &&
        r.device === device && r.mask === mask && r.N === N && r.D === D,
    ); // prettier-ignore
  const rows = node.flatMap((record): NodeRow[] => {
    const flex = flexOf(record);
    const ours = record.backend === 'tensorflow' && record.attention === 'flash' && record.forwardMs !== undefined;
    return flex && ours ? [{node: record, flex}] : [];
  });
  const devices = [...new Set(rows.map(({node: {device}}) => device))];
  return devices.flatMap((device) => [
    `**${device}**, \`tensorflow\` (tfjs-node), float32 tensors, against PyTorch's FlexAttention on float32 tensors:`,
    table(
      NODE,
      rows.filter((row) => row.node.device === device),
    ),
  ]);
}
