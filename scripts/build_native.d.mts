/** @file Types of the functions that tests import from build_native.mjs. */

/** The flags that a C++ file needs for its instruction set, on x64. */
export function instructionSetFlags(path: string): string[];
