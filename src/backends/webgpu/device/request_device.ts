/** @file A WebGPU device with as many of the wanted features and limits as its adapter gives. */

/** The features and limits to request if the adapter offers them. In both lists the most dispensable come first. */
export interface Wishes {
  features: readonly string[];
  limits: readonly string[];
}

/** A device, and the features and limits that the adapter offered and yet refused. */
export interface GrantedDevice {
  device: GPUDevice;
  refused: string[];
}

/** The wishes that an adapter says it can grant, with the values of the limits. */
interface Offer {
  features: string[];
  limits: [name: string, value: number][];
}

function offerOf(adapter: GPUAdapter, {features, limits}: Wishes): Offer {
  const values = adapter.limits as unknown as Record<string, number | undefined>;
  return {
    features: features.filter((name) => adapter.features.has(name)),
    limits: limits.flatMap((name): [string, number][] => (values[name] === undefined ? [] : [[name, values[name]]])),
  };
}

function without({features, limits}: Offer, names: readonly string[]): GPUDeviceDescriptor {
  const kept = (name: string): boolean => !names.includes(name);
  return {
    requiredFeatures: features.filter(kept) as GPUFeatureName[],
    requiredLimits: Object.fromEntries(limits.filter(([name]) => kept(name))),
  };
}

/** The names to leave out, attempt by attempt: none; each name alone; more and more names; all names. */
function concessions({features, limits}: Offer): string[][] {
  const names = [...features, ...limits.map(([name]) => name)];
  return [[], ...names.map((name) => [name]), ...names.slice(1).map((_, i) => names.slice(0, i + 2))];
}

/**
 * Requests a device with everything of `wishes` that the adapter offers. An adapter may offer something that its driver
 * then refuses, most likely an experimental feature. The request is then repeated without one name at a time, from the
 * first of each list on, and then without more and more names, until there is a device.
 *
 * @throws Error if the adapter does not even give a device without any of them.
 */
export async function requestDevice(adapter: GPUAdapter, wishes: Wishes): Promise<GrantedDevice> {
  const offer = offerOf(adapter, wishes);
  let reason: unknown;
  for (const refused of concessions(offer)) {
    try {
      return {device: await adapter.requestDevice(without(offer, refused)), refused};
    } catch (error) {
      reason = error;
    }
  }
  throw new Error(
    `tfjs-flashmask: the WebGPU adapter must give a device, got '${(reason as Error).message}'. Update the GPU driver; ` +
      'if it is an adapter of yours, request another, for each gives one device.',
    {cause: reason},
  );
}
