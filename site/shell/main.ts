/** @file What every page runs: the theme and the search. */
import {startSearch} from './search.js';
import {startTheme} from './theme.js';

const header = document.querySelector<HTMLElement>('.site-header')!;
startTheme(header.querySelector<HTMLElement>('.theme')!);
startSearch(header.querySelector<HTMLElement>('.search-open')!, header.dataset.root!);
