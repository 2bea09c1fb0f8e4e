/**
 * @file The command line `npm run finetune -- sft | dpo | rm | generate | score | merge | demo`: trains real language
 * models with flashMaskAttention on tfjs-node or WebGPU. docs/finetune.md walks through it.
 */
import {run} from './command_line.js';
import {processIo, watchOutput} from './io.js';
import {setUpTensorFlow} from './set_up.js';

// Otherwise TensorFlow's start-up messages fill the screen.
process.env.TF_CPP_MIN_LOG_LEVEL ??= '2';
watchOutput();
// The scripts of package.json give the flag, so that a first run sets itself up.
const [first, ...rest] = process.argv.slice(2);
const setsUp = first === '--set-up';
process.exitCode = await run(setsUp ? rest : process.argv.slice(2), processIo, setsUp ? setUpTensorFlow : undefined);
