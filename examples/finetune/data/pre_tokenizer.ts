/**
 * @file How text is cut before it becomes tokens. @huggingface/tokenizers takes digits for 0 to 9 and blanks for JavaScript's, while
 * Hugging Face's own tokenizers, with which models are trained, take Unicode's: `²` is a digit, U+0085 a blank, U+FEFF none. Here
 * these steps are written so that the package cuts alike.
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

/** GPT-2's expression, which a `ByteLevel` step has built in. */
const WORDS = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** The same tokenizer.json, with steps that cut by Unicode's digits and blanks. */
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
      // The space that may be added comes before the cuts: such a step stays as it is.
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
  // Every escape is matched, so that the second character of an escaped backslash starts none.
  return expression.replace(/\\[^]/g, (escape) => blanks.get(escape) ?? escape);
}
