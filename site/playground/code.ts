/** @file Shows lines of code with colours. */
import {make} from '../shell/dom.js';

/** Comments, strings, keywords and numbers. */
const TOKENS = /(\/\/.*)|('[^']*')|\b(import|from|const|await|new)\b|\b(\d+|true|false)\b/g;
const CLASSES = ['comment', 'string', 'keyword', 'number'];
/** Longer texts, such as pasted matrices, stay plain. */
const LONGEST = 4000;

export function showCode(element: HTMLElement, text: string): void {
  if (element.dataset.code === text) return;
  element.dataset.code = text;
  if (text.length > LONGEST) {
    element.textContent = text;
    return;
  }
  const parts: (Node | string)[] = [];
  let from = 0;
  for (const match of text.matchAll(TOKENS)) {
    parts.push(text.slice(from, match.index));
    const kind = CLASSES[match.slice(1).findIndex((group) => group !== undefined)];
    parts.push(make('span', {class: `code-${kind}`}, match[0]));
    from = match.index + match[0].length;
  }
  element.replaceChildren(...parts, text.slice(from));
}
