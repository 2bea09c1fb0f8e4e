/**
 * @file Measures how smooth the playground is: drags a border of a mask of 4096 tokens in headless Chromium and prints
 * frames per second, and the milliseconds that the page works on a frame.
 *
 *     npm run site:build && npx tsx scripts/site_frames.ts
 */
import type {Page} from 'playwright-core';
import {output} from '../site/vite.config.js';
import {launch, serve} from '../test/support/chromium.js';

const SECONDS = 5;
/** Masks of 4096 tokens, by what is dragged. */
const DRAGS = [
  ['causalDocument', 'lengths=1200,1400,700,796&padTo=0', 'End of document 1'],
  ['prefixLmDocument', 'lengths=1200,1400,700,796&prefixes=500,500,300,300&padTo=0', 'End of document 2'],
  ['slidingWindow', 'length=4096&window=512&queries=0', 'Window'],
  ['globalSlidingWindow', 'length=4096&before=256&after=256&globals=128', 'Global tokens'],
] as const;

interface Frames {
  perSecond: number;
  /** Milliseconds between two frames: the median and the longest. */
  median: number;
  longest: number;
  /** Milliseconds of script in a frame, the median. */
  work: number;
}

/** Drags a handle to and fro, once a frame, and measures frames and scripts. */
const measure = (page: Page, label: string): Promise<Frames> =>
  page.evaluate(
    async ([name, seconds]) => {
      const handle = [...document.querySelectorAll<HTMLElement>('.handle')].find((one) => one.ariaLabel === name)!;
      const layer = handle.parentElement!.getBoundingClientRect();
      const {left, top} = handle.getBoundingClientRect();
      handle.hasPointerCapture = () => true;
      const times: number[] = [];
      const works: number[] = [];
      const own = window.requestAnimationFrame.bind(window);
      // The page's own work of a frame, in its callback.
      window.requestAnimationFrame = (work) =>
        own((time) => {
          const from = performance.now();
          work(time);
          works.push(performance.now() - from);
        });
      const end = performance.now() + 1000 * seconds;
      await new Promise<void>((done) => {
        const step = (time: number): void => {
          times.push(time);
          const shift = (layer.width / 10) * Math.sin(times.length / 12);
          const at = {clientX: left + 12 + shift, clientY: top + 12 + shift / 2};
          handle.dispatchEvent(new PointerEvent('pointermove', {...at, pointerId: 1, bubbles: true}));
          if (performance.now() < end) own(step);
          else done();
        };
        own(step);
      });
      const gaps = times.slice(1).map((time, i) => time - times[i]).sort((a, b) => a - b); // prettier-ignore
      works.sort((a, b) => a - b);
      const middle = (sorted: number[]): number => sorted[sorted.length >> 1];
      const span = times[times.length - 1] - times[0];
      return {perSecond: (1000 * gaps.length) / span, median: middle(gaps), longest: gaps.at(-1)!, work: middle(works)};
    },
    [label, SECONDS] as const,
  );

const browser = await launch({gpu: false});
if (typeof browser === 'string') throw new Error(`Chromium does not start here (${browser}).`);
const {server, address} = await serve(output);
try {
  for (const [name, values, label] of DRAGS) {
    const page = await browser.newPage({viewport: {width: 1440, height: 900}});
    // tsx wraps named functions, also those that run in the page.
    await page.addInitScript('globalThis.__name = (named) => named');
    await page.goto(`${address}#mask=${name}&${values}`);
    await page.waitForTimeout(500);
    const {perSecond, median, longest, work} = await measure(page, label);
    const words = [
      `${perSecond.toFixed(0)} frames a second`,
      `a frame each ${median.toFixed(1)} ms, at most ${longest.toFixed(0)} ms`,
      `${work.toFixed(1)} ms of script`,
    ];
    console.log(`${name}, N 4096: ${words.join('; ')}`);
    await page.close();
  }
} finally {
  await browser.close();
  server.close();
}
