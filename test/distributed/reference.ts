/** @file The functions of process groups on the rows of all members at once, in plain numbers. */

/** A tensor as rows of numbers; a scalar is one row of one number. */
export type Rows = number[][];
/** What each member gives, or gets. */
export type All = Rows[];

const add = (a: Rows, b: Rows): Rows => a.map((row, i) => row.map((x, j) => x + b[i][j]));
const largest = (a: Rows, b: Rows): Rows => a.map((row, i) => row.map((x, j) => Math.max(x, b[i][j])));
const sum = (all: All): Rows => all.reduce(add);

export const allReduce = (all: All): All => all.map(() => sum(all));
export const mean = (all: All): All => all.map(() => sum(all).map((row) => row.map((x) => x / all.length)));
export const max = (all: All): All => all.map(() => all.reduce(largest));
export const allGather = (all: All): All => all.map(() => all.flat());
export const broadcast = (all: All, root: number): All => all.map(() => all[root]);

export function reduceScatter(all: All): All {
  const total = sum(all);
  const rows = total.length / all.length;
  return all.map((_, rank) => total.slice(rank * rows, (rank + 1) * rows));
}

/** @param counts rows from each rank (first index) to each rank. */
export function allToAll(all: All, counts: readonly number[][]): All {
  const start = (from: number, to: number): number => counts[from].slice(0, to).reduce((a, b) => a + b, 0);
  return all.map((_, to) =>
    all.flatMap((rows, from) => rows.slice(start(from, to), start(from, to) + counts[from][to])),
  );
}

/** @param to the rank to which each rank sends. */
export const sendReceive = (all: All, to: readonly (number | undefined)[]): All =>
  all.map((own, rank) => {
    const from = to.indexOf(rank);
    return from < 0 ? own.map((row) => row.map(() => 0)) : all[from];
  });

/** Gradients of the sum of `weights * outputs` of all members by differences: exact, as the functions are linear. */
export function gradients(inputs: All, weights: All, run: (all: All) => All): All {
  const loss = (all: All): number =>
    run(all).reduce(
      (total, rows, rank) =>
        total + rows.reduce((part, row, i) => part + row.reduce((a, x, j) => a + x * weights[rank][i][j], 0), 0),
      0,
    );
  const base = loss(inputs);
  return inputs.map((rows, rank) =>
    rows.map((row, i) =>
      row.map((_, j) => {
        const moved = structuredClone(inputs);
        moved[rank][i][j] += 1;
        return loss(moved) - base;
      }),
    ),
  );
}
