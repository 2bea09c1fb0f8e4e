/** @file The page that trains a small language model live. */
import {causalDocument} from '../../src/entries/masks.js';
import {drawMask, palette} from '../playground/picture.js';
import {type Adapter, findAdapter} from '../shell/adapter.js';
import {byId, bytes, field, percent, say, significant} from '../shell/dom.js';
import {onTheme} from '../shell/theme.js';
import {onAnswer} from '../shell/worker_messages.js';
import {type Point, lossChart} from './chart.js';
import type {Answer, Order, Side} from './messages.js';

type Step = Extract<Answer, {type: 'step'}>;

/** What the visitor waits for about a minute or two. */
const SIZES = {
  gpu: {steps: 300, rowTokens: 1024, rows: 8, words: 90},
  cpu: {steps: 16, rowTokens: 256, rows: 1, words: 40},
};

const run = byId<HTMLButtonElement>('run');
const stop = byId<HTMLButtonElement>('stop');
const canvas = byId<HTMLCanvasElement>('mask');
let adapter: Adapter | null = null;
let worker: Worker | null = null;
let order: Order | null = null;
let steps: Step[] = [];

function showAdapter(): void {
  field('backend').value = adapter === null || adapter.software ? 'cpu' : 'webgpu';
  showSizes();
  byId('adapter').textContent = adapter === null ? 'This browser gives no WebGPU.' : `${adapter.name}.`;
  byId('no-webgpu').hidden = adapter !== null;
  if (adapter === null) byId<HTMLSelectElement>('backend').options[0].disabled = true;
}

/** The sizes for what computes. */
function showSizes(): void {
  const onGpu = field('backend').value === 'webgpu' && adapter?.software === false;
  for (const [id, value] of Object.entries(onGpu ? SIZES.gpu : SIZES.cpu)) field(id).value = String(value);
}

function readOrder(): Order {
  const number = (id: string): number => Number(field(id).value);
  return {
    backend: field('backend').value as Order['backend'],
    software: adapter?.software ?? true,
    ...{steps: number('steps'), rowTokens: number('rowTokens'), rows: number('rows'), words: number('words')},
    learningRate: number('rate'),
    dense: byId<HTMLInputElement>('dense').checked,
    prompt: field('prompt').value,
  };
}

function setRunning(running: boolean): void {
  run.disabled = running;
  stop.disabled = !running;
  if (!running) {
    worker?.terminate();
    worker = null;
  }
}

function start(): void {
  const form = run.form!;
  if (!form.reportValidity()) return;
  order = readOrder();
  steps = [];
  for (const when of ['before', 'after']) byId(when).textContent = '–';
  show();
  worker = new Worker(new URL('./worker.ts', import.meta.url), {type: 'module'});
  onAnswer(worker, hear);
  worker.postMessage(order);
  setRunning(true);
}

function hear(answer: Answer): void {
  switch (answer.type) {
    case 'status':
      say(answer.text);
      break;
    case 'step':
      steps.push(answer);
      say(`Step ${steps.length} of ${order!.steps}.`);
      show();
      break;
    case 'text': {
      const element = byId(answer.when);
      element.textContent = `${element.textContent === '–' ? '' : element.textContent}${answer.piece}`;
      break;
    }
    case 'done':
      say(`Done: ${steps.length} steps.`);
      setRunning(false);
      break;
    case 'failed':
      say(`It failed: ${answer.message}`);
      setRunning(false);
  }
}

/** Tokens a second, without the first step, which compiles shaders, unless it is the only one. */
function speed(side: 'flash' | 'dense'): number | null {
  const timed = steps.length > 1 ? steps.slice(1) : steps;
  const milliseconds = timed.reduce((total, step) => total + (step[side]?.milliseconds ?? 0), 0);
  return milliseconds === 0 ? null : (1000 * timed.reduce((total, {tokens}) => total + tokens, 0)) / milliseconds;
}

const memory = (side: 'flash' | 'dense'): number | undefined =>
  steps.map((step) => (step[side] as Side | null)?.bytes).find((count) => count !== undefined);

function showFigures(): void {
  const [flash, dense] = [speed('flash'), speed('dense')];
  const text = (id: string, value: string | null | undefined): void => {
    byId(id).textContent = value ?? '–';
  };
  const bytesOf = (side: 'flash' | 'dense'): string | null =>
    memory(side) === undefined ? null : bytes(memory(side)!);
  text('flash-speed', flash === null ? null : significant(flash));
  text('dense-speed', dense === null ? null : significant(dense));
  text('flash-memory', bytesOf('flash'));
  text('dense-memory', bytesOf('dense'));
  text('faster', flash === null || dense === null ? null : `${significant(flash / dense)}×`);
  const apart = steps.flatMap((step) => (step.dense ? [Math.abs(step.flash.loss / step.dense.loss - 1)] : []));
  text('agree', apart.length === 0 ? null : Math.max(...apart).toExponential(1));
  byId<HTMLProgressElement>('progress').value = order === null ? 0 : steps.length / order.steps;
}

function showChart(): void {
  const points = steps.flatMap(({step, flash, dense}): Point[] => [
    {step: step + 1, loss: flash.loss, attention: 'flashMask'},
    ...(dense ? [{step: step + 1, loss: dense.loss, attention: 'dense'} as const] : []),
  ]);
  const chart = byId('chart');
  if (points.length === 0) return;
  chart.replaceChildren(lossChart(points, chart.clientWidth));
  const [first, last] = [steps[0].flash.loss, steps[steps.length - 1].flash.loss];
  byId('loss-text').textContent = `From ${first.toFixed(2)} to ${last.toFixed(2)} in ${steps.length} steps.`;
}

/** The mask of the latest step's first row. */
function showMask(): void {
  const latest = steps.at(-1);
  if (latest === undefined || order === null) return;
  const mask = causalDocument(latest.lengths, {padTo: order.rowTokens});
  const tile = Math.max(16, 2 ** Math.ceil(Math.log2(order.rowTokens / 32)));
  const drawing = {mask, tile, batch: 0, head: 0, vectors: false, grid: true};
  canvas.hidden = false;
  drawMask(canvas, Math.round(canvas.clientWidth * Math.min(devicePixelRatio, 2)), drawing, palette());
  const {maskedPairs} = mask.sparsity();
  const {length: texts} = latest.lengths;
  const row = `${texts} ${texts === 1 ? 'text' : 'texts'} in a row of ${order.rowTokens} tokens`;
  const words = `${row}: ${percent(maskedPairs)} of the pairs are masked.`;
  byId('mask-text').textContent = words;
  canvas.setAttribute('aria-label', words);
}

let frame = 0;

/** Shows the steps so far, at most once a frame. */
function show(): void {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => {
    showFigures();
    showChart();
    showMask();
  });
}

field('backend').addEventListener('change', showSizes);
run.addEventListener('click', start);
stop.addEventListener('click', () => {
  say('Stopped.');
  setRunning(false);
});
onTheme(show);
addEventListener('resize', show);
void findAdapter().then((found) => {
  adapter = found;
  showAdapter();
  run.disabled = false;
});
