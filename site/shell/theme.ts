/** @file Light, dark, or as the system: the button of the header. TypeDoc's pages read the same setting. */

const KEY = 'tsd-theme';
const THEMES = ['os', 'light', 'dark'] as const;
type Theme = (typeof THEMES)[number];

const NAMES: Record<Theme, string> = {os: 'as the system', light: 'light', dark: 'dark'};

/** Where storage is forbidden the theme lasts as long as the page. */
function remembered(): Theme {
  try {
    const theme = localStorage.getItem(KEY) as Theme | null;
    return theme !== null && THEMES.includes(theme) ? theme : 'os';
  } catch {
    return 'os';
  }
}

function apply(theme: Theme, button: HTMLElement): void {
  document.documentElement.dataset.theme = theme;
  button.setAttribute('aria-label', `Theme: ${NAMES[theme]}`);
  button.title = `Theme: ${NAMES[theme]}`;
  document.dispatchEvent(new CustomEvent('theme'));
}

/** Makes the button go through the themes. */
export function startTheme(button: HTMLElement): void {
  let theme = remembered();
  apply(theme, button);
  button.addEventListener('click', () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // Only this page changes.
    }
    apply(theme, button);
  });
}

/** Calls `change` when colours change, by the button or by the system. */
export function onTheme(change: () => void): void {
  document.addEventListener('theme', change);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', change);
}
