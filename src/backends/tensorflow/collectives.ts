/** @file The ops of process groups (native/tensorflow/collectives.cc), by the functions that call them. */
export const COLLECTIVES = {
  allReduce: 'FlashMaskAllReduce',
  allGather: 'FlashMaskAllGather',
  reduceScatter: 'FlashMaskReduceScatter',
  broadcast: 'FlashMaskBroadcast',
  allToAll: 'FlashMaskAllToAll',
} as const;
