/**
 * @file The command line `npm run finetune -- sft | dpo | rm | generate | score | merge | demo`: trains real language
 * models with flashMaskAttention on tfjs-node or WebGPU. docs/finetune.md walks through it.
 */
import {run} from './command_line.js';
import {processIo, watchOutput} from './io.js';

// Otherwise TensorFlow's start-up messages fill the screen.
process.env.TF_CPP_MIN_LOG_LEVEL ??= '2';
watchOutput();
process.exitCode = await run(process.argv.slice(2), processIo);
