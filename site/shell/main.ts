/** @file What every page runs: the theme, the search, and what the guide needs. */
import {startGuide} from './guide.js';
import {startSearch} from './search.js';
import {startTheme} from './theme.js';

const header = document.querySelector<HTMLElement>('.site-header')!;
startTheme(header.querySelector<HTMLElement>('.theme')!);
startSearch(header.querySelector<HTMLElement>('.search-open')!, header.dataset.root!);
startGuide();
