/** @file Reports what processes printed that ran the checks. */
import {expect} from 'chai';
import type {Rank} from '../support/ranks.js';
import {checks} from './checks.js';

export const PROGRAM = 'test/distributed/programs/run_checks.ts';

export interface Result {
  name: string;
  error?: string;
}

export const resultsOf = ({stdout}: Rank): Result[] =>
  stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Result);

/** Defines a test for each check. */
export function defineChecks(ended: () => Rank[]): void {
  for (const name of Object.keys(checks)) {
    it(name, () => {
      ended().forEach((rank, i) => {
        const result = resultsOf(rank).find((each) => each.name === name);
        expect(result?.name, `rank ${i} printed ${rank.stderr}`).to.equal(name);
        expect(result!.error, `rank ${i}`).to.equal(undefined);
      });
    });
  }
}

/** The error by which a process ended. */
export const errorOf = ({stderr}: Rank): string | undefined => /^Error: (.*)$/m.exec(stderr)?.[1];
