/** @file Checks that links of the built pages lead to files of the site and to places in them. */
import {existsSync, readFileSync, statSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {parseHTML} from 'linkedom';
import {pagesOf} from './guide.js';

/** Addresses of a page, and the names of its places. */
interface Page {
  links: string[];
  places: Set<string>;
}

function readPage(path: string): Page {
  const {document} = parseHTML(readFileSync(path, 'utf8'));
  const links = [...document.querySelectorAll('[href], [src]')].flatMap((element) => [
    element.getAttribute('href') ?? [],
    element.getAttribute('src') ?? [],
  ]);
  const places = [...document.querySelectorAll('[id]')].map(({id}) => id);
  return {links: links.flat(), places: new Set(places)};
}

const isOutside = (link: string): boolean => /^(https?:|mailto:|data:)/.test(link);

/** The links of all pages that lead nowhere, as `page: link`. Links to other hosts are not followed. */
export function brokenLinks(output: string): string[] {
  const pages = new Map(pagesOf(output).map((page) => [page, readPage(join(output, page))]));
  const leadsNowhere = (page: string, link: string): boolean => {
    const [path, place] = link.split('#', 2).map(decodeURIComponent);
    const target = path === '' ? page : join(dirname(page), path.split('?')[0]);
    const file = join(output, target);
    if (target.startsWith('..') || !existsSync(file) || !statSync(file).isFile()) return true;
    return place !== undefined && place !== '' && pages.get(target)?.places.has(place) === false;
  };
  return [...pages].flatMap(([page, {links}]) =>
    links.filter((link) => !isOutside(link) && leadsNowhere(page, link)).map((link) => `${page}: ${link}`),
  );
}
