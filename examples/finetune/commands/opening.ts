/** @file Opens a device, a model or an output folder until the end of a command. */
import {type BackendName, type Device, startDevice} from '../device.js';
import type {Session} from '../io.js';
import {OutputFolder} from '../train/output_folder.js';
import {type ModelFiles, openModel} from '../weights/model_files.js';

export async function openDevice(name: BackendName, session: Session): Promise<Device> {
  const device = await startDevice(name);
  session.atEnd(() => device.close());
  return device;
}

export async function openFiles(model: string, session: Session): Promise<ModelFiles> {
  const files = await openModel(model, {io: session.io});
  session.atEnd(() => files.close());
  return files;
}

export function openOutput(path: string, session: Session): OutputFolder {
  const output = OutputFolder.open(path);
  session.atEnd(() => output.close());
  return output;
}
