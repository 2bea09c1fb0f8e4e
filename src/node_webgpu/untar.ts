/** @file Reads the regular files of a tar archive that is already in memory. */

const BLOCK = 512;

function textField(header: Uint8Array, start: number, length: number): string {
  const field = header.subarray(start, start + length);
  const end = field.indexOf(0);
  return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end)).trim();
}

/**
 * The regular files of a tar archive, by path. Throws `truncated archive` if a file ends past the archive.
 *
 * @example untar(tar).get('lib/libvulkan.so.1')
 */
export function untar(archive: Uint8Array): Map<string, Uint8Array> {
  const files = new Map<string, Uint8Array>();
  for (let at = 0; at + BLOCK <= archive.length && archive[at] !== 0;) {
    const header = archive.subarray(at, at + BLOCK);
    const size = parseInt(textField(header, 124, 12), 8);
    const start = at + BLOCK;
    if (!Number.isFinite(size) || start + size > archive.length) {
      throw new Error('truncated archive');
    }
    const type = header[156];
    if (type === 0 || type === '0'.charCodeAt(0)) {
      files.set(textField(header, 0, 100), archive.subarray(start, start + size));
    }
    at = start + Math.ceil(size / BLOCK) * BLOCK;
  }
  return files;
}
