/** @file The page that measures attention on the visitor's own GPU, or on the CPU where there is none. */
import {paperMasks} from '../../bench/masks.js';
import type {BenchRecord} from '../../bench/record.js';
import type {Precision} from '../../src/call/kernel_names.js';
import {type Adapter, findAdapter} from '../shell/adapter.js';
import {byId, field, make, say} from '../shell/dom.js';
import {onTheme} from '../shell/theme.js';
import {onAnswer} from '../shell/worker_messages.js';
import {timeChart} from './chart.js';
import type {Answer, Order} from './messages.js';
import {tableRows} from './table.js';

/** The masks that are chosen at first. */
const FEW = ['full', 'causal', 'causalDocument', 'document', 'slidingWindow', 'globalSlidingWindow'];
const SIZES = {
  gpu: {N: 4096, H: 8, D: 64, seconds: 0.3},
  /** What a CPU can do while one waits. */
  cpu: {N: 256, H: 1, D: 16, seconds: 0.05},
};

const run = byId<HTMLButtonElement>('run');
const stop = byId<HTMLButtonElement>('stop');
const download = byId<HTMLButtonElement>('download');
const records: BenchRecord[] = [];
let worker: Worker | null = null;
let order: Order | null = null;
let adapter: Adapter | null = null;

function showAdapter(): void {
  field('backend').value = adapter === null ? 'cpu' : 'webgpu';
  byId('adapter').textContent = describe();
  byId('no-webgpu').hidden = adapter !== null;
  if (adapter === null) byId<HTMLSelectElement>('backend').options[0].disabled = true;
  showBackend();
}

/** The sizes for what computes, and its name. */
function showBackend(): void {
  const {N, H, D} = sizes();
  for (const [name, value] of Object.entries({N, H, D})) field(name).value = String(value);
  field('machine').value = field('backend').value === 'cpu' || adapter === null ? 'one CPU core' : adapter.name;
  showDevice();
}

function sizes(): typeof SIZES.gpu {
  const onGpu = field('backend').value === 'webgpu' && adapter?.software === false;
  return onGpu ? SIZES.gpu : SIZES.cpu;
}

function describe(): string {
  if (adapter === null) return 'This browser gives no WebGPU.';
  const has = (what: string, there: boolean): string => `${there ? '' : 'no '}${what}`;
  const kind = adapter.software ? ', computed by the CPU' : '';
  return `${adapter.name}${kind}: ${has('float16', adapter.float16)}, ${has('subgroup matrices', adapter.matrices)}.`;
}

/** Fields that say nothing for the chosen backend are off. */
function showDevice(): void {
  const onGpu = field('backend').value === 'webgpu';
  field('kind').disabled = !onGpu;
  field('precision').disabled = !onGpu || field('kind').value === 'stock';
  if (field('precision').disabled) field('precision').value = 'auto';
}

function chosenMasks(): string[] {
  return [...document.querySelectorAll<HTMLInputElement>('#masks input:checked')].map(({value}) => value);
}

function readOrder(): Order {
  const number = (id: string): number => Number(field(id).value);
  const backend = field('backend').value as Order['backend'];
  return {
    ...{backend, kind: field('kind').value as Order['kind'], precision: field('precision').value as Precision},
    machine: field('machine').value.trim() || backend,
    masks: chosenMasks(),
    ...{N: number('N'), H: number('H'), D: number('D')},
    seconds: sizes().seconds,
  };
}

function setRunning(running: boolean): void {
  run.disabled = running;
  stop.disabled = !running;
  download.disabled = running || records.length === 0;
  if (!running) {
    worker?.terminate();
    worker = null;
  }
}

function start(): void {
  order = readOrder();
  if (order.masks.length === 0) {
    say('Choose a mask first.');
    return;
  }
  records.length = 0;
  show();
  say('Starting the backend…');
  worker = new Worker(new URL('./worker.ts', import.meta.url), {type: 'module'});
  onAnswer(worker, hear);
  worker.postMessage(order);
  setRunning(true);
}

function hear(answer: Answer): void {
  switch (answer.type) {
    case 'started':
      byId('matrices').textContent = answer.matrices ? 'The kernels run on subgroup matrices.' : '';
      break;
    case 'measuring': {
      const done = Math.ceil(records.length / 2);
      say(`Measuring ${answer.mask}, ${answer.attention}: ${done} of ${order!.masks.length} masks done.`);
      break;
    }
    case 'record':
      records.push(answer.record);
      show();
      break;
    case 'done':
      say(`Done: ${order!.masks.length} masks. Download the record to share it.`);
      setRunning(false);
      break;
    case 'failed':
      say(`It failed: ${answer.message}`);
      setRunning(false);
  }
}

function show(): void {
  byId('rows').replaceChildren(...tableRows(records));
  byId('results').hidden = records.length < 2;
  const chart = byId('chart');
  if (records.some(({forwardMs}) => forwardMs !== undefined)) {
    chart.replaceChildren(timeChart(records, chart.clientWidth));
  }
}

/** The records as docs/benchmarks has them, a JSON object per line. */
function save(): void {
  const lines = records.map((record) => `${JSON.stringify(record)}\n`);
  const url = URL.createObjectURL(new Blob(lines, {type: 'application/jsonl'}));
  const {backend, machine} = order!;
  const name = machine.toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-|-$/g, '').slice(0, 40); // prettier-ignore
  make('a', {href: url, download: `${backend}-${name || 'gpu'}.jsonl`}).click();
  URL.revokeObjectURL(url);
}

byId('masks').append(
  ...paperMasks.map((name) => {
    const input = make('input', {type: 'checkbox', value: name, id: `mask-${name}`});
    input.checked = FEW.includes(name);
    return make('label', {class: 'flag', for: input.id}, input, name);
  }),
);
field('backend').addEventListener('change', showBackend);
field('kind').addEventListener('change', showDevice);
run.addEventListener('click', start);
stop.addEventListener('click', () => {
  say('Stopped.');
  setRunning(false);
});
download.addEventListener('click', save);
onTheme(show);
void findAdapter().then((found) => {
  adapter = found;
  showAdapter();
  run.disabled = false;
});
