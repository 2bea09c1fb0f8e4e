/** @file TensorFlow's statuses in the errors of tfjs-node. */

/** The code and the message of tfjs-node's error 'Invalid TF_Status: 8\nMessage: ...'; no code for other errors. */
export function statusOf(error: unknown): {code: number | null; message: string} {
  const text = error instanceof Error ? error.message : String(error);
  const [, code, message] = /TF_Status: (\d+)\s+Message: ([^]*)/.exec(text) ?? [null, null, text];
  return {code: code === null ? null : Number(code), message: message.trim()};
}
