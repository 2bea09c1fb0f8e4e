/** @file The built site in Chromium, for the tests: pages that collect what goes wrong. */
import type {Server} from 'node:http';
import type {Browser, BrowserContext, Page} from 'playwright-core';
import {output} from '../../site/vite.config.js';
import {serve} from './chromium.js';

/** Pages are below a path, as on a host with other sites. */
const BELOW = '/some/where/';

export class SitePages {
  /** What the pages logged as errors, threw, or asked for in vain. */
  readonly problems: string[] = [];

  static async open(browser: Browser): Promise<SitePages> {
    const {server, address} = await serve(output, BELOW);
    return new SitePages(browser, server, address);
  }

  private constructor(
    private readonly browser: Browser,
    private readonly server: Server,
    readonly address: string,
  ) {}

  /**
   * A page of its own context: its storage is empty.
   *
   * @param options `before` is a script that runs before those of the page.
   */
  async visit(
    path: string,
    options: Parameters<Browser['newContext']>[0] & {before?: string; browser?: Browser} = {},
  ): Promise<Page> {
    const {before, browser = this.browser, ...rest} = options;
    const context = await browser.newContext({viewport: {width: 1280, height: 900}, ...rest});
    if (before !== undefined) await context.addInitScript(before);
    const page = await context.newPage();
    this.watch(context, page);
    await page.goto(this.address + path);
    return page;
  }

  private watch(context: BrowserContext, page: Page): void {
    const note = (text: string): void => void this.problems.push(`${page.url()}: ${text}`);
    page.on('console', (message) => {
      if (message.type() === 'error') note(message.text());
    });
    page.on('pageerror', ({message}) => note(message));
    context.on('requestfailed', (request) => note(`no answer from ${request.url()}`));
    context.on('response', (response) => {
      if (response.status() >= 400) note(`${response.status()} from ${response.url()}`);
    });
    // Nothing comes from other hosts.
    context.on('request', (request) => {
      if (/^https?:/.test(request.url()) && !request.url().startsWith(this.address)) note(`asks ${request.url()}`);
    });
  }

  close(): void {
    this.server.close();
  }
}
