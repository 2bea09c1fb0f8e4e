/** @file What TypeDoc's pages lack for keyboards and screen readers. */
import {make} from './dom.js';

/** A line of TypeDoc's navigation is a link in a switch, and only one of the two can be reached. Parts them. */
function partLinks(): void {
  for (const link of document.querySelectorAll('.tsd-navigation summary > a')) {
    const {parentElement: summary} = link;
    const label = make('span', {}, ...link.childNodes);
    link.replaceWith(label);
    link.replaceChildren('Overview');
    summary!.parentElement!.querySelector('ul')?.prepend(make('li', {}, link));
  }
}

/** What scrolls sideways can be reached by the keyboard. */
function reachScrollers(): void {
  for (const element of document.querySelectorAll<HTMLElement>('.guide :is(table, pre)')) {
    if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
  }
}

/** Opens and closes the navigation, which lies over the page in narrow windows. */
function startMenu(button: HTMLElement): void {
  const open = (wanted: boolean): void => {
    document.documentElement.classList.toggle('has-menu', wanted);
    button.setAttribute('aria-expanded', String(wanted));
  };
  button.addEventListener('click', () => {
    open(button.getAttribute('aria-expanded') === 'false');
  });
  document.querySelector('.overlay')?.addEventListener('click', () => {
    open(false);
  });
  addEventListener('keydown', ({key}) => {
    if (key === 'Escape') open(false);
  });
}

/** Does nothing on other pages. TypeDoc's script writes the navigation later. */
export function startGuide(): void {
  const navigation = document.getElementById('tsd-nav-container');
  if (navigation !== null) new MutationObserver(partLinks).observe(navigation, {childList: true});
  partLinks();
  const menu = document.querySelector<HTMLElement>('.guide-menu');
  if (menu !== null) startMenu(menu);
  // TypeDoc shows the page only when its navigation is there.
  new ResizeObserver(reachScrollers).observe(document.getElementById('main')!);
}
