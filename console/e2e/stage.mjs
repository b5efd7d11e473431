// The stage of the browser tests: the real hub with this machine as an edge device, and a browser.
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { request } from 'node:https'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { chromium } from 'playwright-core'

export const DEVICE = 'this-machine'
const here = dirname(dirname(fileURLToPath(import.meta.url)))
/** How long hub, runtime and modules may take to be up, in milliseconds. */
const START_MS_MAX = 60_000
const STOP_MS_MAX = 40_000
const BROWSERS = ['chromium', 'chromium-browser', 'google-chrome']

/** Waits for a condition; fails with its words. */
export async function until(what, condition, limit = 30_000, step = 100) {
  const end = Date.now() + limit
  for (;;) {
    const value = await condition()
    if (value) return value
    if (Date.now() > end) assert.fail(`not within ${limit / 1000} s: ${what}`)
    await new Promise((go) => setTimeout(go, step))
  }
}

function binaries() {
  const folder = process.env.SELVEDGE_BIN ?? join(dirname(here), 'target/x86_64-unknown-linux-gnu/release')
  assert.ok(existsSync(join(folder, 'selvedge')), `${folder} has no selvedge; \`cargo xtask build\` makes it, SELVEDGE_BIN names another folder`)
  return folder
}

function browserPath() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM
  for (const name of BROWSERS) {
    for (const folder of (process.env.PATH ?? '').split(':')) if (existsSync(join(folder, name))) return join(folder, name)
  }
  return assert.fail('there is no Chromium; apt-get install chromium, or name one in CHROMIUM')
}

export class Stage {
  static async open() {
    const stage = new Stage()
    stage.folder = mkdtempSync(join(tmpdir(), 'sv-'))
    stage.program = join(binaries(), 'selvedge')
    // An address of its own: the router's port is fixed.
    const gateway = `127.${20 + (process.pid % 200)}.${1 + ((process.pid >> 8) % 250)}.2`
    const files = process.env.CONSOLE_DIR ? ['--console-dir', process.env.CONSOLE_DIR] : []
    const engine = process.env.ENGINE ?? 'process'
    const images = engine === 'embedded' ? ['--images', process.env.SELVEDGE_IMAGES ?? join(dirname(here), 'target/images')] : []
    stage.up = spawn(stage.program, ['up', '--data', stage.folder, '--engine', engine, ...images, '--gateway', gateway, ...files], { stdio: ['ignore', 'pipe', 'pipe'] })
    stage.output = ''
    for (const pipe of [stage.up.stdout, stage.up.stderr]) pipe.on('data', (text) => (stage.output += text))
    stage.ended = new Promise((go) => stage.up.on('exit', go))
    try {
      await until('the hub is ready', () => /`selvedge console` prints a link/u.test(stage.output), START_MS_MAX)
      // What owns the hub must not stand in the log of whoever keeps what it prints.
      assert.ok(!stage.output.includes('#token='), 'a link was printed to what is no terminal')
      stage.hub = JSON.parse(readFileSync(join(stage.folder, 'hub/endpoint.json'), 'utf8'))
      stage.ca = readFileSync(join(stage.folder, 'hub/ca.pem'))
      await until(
        'both modules run',
        async () => {
          const twin = await stage.get(`/twins/${DEVICE}/modules/${encodeURIComponent('$edgeAgent')}`).catch(() => undefined)
          const modules = Object.values(twin?.properties.reported.modules ?? {})
          return modules.length === 2 && modules.every((module) => module.runtimeStatus === 'running')
        },
        START_MS_MAX,
      )
      stage.browser = await chromium.launch({ executablePath: browserPath(), args: ['--no-sandbox', '--force-color-profile=srgb'] })
      stage.origin = new URL(stage.link()).origin
    } catch (error) {
      console.error(stage.output)
      await stage.close()
      throw error
    }
    return stage
  }

  /** The first link of the command line, the same at each call; works once. */
  link() {
    this.first ??= this.freshLink()
    return this.first
  }

  /** A fresh link from the command line. */
  freshLink() {
    return this.cli('console').trim()
  }

  cli(...args) {
    return execFileSync(this.program, [...args, '--data', this.folder], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  }

  /** A token of the owner, for ten minutes. */
  token() {
    const login = readFileSync(join(this.folder, 'hub/owner.connection'), 'utf8').trim()
    const field = (name) => new RegExp(`(?:^|;)${name}=([^;]*)`, 'u').exec(login)[1]
    const resource = encodeURIComponent(field('HostName'))
    const expiry = Math.floor(Date.now() / 1000) + 600
    const signature = createHmac('sha256', Buffer.from(field('SharedAccessKey'), 'base64')).update(`${resource}\n${expiry}`).digest('base64')
    return `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(signature)}&se=${expiry}&skn=${field('SharedAccessKeyName')}`
  }

  /** One call of the public API beside the browser, whatever the answer; the certificate is checked. */
  send(method, called, body) {
    const [host, port] = this.hub.https.split(':')
    // Calls under Azure's paths name a version; our own need none.
    const path = called.startsWith('/api/') ? called : `${called}${called.includes('?') ? '&' : '?'}api-version=2021-04-12`
    const headers = { authorization: this.token(), ...(body === undefined ? {} : { 'content-type': 'application/json' }) }
    return new Promise((done, failed) => {
      const call = request({ method, host, port, path, ca: this.ca, servername: 'localhost', headers }, (answer) => {
        let text = ''
        answer.on('data', (piece) => (text += piece))
        answer.on('end', () => done({ status: answer.statusCode, body: text }))
      })
      call.on('error', failed)
      call.end(body)
    })
  }

  /** A read that must succeed. */
  async get(path) {
    const { status, body } = await this.send('GET', path)
    if (status !== 200) throw new Error(`${path}: ${status} ${body}`)
    return JSON.parse(body)
  }

  /** A browser window of its own, not signed in. What goes wrong in it is remembered. */
  async window(options = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1280, height: 860 }, colorScheme: 'light', ignoreHTTPSErrors: true, ...options })
    context.setDefaultTimeout(20_000)
    context.faults = []
    context.on('page', (page) => {
      page.on('pageerror', (error) => context.faults.push(`error: ${error.message}`))
      page.on('console', (message) => {
        if (message.type() === 'error') context.faults.push(`console: ${message.text()} (${message.location().url})`)
      })
    })
    return context
  }

  async close() {
    await this.browser?.close()
    if (this.up.exitCode === null) {
      this.up.kill('SIGTERM')
      const late = setTimeout(() => this.up.kill('SIGKILL'), STOP_MS_MAX)
      await this.ended
      clearTimeout(late)
    }
    rmSync(this.folder, { recursive: true, force: true })
  }
}
