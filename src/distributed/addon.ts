/** @file The functions of the Node addon for process groups (native/node/distributed.cc). */

export interface GroupAddon {
  /** Starts MPI with the first library that loads. Throws if there is none. */
  startMpi(libraries: string[]): {library: string; rank: number; size: number};
  /** The text of rank 0, in all processes. */
  mpiBroadcast(text: string): string;
  /** Loads the first library of NCCL that is there; returns its version. */
  loadNccl(libraries: string[]): number;
  /** The path of a library of TensorFlow that is loaded. */
  tensorFlowLibrary(): string | null;
  /** What members of a group of NCCL find each other by: 128 bytes in hexadecimal. */
  newNcclId(): string;
  /** Adds a group; all members call it. */
  addGroup(id: number, name: string, rank: number, size: number, parent: number, color: number, ncclId: string): void;
  endGroups(): void;
  /** Tells each call on tensors before it starts, as JSON. */
  onCall(listener: (call: string) => void): void;
  /** Ends all calls, now and later, with this error. */
  fail(message: string): void;
  failure(): string | null;
  /** An error of work on a GPU that was queued and has failed since. */
  deviceError(): string | null;
}
