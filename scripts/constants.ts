/**
 * @file Writes native/constants.h from src/call/constants.ts, so that the kernels of all languages have the same
 * numbers.
 *
 *     node --import=tsx scripts/constants.ts [--check]
 */
import {readFileSync, writeFileSync} from 'node:fs';
import * as constants from '../src/call/constants.js';

const TARGET = new URL('../native/constants.h', import.meta.url);

/** The C++ name of a constant: MAX_HEAD_SIZE is kMaxHeadSize. */
function nameInCpp(name: string): string {
  const words = name.toLowerCase().split('_');
  return `k${words.map((word) => word[0].toUpperCase() + word.slice(1)).join('')}`;
}

const lines = Object.entries(constants).map(([name, value]) => `constexpr int ${nameInCpp(name)} = ${value};`);
const text = `// Written by scripts/constants.ts from src/call/constants.ts, which says what each number means: change it there.
#pragma once

namespace flashmask {

${lines.join('\n')}

}  // namespace flashmask
`;

if (!process.argv.includes('--check')) {
  writeFileSync(TARGET, text);
} else if (readFileSync(TARGET, 'utf8') !== text) {
  console.error('native/constants.h differs from src/call/constants.ts: run `node --import=tsx scripts/constants.ts`.');
  process.exitCode = 1;
}
