/**
 * @file Lets a test run a command in its own process: in another folder and environment, and with a check of what the
 * command leaves behind.
 */

export interface Surroundings {
  /** The folder in which the command runs. Default: this process's folder. */
  cwd?: string;
  /** Variables added to this process's environment. */
  env?: NodeJS.ProcessEnv;
}

/** Runs `work` in a folder and an environment. */
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

/** What any command could leave changed in its process: the environment, the exit code, listeners. */
export function processTraces(): object {
  return {
    environment: {...process.env},
    exitCode: process.exitCode,
    listeners: process.eventNames().map((name) => `${String(name)} ${process.listenerCount(name)}`),
  };
}
