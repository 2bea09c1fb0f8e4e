/** @file What the plots share: colours, a page to draw on, and how a plot becomes an SVG document. */
import type * as Plot from '@observablehq/plot';
import {parseHTML} from 'linkedom';

export const COLORS = ['#1f6feb', '#d1242f', '#54aeff', '#ff8182'];

/** Options of a plot that is drawn without a browser. */
export function page(): Pick<Plot.PlotOptions, 'document' | 'style'> {
  const {document} = parseHTML('<html><body></body></html>');
  return {document: document as unknown as Document, style: {background: 'white', color: '#1f2328'}};
}

/** A plot as a standalone SVG document. */
export function standalone(plot: Element, title: string): string {
  plot.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  const heading = plot.ownerDocument.createElementNS('http://www.w3.org/2000/svg', 'title');
  heading.textContent = title;
  plot.prepend(heading);
  return `${plot.outerHTML}\n`;
}
