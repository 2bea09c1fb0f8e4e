/** @file The table of what was measured, a mask a row. */
import {sideBySide, type BenchRecord, type Pair} from '../../bench/record.js';
import {bytes, make, percent, significant} from '../shell/dom.js';
import {msOf} from './chart.js';

const NONE = '–';

const figure = (value: number | undefined, text: (value: number) => string): string =>
  value === undefined ? NONE : text(value);

const ms = (value: number | undefined): string => figure(value, (x) => significant(x));
const rate = (value: number | undefined): string =>
  figure(value, (x) => (x >= 0.01 ? x.toPrecision(3) : x.toExponential(1)));

function ratio(a: number | undefined, b: number | undefined): string {
  return a === undefined || b === undefined ? NONE : `${significant(a / b)}×`;
}

/** Texts of a row, in the order of the columns of the page. */
function cellsOf({flash, dense}: Pair): string[] {
  const denseMs = dense && msOf(dense);
  return [
    figure(flash.masked, percent),
    ms(flash.forwardMs),
    rate(flash.forwardTflops),
    ms(flash.backwardMs),
    rate(flash.backwardTflops),
    denseMs === undefined ? (dense?.outcome ?? NONE) : ms(denseMs),
    ratio(denseMs, msOf(flash)),
    figure(flash.peakBytes, bytes),
    ratio(dense?.peakBytes, flash.peakBytes),
    figure(flash.difference, (x) => x.toExponential(1)),
  ];
}

/** Rows of all masks of which flash was measured. The reason of a failure stands in its row. */
export function tableRows(records: readonly BenchRecord[]): HTMLTableRowElement[] {
  return sideBySide(records).map((pair) => {
    const row = make('tr', {}, make('th', {scope: 'row'}, pair.flash.mask ?? ''));
    if (pair.flash.reason === undefined) row.append(...cellsOf(pair).map((text) => make('td', {}, text)));
    else row.append(make('td', {colspan: '10', class: 'reason'}, `${pair.flash.outcome}: ${pair.flash.reason}`));
    if (pair.dense?.reason !== undefined) row.title = `Dense attention: ${pair.dense.reason}`;
    return row;
  });
}
