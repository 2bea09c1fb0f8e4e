/** @file Reorders a head's channels: Hugging Face rotates channel i with i + D/2, GGUF and glassllm 2i with 2i + 1. */
import type {HostTensor} from '../host_tensor.js';

/**
 * Reorders the rows of a query or key projection `[heads · headSize, in]`, or of its bias `[heads · headSize]`. Row 2i
 * of a head becomes row i, row 2i + 1 becomes row i + D/2. It undoes the `permute` of llama.cpp's
 * convert_hf_to_gguf.py.
 *
 * @param where File and name of the tensor, for errors.
 * @throws if the rows are not whole heads of an even size.
 */
export function pairsToHalves(
  {shape, data}: HostTensor,
  headSize: number,
  where = 'A query or key projection',
): HostTensor {
  const [rows] = shape;
  if (headSize % 2 !== 0 || rows % headSize !== 0) {
    throw new Error(`${where} of shape [${shape}] has no heads of ${headSize} channels in pairs.`);
  }
  const width = data.length / rows;
  const moved = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    const channel = row % headSize;
    const from = row - channel + (channel < headSize / 2 ? 2 * channel : 2 * channel - headSize + 1);
    moved.set(data.subarray(from * width, (from + 1) * width), row * width);
  }
  return {shape, data: moved};
}
