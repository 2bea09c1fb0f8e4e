/**
 * @file The device of createWebGPUBackend(): which missing features and limits it works without, and which subgroup
 * matrices it may use. Needs no GPU.
 */
import {expect} from 'chai';
import {create, globals} from 'webgpu';
import {
  type AdapterInfo,
  MATRIX_FEATURES,
  findMatrices,
  usableMatrices,
} from '../../src/backends/webgpu/device/matrix_probe.js';
import {requestDevice} from '../../src/backends/webgpu/device/request_device.js';
import {matrixProbe} from '../../src/backends/webgpu/wgsl/matrix/probe.js';
import {specialize} from '../../src/backends/webgpu/wgsl/shader.js';

const wishes = {features: ['matrices', 'halves', 'stock'], limits: ['least', 'most', 'unheard-of']};

/** An adapter that offers `wishes`, refuses the devices for which `refuses` returns true, and records its requests. */
function fakeAdapter(refuses: (names: string[]) => boolean) {
  const asked: GPUDeviceDescriptor[] = [];
  const adapter = {
    features: new Set([...wishes.features, 'unwanted']),
    limits: {least: 1, most: 2, unwanted: 3},
    requestDevice: (descriptor: GPUDeviceDescriptor): Promise<GPUDevice> => {
      asked.push(descriptor);
      const names = [...descriptor.requiredFeatures!, ...Object.keys(descriptor.requiredLimits!)];
      return refuses(names)
        ? Promise.reject(new Error('the driver is old'))
        : Promise.resolve({names} as unknown as GPUDevice);
    },
  };
  const request = async (): Promise<{names: string[]; refused: string[]}> => {
    const {device, refused} = await requestDevice(adapter as unknown as GPUAdapter, wishes);
    return {names: (device as unknown as {names: string[]}).names, refused};
  };
  return {request, asked};
}

describe('requestDevice', () => {
  it('asks for everything that is wished and offered, with the values of the adapter', async () => {
    const {request, asked} = fakeAdapter(() => false);
    expect((await request()).refused).to.deep.equal([]);
    expect(asked).to.deep.equal([{requiredFeatures: wishes.features, requiredLimits: {least: 1, most: 2}}]);
  });

  for (const name of ['matrices', 'halves', 'stock', 'least', 'most']) {
    it(`goes without ${name} alone if that is what the adapter refuses`, async () => {
      const {names, refused} = await fakeAdapter((names) => names.includes(name)).request();
      expect(refused).to.deep.equal([name]);
      expect(names).to.have.length(4);
    });
  }

  it('goes without several, the experimental ones first', async () => {
    const {request} = fakeAdapter((names) => names.includes('matrices') || names.includes('halves'));
    expect(await request()).to.deep.equal({names: ['stock', 'least', 'most'], refused: ['matrices', 'halves']});
  });

  it('takes a bare device if there is no other', async () => {
    expect((await fakeAdapter((names) => names.length > 0).request()).names).to.deep.equal([]);
  });

  it('says so if there is none at all', async () => {
    const error = await fakeAdapter(() => true)
      .request()
      .catch((error: unknown) => (error as Error).message);
    expect(error).to.match(/adapter must give a device, got 'the driver is old'\. Update the GPU driver/);
  });
});

const half = (M: number, N: number, K: number) => ({componentType: 'f16', resultComponentType: 'f32', M, N, K});
const info = (...subgroupMatrixConfigs: ReturnType<typeof half>[]): AdapterInfo => ({
  subgroupMinSize: 32,
  subgroupMaxSize: 32,
  subgroupMatrixConfigs,
});

describe('subgroup matrices', () => {
  it('are taken by preference: 16 x 16 x 16, else the largest', () => {
    const kinds = info(half(8, 8, 8), half(32, 16, 16), half(16, 16, 16), half(16, 8, 16));
    const sizes = usableMatrices(kinds).map(({M, N, K, lanes}) => [M, N, K, lanes]);
    expect(sizes).to.deep.equal([
      [16, 16, 16, 32],
      [32, 16, 16, 32],
      [16, 8, 16, 32],
      [8, 8, 8, 32],
    ]);
  });

  it('must multiply float16 into float32, in sides that the passes can fill', () => {
    const bytes = {...half(16, 16, 16), componentType: 'u8', resultComponentType: 'u32'};
    const halfSums = {...half(16, 16, 16), resultComponentType: 'f16'};
    expect(usableMatrices(info(bytes, halfSums, half(4, 8, 8), half(8, 4, 8), half(8, 8, 64), half(24, 8, 8)))).to.be
      .empty;
  });

  it('need subgroups of one known size', () => {
    const kinds = info(half(8, 8, 8));
    expect(usableMatrices({...kinds, subgroupMinSize: 16})).to.be.empty;
    expect(usableMatrices({subgroupMatrixConfigs: [half(8, 8, 8)]})).to.be.empty;
    expect(usableMatrices({...kinds, subgroupMatrixConfigs: undefined})).to.be.empty;
  });

  describe("on Dawn's null adapter, which computes nothing", () => {
    // Dawn frees its devices with this object.
    let gpu: GPU;
    const uncaptured: string[] = [];
    const deviceWith = async (features: readonly string[]): Promise<GPUDevice> => {
      const adapter = (await gpu.requestAdapter())!;
      const device = await adapter.requestDevice({requiredFeatures: features as GPUFeatureName[]});
      device.addEventListener('uncapturederror', ({error}) => uncaptured.push(error.message));
      return device;
    };

    before(() => {
      Object.assign(globalThis, globals);
      gpu = create(['backend=null', 'enable-dawn-features=allow_unsafe_apis']);
    });

    it('are refused without their feature', async () => {
      const device = await deviceWith(MATRIX_FEATURES.slice(0, 2));
      const {matrix, reason} = await findMatrices(device, info(half(16, 16, 16)));
      expect({matrix, reason}).to.deep.equal({matrix: null, reason: `the device has no ${MATRIX_FEATURES[2]}`});
      device.destroy();
    });

    it('are refused where a trial fails, and nobody else hears of it', async () => {
      const device = await deviceWith(MATRIX_FEATURES);
      const lanes = {subgroupMinSize: 128, subgroupMaxSize: 128};
      const {matrix, reason} = await findMatrices(device, {...info(half(8, 8, 8), half(16, 16, 16)), ...lanes});
      expect(matrix).to.equal(null);
      expect(reason).to.match(/^matrices of 8 x 8 x 8 fail a trial: /);
      const ranged = await findMatrices(device, {...info(half(8, 8, 8)), subgroupMinSize: 8});
      expect(ranged.reason).to.match(/from 8 to 32 lanes/);
      await device.queue.onSubmittedWorkDone();
      expect(uncaptured).to.deep.equal([]);
      device.destroy();
    });

    it('are tried by a shader that is valid WGSL', async () => {
      const device = await deviceWith(MATRIX_FEATURES);
      for (const [M, N, K] of [
        [16, 16, 16],
        [8, 8, 8],
        [16, 8, 16],
        [8, 16, 32],
      ]) {
        const module = device.createShaderModule({code: specialize(matrixProbe, {M, N, K, lanes: 32}).code});
        const {messages} = await module.getCompilationInfo();
        expect(messages.map(({message}) => message)).to.deep.equal([]);
      }
      device.destroy();
    });
  });
});
