/** @file Calls of process groups as members announce them, and whether those of two members fit each other. */

/** A call of a group. */
export interface Call {
  /** A function of process groups, or what the library itself does together. */
  kind: string;
  /** Of the tensor that the member gives. */
  shape?: number[];
  reduction?: string;
  root?: number;
  /** Rows for, and of, each member. */
  sends?: number[];
  receives?: number[];
}

/** A call in words: "allReduce (sum) of [2, 3]". */
export function describeCall({kind, shape, reduction, root, sends, receives}: Call): string {
  const list = (numbers: readonly number[]): string => `[${numbers.join(', ')}]`;
  const words = [
    kind,
    reduction !== undefined && `(${reduction})`,
    root !== undefined && `(root ${root})`,
    shape && `of ${list(shape)}`,
    sends && `that sends ${list(sends)} and receives ${list(receives!)} rows`,
  ];
  return words.filter(Boolean).join(' ');
}

/** What two calls must have in common. The first axis of allToAll's tensors may differ. */
const agreed = ({kind, shape, reduction, root, sends}: Call): string =>
  JSON.stringify([kind, sends ? shape!.slice(1) : shape, reduction, root]);

/**
 * The rule that the calls of two members break, or null.
 *
 * @param a the call of the member of rank `rankA` in the group.
 */
export function brokenRule(a: Call, rankA: number, b: Call, rankB: number): string | null {
  if (agreed(a) !== agreed(b)) return 'all members must make the same call, with tensors that fit each other';
  if (a.sends && (a.sends[rankB] !== b.receives![rankA] || b.sends![rankA] !== a.receives![rankB])) {
    return 'a member must receive as many rows as the other one sends';
  }
  return null;
}
