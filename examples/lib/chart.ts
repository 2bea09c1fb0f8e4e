/** @file The loss as a chart in text. */
import asciichart from 'asciichart';

const WIDTH = 60;
const HEIGHT = 10;

/** Draws values against their index, from `first`. Many values are averaged so that the chart stays narrow. */
export function lossChart(losses: readonly number[], first = 1): string {
  const columns = Math.min(WIDTH, losses.length);
  const series = Array.from({length: columns}, (_, column) => {
    const start = Math.floor((column * losses.length) / columns);
    const end = Math.max(start + 1, Math.floor(((column + 1) * losses.length) / columns));
    return losses.slice(start, end).reduce((sum, loss) => sum + loss, 0) / (end - start);
  });
  // A single value makes asciichart divide by zero.
  const drawn = series.length === 1 ? [series[0], series[0]] : series;
  const chart = asciichart.plot(drawn, {height: HEIGHT, format: (value) => value.toFixed(3).padStart(8)});
  return `${chart}\n          step ${first} to ${first + losses.length - 1}`;
}
