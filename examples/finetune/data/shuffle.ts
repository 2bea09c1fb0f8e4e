/** @file Shuffles a stream of items of which only some are in memory, always in the same order for the same random numbers. */

/** How much a shuffle may hold. */
export interface ShuffleLimits {
  items: number;
  bytes: number;
}

/**
 * Gives the items in another order: holds as many as the limits allow, and gives a random one of them whenever there are more (as the
 * shuffle buffers of tf.data and of Hugging Face's datasets do). A stream within the limits is shuffled evenly.
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
