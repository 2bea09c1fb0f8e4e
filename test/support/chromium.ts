/**
 * @file Headless Chromium with WebGPU and WebGL on SwiftShader, from the npm package that `useWebGPU()` also uses for
 * its software driver, and a server for the pages.
 */
import {createReadStream, existsSync, statSync} from 'node:fs';
import {type Server, createServer} from 'node:http';
import type {AddressInfo} from 'node:net';
import {extname, join} from 'node:path';
import {type Browser, chromium as playwright} from 'playwright-core';

const FLAGS = [
  '--no-sandbox',
  // Otherwise Chromium keeps requesting hosts that a test machine cannot reach.
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--no-first-run',
];
const WITH_GPU = [
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
  '--use-angle=swiftshader',
  '--enable-unsafe-swiftshader',
  '--enable-features=Vulkan',
  // As src/node_webgpu/dawn.ts: shaders compile in a quarter of the time.
  '--disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension',
];

/**
 * Chromium, or the reason why it is missing.
 *
 * @param gpu Whether pages have WebGPU and WebGL. Without them pages are drawn in a third of the time.
 */
export async function launch({gpu}: {gpu: boolean}): Promise<Browser | string> {
  try {
    const {default: chromium} = await import('@sparticuz/chromium');
    const args = [...FLAGS, ...(gpu ? WITH_GPU : ['--disable-gpu'])];
    return await playwright.launch({executablePath: await chromium.executablePath(), args});
  } catch (error) {
    return (error as Error).message.split('\n')[0];
  }
}

const TYPES: Record<string, string> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
};

/**
 * Serves a folder over HTTP: WebGPU needs a secure context, which localhost is and a file URL is not.
 *
 * @param below The path that the folder's files are below, as on a host with other sites.
 */
export async function serve(folder: string, below = '/'): Promise<{server: Server; address: string}> {
  const server = createServer((request, response) => {
    const {pathname} = new URL(request.url ?? '/', 'http://localhost');
    const path = join(folder, pathname.slice(below.length - 1), pathname.endsWith('/') ? 'index.html' : '');
    if (!pathname.startsWith(below) || !existsSync(path) || !statSync(path).isFile()) {
      response.writeHead(404).end();
      return;
    }
    response.setHeader('content-type', TYPES[extname(path)] ?? 'application/octet-stream');
    createReadStream(path).pipe(response);
  });
  await new Promise<void>((resolve) => server.listen(0, 'localhost', resolve));
  return {server, address: `http://localhost:${(server.address() as AddressInfo).port}${below}`};
}
