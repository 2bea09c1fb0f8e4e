/** @file What a test needs to run a command in its own process: another folder and environment, and a look at what is left behind. */

export interface Surroundings {
  /** The folder that a command runs in; otherwise this process's own. */
  cwd?: string;
  /** Added to this process's environment. */
  env?: NodeJS.ProcessEnv;
}

/** Does `work` in a folder and an environment. */
export async function within<T>({cwd, env = {}}: Surroundings, work: () => Promise<T>): Promise<T> {
  const [folder, environment] = [process.cwd(), {...process.env}];
  if (cwd !== undefined) process.chdir(cwd);
  Object.assign(process.env, env);
  try {
    return await work();
  } finally {
    process.chdir(folder);
    for (const name of Object.keys(env)) {
      if (environment[name] === undefined) Reflect.deleteProperty(process.env, name);
      else process.env[name] = environment[name];
    }
  }
}

/** What a command could leave behind in any process: the environment, the exit code, listeners. */
export function processTraces(): object {
  return {
    environment: {...process.env},
    exitCode: process.exitCode,
    listeners: process.eventNames().map((name) => `${String(name)} ${process.listenerCount(name)}`),
  };
}
