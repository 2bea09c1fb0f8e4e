/** @file Writes files that survive a power cut: it calls `fsync` before it reports them as written. */
import {type FileHandle, open} from 'node:fs/promises';

/** Writes text to a new file and flushes it to the disk. */
async function writeDurably(path: string, text: string): Promise<void> {
  await withFile(path, 'w', async (file) => {
    await file.writeFile(text);
    await file.sync();
  });
}

/** Writes indented JSON, as Hugging Face's packages do. */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeDurably(path, `${JSON.stringify(value, null, 2)}\n`);
}

/** Flushes a folder's list of names to the disk. Windows cannot open folders and needs no such call. */
export async function syncFolder(folder: string): Promise<void> {
  if (process.platform !== 'win32') {
    await withFile(folder, 'r', (handle) => handle.sync());
  }
}

async function withFile(path: string, flags: string, use: (file: FileHandle) => Promise<void>): Promise<void> {
  const file = await open(path, flags);
  try {
    await use(file);
  } finally {
    await file.close();
  }
}
