/** @file Types of the part of asciichart that is used here; the package has none. */
declare module 'asciichart' {
  export function plot(series: number[], config?: {height?: number; format?: (value: number) => string}): string;
}
