/** @file The doctor's report as text for a terminal. */
import type {BackendReport, DoctorReport, Status} from './doctor.js';
import {describeMachine} from './machine.js';

const SIGNS: Record<Status, string> = {ok: '✅', missing: '➖', 'not run': '➖', broken: '❌'};
const INDENT = 20;
/** Columns of a line's label. */
const LABEL = 9;

function line(label: string, text: string): string {
  const [first, ...rest] = text.split('\n');
  const indent = ' '.repeat(INDENT);
  const more = rest.map((part) => `\n${indent}${' '.repeat(LABEL)}${part.trim()}`).join('');
  return `${indent}${label.padEnd(LABEL)}${first}${more}`;
}

function backendText({name, status, versions, kernel, facts, problem, fix}: BackendReport): string[] {
  const packages = Object.entries(versions).map(([package_, version]) => `${package_} ${version}`);
  return [
    `${SIGNS[status]} ${name.padEnd(INDENT - 3)}${status}`,
    ...(kernel === null ? [] : [line('kernels', kernel)]),
    ...(packages.length ? [line('has', packages.join(', '))] : []),
    ...facts.map((fact) => line('', fact)),
    ...(problem === null ? [] : [line(status === 'ok' ? 'note' : 'problem', problem)]),
    ...fix.map((step, at) => line(at === 0 ? 'fix' : '', step)),
  ];
}

export function doctorText({version, machine, backends}: DoctorReport): string {
  const head = [`tfjs-flashmask ${version}`, ...describeMachine(machine).map((text) => `  ${text}`), ''];
  return [...head, ...backends.flatMap(backendText)].join('\n');
}
