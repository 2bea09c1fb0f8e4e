/** @file Takes the options of a command from a YAML file, `--config`: the names and values of the command line. */
import {readFileSync} from 'node:fs';
import {type Command, InvalidArgumentError, type Option} from 'commander';
import {LineCounter, type Node, type ParsedNode, isMap, isScalar, parseDocument} from 'yaml';

/**
 * Sets the options of the file that `--config` names, if any. Options of the command line win.
 *
 * @throws Error that names the file and the line, for what is no YAML, unknown options and wrong values.
 */
export function applyConfig(command: Command): void {
  const {config: path} = command.opts<{config?: string}>();
  if (path === undefined) return;
  for (const {name, value, place} of entriesOf(path)) {
    const option = command.options.find((candidate) => nameOf(candidate) === name);
    if (option === undefined || name === 'config') {
      throw new Error(`${place}: ${command.name()} has no option ${name}. Add --help to see what there is.`);
    }
    let parsed: unknown;
    try {
      parsed = parse(option, value);
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      throw new Error(`${place}: ${name} is ${JSON.stringify(value)}. ${error.message}`, {cause: error});
    }
    const attribute = option.attributeName();
    if (command.getOptionValueSource(attribute) !== 'cli') {
      command.setOptionValueWithSource(attribute, parsed, 'config');
    }
  }
}

interface Entry {
  /** With hyphens, also where the file has underscores. */
  name: string;
  value: unknown;
  /** File and line, for messages. */
  place: string;
}

function entriesOf(path: string): Entry[] {
  const lineCounter = new LineCounter();
  const document = parseDocument(readText(path), {lineCounter, prettyErrors: false});
  const placeOf = (offset: number): string => `${path}, line ${lineCounter.linePos(offset).line}`;
  const [problem] = document.errors;
  if (problem !== undefined) throw new Error(`${placeOf(problem.pos[0])}: this is not YAML: ${problem.message}.`);
  const {contents} = document;
  if (contents === null) return [];
  if (!isMap<ParsedNode, Node | null>(contents)) {
    throw new Error(`${placeOf(contents.range[0])}: a file of options has one "name: value" on each line.`);
  }
  return contents.items.map(({key, value}) => ({
    name: (isScalar(key) ? String(key.value) : key.toString()).replaceAll('_', '-'),
    value: value === null ? null : (value.toJS(document) as unknown),
    place: placeOf(key.range[0]),
  }));
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new Error(`--config: ${path} cannot be read: ${(error as Error).message}.`, {cause: error});
  }
}

/** `no-share-questions` of the command line is `share-questions: false` of a file. */
function nameOf(option: Option): string {
  return option.negate ? option.name().replace(/^no-/, '') : option.name();
}

/** The value as the command line would have made it of its text. */
function parse(option: Option, value: unknown): unknown {
  if (option.isBoolean() || option.negate) {
    if (typeof value !== 'boolean') throw new InvalidArgumentError('It should be true or false.');
    return value;
  }
  const given = option.optional && value === true ? option.presetArg : value;
  const text = Array.isArray(given) ? given.join() : given;
  if (option.parseArg === undefined) {
    if (typeof text !== 'string') throw new InvalidArgumentError('It should be a text.');
    return text;
  }
  if (typeof text !== 'string' && typeof text !== 'number') {
    throw new InvalidArgumentError('It should be a text or a number.');
  }
  const parsed = (option.parseArg as (text: string) => unknown)(String(text));
  if (typeof parsed === 'number' && typeof text === 'string' && !Number.isNaN(Number(text))) {
    throw new InvalidArgumentError('It should be a number without quotes.');
  }
  return parsed;
}
