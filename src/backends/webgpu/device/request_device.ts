/** @file A WebGPU device with as many of the wanted features and limits as its adapter gives. */

/** What a device is asked for, where the adapter offers it. Both lists: what is best gone without first. */
export interface Wishes {
  features: readonly string[];
  limits: readonly string[];
}

/** A device, and what the adapter offers and yet refused. */
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

/** What to go without, try by try: nothing; each one alone; more and more of them; everything. */
function concessions({features, limits}: Offer): string[][] {
  const names = [...features, ...limits.map(([name]) => name)];
  return [[], ...names.map((name) => [name]), ...names.slice(1).map((_, i) => names.slice(0, i + 2))];
}

/**
 * Requests a device with all that the adapter offers of `wishes`. An adapter may offer what its driver then refuses,
 * most likely an experimental feature: the device goes without one thing at a time, from the first of each list on,
 * until there is a device.
 *
 * @throws Error if the adapter gives not even a device without any of them.
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
