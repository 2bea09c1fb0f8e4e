/**
 * @file Rewrites how a tokenizer splits text before it makes tokens. @huggingface/tokenizers takes only 0 to 9 as
 * digits, and JavaScript's blanks as blanks. Hugging Face's own tokenizers, with which models are trained, take
 * Unicode's: `²` is a digit, U+0085 a blank, U+FEFF none. With the steps written here the package splits text as they
 * do.
 */

/** A step of `pre_tokenizer` in a tokenizer.json. */
interface Step {
  type: string;
  pretokenizers?: Step[];
  individual_digits?: boolean;
  use_regex?: boolean;
  add_prefix_space?: boolean;
  pattern?: {Regex?: string};
}

/** GPT-2's expression, which is built into a `ByteLevel` step. */
const WORDS = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** The same tokenizer.json, with steps that split by Unicode's digits and blanks. */
export function withExactCuts(tokenizerJson: Record<string, unknown>): Record<string, unknown> {
  return 'pre_tokenizer' in tokenizerJson
    ? {...tokenizerJson, pre_tokenizer: exactStep(tokenizerJson.pre_tokenizer as Step | null)}
    : tokenizerJson;
}

function exactStep(step: Step | null): object | null {
  switch (step?.type) {
    case 'Sequence':
      return {...step, pretokenizers: step.pretokenizers?.map(exactStep)};
    case 'Digits':
      return splitBy(step.individual_digits === true ? String.raw`\p{N}` : String.raw`\p{N}+`);
    case 'Split':
      return step.pattern?.Regex === undefined
        ? step
        : {...step, pattern: {Regex: withUnicodeBlanks(step.pattern.Regex)}};
    case 'ByteLevel':
      // A step may add a space, which comes before the split. Such a step stays as it is.
      return step.use_regex === false || step.add_prefix_space === true
        ? step
        : {type: 'Sequence', pretokenizers: [splitBy(withUnicodeBlanks(WORDS)), {...step, use_regex: false}]};
    default:
      return step;
  }
}

function splitBy(expression: string): object {
  return {type: 'Split', pattern: {Regex: expression}, behavior: 'Isolated', invert: false};
}

/** @example withUnicodeBlanks('\\s+') // '\\p{White_Space}+' */
function withUnicodeBlanks(expression: string): string {
  const blanks = new Map([
    ['\\s', '\\p{White_Space}'],
    ['\\S', '\\P{White_Space}'],
  ]);
  // Matches every escape, so that the second character of an escaped backslash does not start another one.
  return expression.replace(/\\[^]/g, (escape) => blanks.get(escape) ?? escape);
}
