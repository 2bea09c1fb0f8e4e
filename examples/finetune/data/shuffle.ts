/** @file Shuffles a stream with limited memory. Equal random numbers give an equal order. */

/** Limits for what a shuffle holds. */
export interface ShuffleLimits {
  items: number;
  bytes: number;
}

/**
 * Yields the items in another order. It holds as many items as the limits allow and yields a random one whenever there
 * are more, like the shuffle buffers of tf.data and of Hugging Face's datasets. A stream within the limits is shuffled
 * uniformly.
 */
export async function* shuffleStream<T extends {bytes: number}>(
  items: AsyncIterable<T>,
  limits: ShuffleLimits,
  random: () => number,
): AsyncGenerator<T> {
  const held: T[] = [];
  let bytes = 0;
  const draw = (): T => {
    const i = Math.floor(random() * held.length);
    const drawn = held[i];
    held[i] = held.at(-1)!;
    held.pop();
    bytes -= drawn.bytes;
    return drawn;
  };
  for await (const item of items) {
    held.push(item);
    bytes += item.bytes;
    while (held.length > limits.items || bytes > limits.bytes) yield draw();
  }
  while (held.length > 0) yield draw();
}
