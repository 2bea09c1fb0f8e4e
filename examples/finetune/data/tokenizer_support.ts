/**
 * @file Refuses a tokenizer.json that @huggingface/tokenizers would misread. The package ignores some fields and
 * implements some steps in part; its tokens would then not be those that the model was trained on.
 */

type Fields = Record<string, unknown>;

/** @throws Error that names the field, its value and where it is. */
export function checkTokenizer(json: Fields): void {
  const added = Array.isArray(json.added_tokens) ? (json.added_tokens as (Fields | null)[]) : [];
  for (const token of added) {
    if (token?.single_word === true) refuse('added_tokens', 'single_word', true, `of ${JSON.stringify(token.content)}`);
  }
  const model = (json.model ?? {}) as Fields;
  if (Number(model.dropout ?? 0) !== 0) refuse('model', 'dropout', model.dropout);
  if (model.continuing_subword_prefix && model.type === 'BPE') {
    refuse('model', 'continuing_subword_prefix', model.continuing_subword_prefix);
  }
  checkStep(json.pre_tokenizer as Fields | null | undefined);
}

/** Steps that the package takes as Hugging Face's own tokenizers do, whatever their other fields are. */
const EXACT = ['ByteLevel', 'Digits', 'WhitespaceSplit'];

function checkStep(step: Fields | null | undefined): void {
  if (step == null) return;
  const {type} = step;
  if (type === 'Sequence') {
    ((step.pretokenizers ?? []) as Fields[]).forEach(checkStep);
  } else if (type === 'Split') {
    const removes = step.behavior === 'Removed';
    if (!removes && step.behavior !== 'Isolated') refuse('pre_tokenizer', 'behavior', step.behavior, 'of Split');
    if (!removes && step.invert === true) refuse('pre_tokenizer', 'invert', true, 'of Split with behavior "Isolated"');
  } else if (type === 'Punctuation') {
    if (step.behavior !== 'Contiguous') refuse('pre_tokenizer', 'behavior', step.behavior, 'of Punctuation');
  } else if (type === 'Metaspace') {
    if (step.split !== false) refuse('pre_tokenizer', 'split', step.split, 'of Metaspace');
  } else if (!EXACT.includes(type as string)) {
    refuse('pre_tokenizer', 'type', type);
  }
}

function refuse(place: string, field: string, value: unknown, of = ''): never {
  const got = `${field} ${JSON.stringify(value) ?? 'unset'}${of && ` ${of}`}`;
  throw new Error(`${got} in ${place} of tokenizer.json is not supported: the tokens would be others than the model's`);
}
