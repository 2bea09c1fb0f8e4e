/**
 * @file `npm run lint` starts with this: the errors of eslint and of TypeScript, as `eslint .` and `tsc -p .` report
 * them. Both read the same program, because each of the two works out the types of all files.
 */
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {ESLint} from 'eslint';
import ts from 'typescript';

const root = fileURLToPath(new URL('..', import.meta.url));

function readProgram() {
  const host = {...ts.sys, onUnRecoverableConfigFileDiagnostic: (error) => reportTypes([error])};
  const config = ts.getParsedCommandLineOfConfigFile(join(root, 'tsconfig.json'), {}, host);
  if (config === undefined) process.exit(1);
  const {fileNames, options, errors, projectReferences} = config;
  return ts.createProgram({
    rootNames: fileNames,
    options,
    projectReferences,
    configFileParsingDiagnostics: errors,
  });
}

/** @returns whether there is an error */
function reportTypes(diagnostics) {
  const host = {getCanonicalFileName: (name) => name, getCurrentDirectory: () => root, getNewLine: () => '\n'};
  if (diagnostics.length > 0) console.log(ts.formatDiagnostics(diagnostics, host));
  return diagnostics.length > 0;
}

/** @returns whether there is an error */
async function lint(program) {
  const ofTypeScript = {files: ['**/*.ts'], languageOptions: {parserOptions: {project: null, programs: [program]}}};
  const eslint = new ESLint({cwd: root, overrideConfig: [ofTypeScript]});
  const results = await eslint.lintFiles(['.']);
  const {format} = await eslint.loadFormatter('stylish');
  const text = await format(results);
  if (text) console.log(text);
  return results.some(({errorCount}) => errorCount > 0);
}

const program = readProgram();
const wrong = [await lint(program), reportTypes(ts.getPreEmitDiagnostics(program))];
process.exit(wrong.includes(true) ? 1 : 0);
