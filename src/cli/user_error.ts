/** @file The error that a command prints without a stack, because its message says what is wrong and how to fix it. */

/** An error whose message has the command, the rule, the value got and the remedy, in complete sentences. */
export class UserError extends Error {
  override readonly name = 'UserError';
}

/** The last lines of a program's output, indented, for the end of a message. */
export function tail(output: string, lines = 8): string {
  const kept = output
    .split('\n')
    .map((line) => line.trimEnd())
    .filter((line) => line !== '')
    .slice(-lines);
  return kept.map((line) => `\n    ${line}`).join('');
}
