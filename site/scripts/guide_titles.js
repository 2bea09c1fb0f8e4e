/** @file TypeDoc names its documents by their files; this names them by their first headings. */
import {Converter} from 'typedoc';

/** @param {import('typedoc').Application} app */
export function load(app) {
  app.converter.on(Converter.EVENT_RESOLVE_END, ({project}) => {
    for (const document of project.documents ?? []) {
      const heading = /^# (.+)$/m.exec(document.content.map(({text}) => text).join(''));
      if (heading) document.name = heading[1];
    }
  });
}
