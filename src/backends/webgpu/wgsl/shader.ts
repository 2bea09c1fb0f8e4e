/**
 * @file A shader is one value: the fields of its variants, its bindings and its WGSL. Key, entry point, bounds check
 * and layout are derived from it, so that they cannot disagree.
 */
import {remember} from '../../../call/remember.js';
import {declare, type Binding, type Uniform} from './header.js';

/** A shader for all variants of type V. */
export interface Shader<V extends object> {
  /** Its name in keys, in labels of the device and in printouts. */
  readonly name: string;
  /** All fields of V. Together they are the key, and the functions below see nothing else. */
  readonly fields: {readonly [F in keyof V]-?: true};
  /** Storage bindings, in binding order after the uniforms. */
  readonly bindings: (v: V) => readonly Binding[];
  /** Threads of a workgroup. */
  readonly threads: (v: V) => number;
  /** Whether a workgroup or a thread handles one `item`; a 'single' workgroup has no items. */
  readonly item: 'workgroup' | 'thread' | 'single';
  /** The uniforms that it sees. Default: all. */
  readonly uniforms?: readonly Uniform[];
  /** Directives that come before everything else, for example `enable f16`. */
  readonly directives?: readonly string[];
  /** Built-in values that the body sees besides `lid`: the built-in of each variable name. */
  readonly builtins?: Readonly<Record<string, string>>;
  /** WGSL before the entry point. */
  readonly declarations: (v: V) => string;
  /**
   * WGSL of the entry point. It sees `item`, always an existing one, and `lid`, the thread's index in its workgroup.
   */
  readonly body: (v: V) => string;
}

/** A variant of a shader. */
export interface ShaderVariant {
  readonly name: string;
  /** Equal keys mean equal code. */
  readonly key: string;
  readonly bindings: readonly Binding[];
  readonly threads: number;
  readonly itemsPerWorkgroup: number;
  /** The WGSL, generated when it is first asked for. */
  readonly code: string;
}

/** Variants by key. A key starts with the name of its shader. */
const variants = new Map<string, ShaderVariant>();

/**
 * The variant of a shader for the given values. Further fields of `values` are ignored.
 *
 * @example specialize(copyRows, {element: 'vec4f'}).code
 */
export function specialize<V extends object>(shader: Shader<V>, values: V): ShaderVariant {
  const names = Object.keys(shader.fields) as (keyof V & string)[];
  const key = [shader.name, ...names.map((name) => textOf(name, values[name]))].filter(Boolean).join(' ');
  return remember(variants, key, () => {
    const own = Object.fromEntries(names.map((name) => [name, values[name]])) as V;
    return makeVariant(shader, key, own);
  });
}

/** A field in a key: its name if it is true, nothing if it is false, else name and value. */
function textOf(name: string, value: unknown): string {
  if (typeof value === 'boolean') return value ? name : '';
  const parts = typeof value === 'object' ? Object.values(value as object) : [value];
  return `${name}=${parts.join('x')}`;
}

function makeVariant<V extends object>(shader: Shader<V>, key: string, v: V): ShaderVariant {
  const threads = shader.threads(v);
  let code: string | undefined;
  return {
    name: shader.name,
    key,
    bindings: shader.bindings(v),
    threads,
    itemsPerWorkgroup: shader.item === 'thread' ? threads : 1,
    get code() {
      return (code ??= indent(textOfShader(shader, v, threads)));
    },
  };
}

function textOfShader<V extends object>(shader: Shader<V>, v: V, threads: number): string {
  const {directives = [], builtins = {}} = shader;
  const extra = Object.entries(builtins).map(([name, builtin]) => `, @builtin(${builtin}) ${name}: u32`);
  const workgroup = shader.item === 'single' ? '' : '@builtin(workgroup_id) id: vec3u, ';
  return `${directives.map((line) => `${line};\n`).join('')}
${declare(shader.bindings(v), shader.uniforms)}
${shader.declarations(v)}
@compute @workgroup_size(${threads})
fn main(${workgroup}@builtin(local_invocation_index) lid: u32${extra.join('')}) {
${itemOf(shader.item, threads)}
${shader.body(v)}
}
`;
}

/** Declares `item`, and ends invocations whose item is past the end of the work. */
function itemOf(item: Shader<object>['item'], threads: number): string {
  if (item === 'single') return '';
  const workgroup = 'u.firstWorkgroup + id.y * u.gridX + id.x';
  return `let item = ${item === 'workgroup' ? workgroup : `(${workgroup}) * ${threads}u + lid`};
if (item >= u.workEnd) { return; }`;
}

/** Indents by braces, and drops empty lines within functions. */
function indent(code: string): string {
  let depth = 0;
  const lines: string[] = [];
  for (const line of code.split('\n').map((text) => text.trim())) {
    if (line === '' && (depth > 0 || lines.at(-1) === '' || lines.length === 0)) continue;
    const braces = line.replace(/\/\/.*/, '').match(/[{}]/g) ?? [];
    const closing = /^\}*/.exec(line)![0].length;
    lines.push(line && '  '.repeat(depth - closing) + line);
    depth += braces.reduce((sum, brace) => sum + (brace === '{' ? 1 : -1), 0);
  }
  return lines.join('\n');
}
