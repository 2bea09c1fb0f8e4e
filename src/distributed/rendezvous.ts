/** @file How the processes find rank 0: by MPI, at an address and port, or by a file that all can read. */
import {createHash, randomBytes} from 'node:crypto';
import {renameSync, rmSync, writeFileSync} from 'node:fs';
import {hostname, networkInterfaces} from 'node:os';
import {isAbsolute} from 'node:path';
import {describe, fail} from '../call/errors.js';
import type {Endpoint} from './control/client.js';
import type {Place} from './launcher.js';

/** Where rank 0 will be found. */
export type Rendezvous = {kind: 'mpi'} | {kind: 'port'; address: string; port: number} | {kind: 'file'; path: string};

const FORMS = "Pass 'host:port', with a free port of rank 0's host, or the path of a file that all hosts see";

/**
 * @param given the option `rendezvous`, or `FLASHMASK_RENDEZVOUS`.
 * @param mpi whether MPI connects the processes.
 */
export function chooseRendezvous(given: string | undefined, mpi: boolean, environment: NodeJS.ProcessEnv): Rendezvous {
  if (given !== undefined) return parse(given);
  if (mpi) return {kind: 'mpi'};
  const {MASTER_ADDR, MASTER_PORT, SLURM_JOB_ID, SLURM_STEP_NODELIST} = environment;
  // The launcher itself may listen at MASTER_PORT.
  if (MASTER_ADDR) return {kind: 'port', address: MASTER_ADDR, port: portOf(Number(MASTER_PORT ?? 29500) + 1)};
  if (SLURM_JOB_ID && SLURM_STEP_NODELIST) {
    return {kind: 'port', address: firstHost(SLURM_STEP_NODELIST), port: 20000 + (Number(SLURM_JOB_ID) % 10000)};
  }
  const rule = 'the processes must be told where rank 0 is, by MPI, MASTER_ADDR or FLASHMASK_RENDEZVOUS';
  return fail('init', rule, 'none of them', `Set FLASHMASK_RENDEZVOUS. ${FORMS}.`);
}

function parse(given: string): Rendezvous {
  if (isAbsolute(given)) return {kind: 'file', path: given};
  const [, address, port] = /^(?:\[?([^\]]+?)\]?):(\d+)$/.exec(given) ?? [];
  if (address !== undefined && Number(port) > 0 && Number(port) < 65536) {
    return {kind: 'port', address, port: Number(port)};
  }
  return fail('init', 'rendezvous must be an address and port, or an absolute path', describe(given), `${FORMS}.`);
}

const portOf = (port: number): number => (port >= 1024 && port < 65536 ? port : 29501);

/** The first host of Slurm's list: `node[01-04,7],other` begins with node01. */
function firstHost(list: string): string {
  const [, prefix, first = ''] = /^([^[,]*)(?:\[([^\],-]+))?/.exec(list)!;
  return prefix + first;
}

/**
 * A token that the processes of a run know without having talked: it keeps runs apart, and is no secret. Where rank 0
 * can tell the others, it makes a random one.
 */
export function sharedToken(environment: NodeJS.ProcessEnv): string {
  const {TORCHELASTIC_RUN_ID, SLURM_JOB_ID, SLURM_STEP_ID} = environment;
  return createHash('sha256').update([TORCHELASTIC_RUN_ID, SLURM_JOB_ID, SLURM_STEP_ID].join()).digest('hex');
}

export const randomToken = (): string => randomBytes(16).toString('hex');

/** Where rank 0 listens, as it knows that itself. */
export function ownEndpoint(port: number, token: string): Endpoint {
  const found = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  // Addresses of a link alone need the name of an interface of the other host.
  const outside = found.filter(({internal, address}) => !internal && !address.startsWith('fe80'));
  return {host: hostname(), addresses: outside.map(({address}) => address), port, token};
}

/** Writes a file whole, in one step: others may read it at any time. Returns a function that removes it. */
export function publish(path: string, endpoint: Endpoint): () => void {
  const unfinished = `${path}.${process.pid}.tmp`;
  writeFileSync(unfinished, JSON.stringify(endpoint), {mode: 0o600});
  renameSync(unfinished, path);
  return () => rmSync(path, {force: true});
}

/** Whether all processes of a launcher are on this host, as far as it tells. */
export const onOneHost = ({size, localSize}: Place): boolean => localSize === size;
