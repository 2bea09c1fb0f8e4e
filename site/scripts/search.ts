/** @file The one search index, over the built pages. */
import {join} from 'node:path';
import {close, createIndex} from 'pagefind';

/** Writes `output`/pagefind. */
export async function indexPages(output: string): Promise<void> {
  const {index, errors} = await createIndex();
  if (!index) throw new Error(`Pagefind does not start: ${errors.join(' ')}`);
  await index.addDirectory({path: output});
  await index.writeFiles({outputPath: join(output, 'pagefind')});
  await close();
}
