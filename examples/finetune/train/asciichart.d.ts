/** @file Types of the parts of asciichart that are used here. The package has none. */
declare module 'asciichart' {
  export function plot(
    series: number[][],
    config: {height: number; min: number; max: number; colors?: string[]; format: (value: number) => string},
  ): string;
  /** Codes that switch a terminal to a colour, and back. */
  export const blue: string;
  export const green: string;
  export const red: string;
  export const reset: string;
}
