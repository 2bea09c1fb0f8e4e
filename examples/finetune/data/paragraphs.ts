/** @file Cuts texts into paragraphs. */

/** Groups the lines of a text into paragraphs, each as long as fits, without blank lines at the ends. */
export function paragraphs(text: string, fits: (part: string) => boolean): string[] {
  const parts: string[] = [];
  let current = '';
  for (const line of text.split(/(?<=\n)/)) {
    if (current !== '' && !fits(current + line)) {
      parts.push(current);
      current = '';
    }
    current += line;
  }
  return [...parts, current].map((part) => part.replace(/^\n+/, '').trimEnd()).filter((part) => part !== '');
}
