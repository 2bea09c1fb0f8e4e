/** @file Keeps the bind groups of a device. */
import {remember} from '../../../../call/remember.js';

/** Most bind groups that stay: a training step of 30 layers has about 4,000, and updated weights change places. */
const MOST = 32768;

/** The bind groups that begin with the same layout and bindings. */
interface Branch {
  next: Map<number, Branch>;
  bindGroup?: GPUBindGroup;
}

const NUMBERS = Symbol('tfjs-flashmask.numbers');

/** Numbers of a layout, or of the ranges of a buffer that are bound: most buffers have one. */
type Numbered = object & {[NUMBERS]?: {offset: number; size: number; number: number}[]};

let numbered = 0;

/** A number that stands for an object, or for a range of a buffer. */
function numberOf(object: Numbered, offset: number, size: number): number {
  const ranges = (object[NUMBERS] ??= []);
  for (const range of ranges) if (range.offset === offset && range.size === size) return range.number;
  ranges.push({offset, size, number: ++numbered});
  return numbered;
}

const newBranch = (): Branch => ({next: new Map<number, Branch>()});

/** One bind group for all dispatches of a pipeline with the same buffers. */
export function keepBindGroups(device: GPUDevice): void {
  // A device may get another backend, after tf.engine().reset().
  if (Object.hasOwn(device, 'createComputePipeline')) return;
  keepLayouts(device);
  const createBindGroup = device.createBindGroup.bind(device);
  let root = newBranch();
  let count = 0;
  device.createBindGroup = (descriptor) => {
    let branch = remember(root.next, numberOf(descriptor.layout, 0, 0), newBranch);
    for (const {resource} of descriptor.entries) {
      const {buffer, offset = 0, size = 0} = resource as GPUBufferBinding;
      if (!buffer) return createBindGroup(descriptor); // A texture or a sampler.
      branch = remember(branch.next, numberOf(buffer, offset, size), newBranch);
    }
    if (branch.bindGroup) return branch.bindGroup;
    if (++count > MOST) {
      root = newBranch();
      count = 0;
      return createBindGroup(descriptor);
    }
    return (branch.bindGroup = createBindGroup(descriptor));
  };
}

/** One layout object per pipeline. */
function keepLayouts(device: GPUDevice): void {
  const createPipeline = device.createComputePipeline.bind(device);
  const createPipelineAsync = device.createComputePipelineAsync.bind(device);
  const withLayouts = <T extends GPUComputePipeline>(pipeline: T): T => {
    const layouts: GPUBindGroupLayout[] = [];
    const getBindGroupLayout = pipeline.getBindGroupLayout.bind(pipeline);
    pipeline.getBindGroupLayout = (i) => (layouts[i] ??= getBindGroupLayout(i));
    return pipeline;
  };
  device.createComputePipeline = (descriptor) => withLayouts(createPipeline(descriptor));
  device.createComputePipelineAsync = async (descriptor) => withLayouts(await createPipelineAsync(descriptor));
}
