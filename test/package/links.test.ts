/**
 * @file Links in all Markdown files lead to files of this repository and to headings in them. Files and npm commands
 * that the texts name exist. Pictures of README.md also show on npm.
 */
import {execFileSync} from 'node:child_process';
import {existsSync, readFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {expect} from 'chai';

const root = fileURLToPath(new URL('../..', import.meta.url));
/** npm shows README.md without the repository, so its pictures have absolute addresses of files on the main branch. */
const RAW = 'https://raw.githubusercontent.com/tfjs-flashmask/tfjs-flashmask/main/';

const tracked = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '*.md'], {
  cwd: root,
  encoding: 'utf8',
});
const documents = tracked.split('\n').filter((path) => path !== '' && existsSync(join(root, path)));

const read = (path: string): string => readFileSync(join(root, path), 'utf8');

/** A document without its code, because brackets in code are no links. */
const prose = (markdown: string): string => markdown.replace(/^```[^]*?^```$/gm, '').replace(/`[^`\n]*`/g, '``');

/** Addresses of links and pictures, as written. */
const linksOf = (markdown: string): string[] =>
  [...prose(markdown).matchAll(/\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"/g)].map(
    ([, link, attribute]) => link ?? attribute,
  );

/** Anchors that GitHub gives the headings of a document. */
function anchorsOf(markdown: string): string[] {
  const headings = [...markdown.replace(/^```[^]*?^```$/gm, '').matchAll(/^#+ (.*)$/gm)].map(([, text]) =>
    text.toLowerCase(),
  );
  const anchors = headings.map((text) => text.replace(/[^\p{L}\p{N} _-]/gu, '').replace(/ /g, '-'));
  return anchors.map((anchor, i) => {
    const earlier = anchors.slice(0, i).filter((other) => other === anchor).length;
    return earlier === 0 ? anchor : `${anchor}-${earlier}`;
  });
}

function leadsNowhere(document: string, link: string): boolean {
  const [path, anchor] = link.split('#');
  const target = path === '' ? document : join(dirname(document), path);
  if (!existsSync(join(root, target))) return true;
  return anchor !== undefined && !anchorsOf(read(target)).includes(anchor);
}

describe('links', () => {
  for (const document of documents) {
    it(`lead to files and headings: ${document}`, () => {
      const own = linksOf(read(document)).map((link) =>
        link.startsWith(RAW) ? join(root, link.slice(RAW.length)) : link,
      );
      const broken = own.filter((link) =>
        link.startsWith(root) ? !existsSync(link) : !/^https?:/.test(link) && leadsNowhere(document, link),
      );
      expect(broken).to.deep.equal([]);
    });
  }

  for (const document of documents) {
    it(`name files that exist: ${document}`, () => {
      const named = [
        ...read(document).matchAll(/`((?:src|ops|gradients|native|test|bench|scripts|examples|docs)\/[\w./-]*)`/g),
      ];
      // Commands create docs/api and bench/results, so they may be missing.
      const paths = named.map(([, path]) => path).filter((path) => !/^(docs\/api|bench\/results)/.test(path));
      expect(paths.filter((path) => !existsSync(join(root, path)))).to.deep.equal([]);
    });

    it(`name commands that exist: ${document}`, () => {
      const scripts = (JSON.parse(read('package.json')) as {scripts: Record<string, string>}).scripts;
      const named = [...read(document).matchAll(/\bnpm run ([\w-]+(?::[\w-]+)*)/g)].map(([, name]) => name);
      expect(named.filter((name) => !(name in scripts))).to.deep.equal([]);
    });
  }

  it('of pictures have alternative texts', () => {
    const pictures = documents.flatMap((document) => read(document).match(/<img [^>]*>|!\[[^\]]*\]\(/g) ?? []);
    expect(pictures.filter((picture) => !/alt="[^"]+"|!\[[^\]]/.test(picture))).to.deep.equal([]);
  });

  it('of the pictures in README.md are absolute', () => {
    const pictures = [...read('README.md').matchAll(/<img src="([^"]+)"|!\[[^\]]*\]\(([^)]+)\)/g)].map(
      ([, a, b]) => a ?? b,
    );
    expect(pictures).to.have.length.of.at.least(7);
    expect(pictures.filter((picture) => !picture.startsWith(RAW))).to.deep.equal([]);
  });

  it('find what is broken', () => {
    expect(leadsNowhere('README.md', 'docs/masks.md#gallery')).to.equal(false);
    expect(leadsNowhere('README.md', 'docs/masks.md#nowhere')).to.equal(true);
    expect(leadsNowhere('README.md', 'docs/nowhere.md')).to.equal(true);
    expect(linksOf('[a](b.md#c) `[no](link)` <img src="d.svg">\n```\n[no](code)\n```\n')).to.deep.equal([
      'b.md#c',
      'd.svg',
    ]);
  });
});
