/**
 * @file The copy pass. It copies rows of `copyLength` elements from one buffer to another, where they may have a
 * different stride. It gathers the heads of a slice that are not contiguous, and scatters them back
 * (src/backends/webgpu/run/slice_views.ts).
 */
import type {elementType} from '../header.js';
import type {Shader} from '../shader.js';

/** Elements are vec4f if a head is a whole number of them, otherwise f32. One thread per element. */
export const copyRows: Shader<{element: ReturnType<typeof elementType>}> = {
  name: 'copy_rows',
  fields: {element: true},
  bindings: ({element}) => [
    {name: 'source', type: element, access: 'read'},
    {name: 'result', type: element, access: 'read_write'},
  ],
  threads: () => 256,
  item: 'thread',
  declarations: () => '',
  body: () => `
let row = item / u.copyLength;
let at = item % u.copyLength;
result[u.resultFirst + row * u.resultStride + at] = source[u.sourceFirst + row * u.sourceStride + at];`,
};
