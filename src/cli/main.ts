#!/usr/bin/env node
/** @file The command `tfjs-flashmask`. */
import {run} from './command_line.js';
import {terminal} from './progress.js';

process.exitCode = await run(process.argv.slice(2), {print: (line) => console.log(line), console: terminal});
