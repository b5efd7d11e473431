// The console in a real browser against the real hub: `node e2e/run.mjs`.
//
// SELVEDGE_BIN       folder with release binaries
// CONSOLE_DIR        built files to serve instead of those in the binary
// CHROMIUM           a browser, if it is not on the path
// SCREENSHOTS        folder that pictures for the docs are written to
// ONLY               run only tests whose name has this text
import assert from 'node:assert/strict'
import { mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'

import { DEVICE, Stage, until } from './stage.mjs'

/** The first view must be usable within this, in milliseconds. */
const FIRST_VIEW_MS_MAX = 1_000
const ROWS = 100_000
/** A frame that takes longer is seen as a jerk, in milliseconds. */
const JERK_MS = 150

const tests = []
const test = (name, work) => tests.push({ name, work })
const path = (tab = '') => `/console/devices/${DEVICE}${tab}`

/** Signed in once; every test opens its own page in it. */
let window
let stage

async function page(tab, options) {
  const opened = await (options ?? window).newPage()
  await opened.goto(stage.origin + (tab.startsWith('/console') ? tab : path(tab)))
  return opened
}

test('a link opens the console once, and its token is nowhere in the address', async () => {
  window = await stage.window()
  const first = await window.newPage()
  await first.goto(stage.link())
  await first.getByRole('heading', { name: 'Overview' }).waitFor()
  assert.equal(first.url(), `${stage.origin}/console/`)
  const other = await stage.window()
  const second = await other.newPage()
  await second.goto(stage.link())
  await second.getByText('This link was used already, or it is too old.').waitFor()
  await second.getByText('selvedge console').waitFor()
  await other.close()
  await first.close()
})

test('the overview counts this machine as connected, live', async () => {
  const shown = await page('/console/')
  await shown.locator('[data-live="live"]').waitFor()
  const tile = shown.locator('.tile', { hasText: /^connected/u })
  await until('one device is connected', async () => (await tile.locator('b').textContent()) === '1')
  await shown.getByRole('link', { name: DEVICE }).first().waitFor()
  await shown.close()
})

test('the first view is usable within a second', async () => {
  const times = []
  for (let turn = 0; turn < 5; turn += 1) {
    const fresh = await window.newPage()
    const start = performance.now()
    await fresh.goto(`${stage.origin}/console/`, { waitUntil: 'commit' })
    await fresh.locator('.tile b').first().waitFor()
    times.push(Math.round(performance.now() - start))
    await fresh.close()
  }
  console.log(`    first view after ${times.join(', ')} ms`)
  assert.ok(Math.min(...times) <= FIRST_VIEW_MS_MAX, `the fastest of five took ${Math.min(...times)} ms`)
})

test('devices are found by any part of the id, and the filter is in the address', async () => {
  const shown = await page('/console/devices')
  await shown.getByLabel('Device id').fill('S-MACH')
  await shown.getByRole('link', { name: DEVICE }).last().waitFor()
  await shown.waitForURL(/search=S-MACH/u)
  await shown.getByLabel('Device id').fill('nothing-like-this')
  await shown.getByRole('heading', { name: 'No device fits this filter' }).waitFor()
  await shown.goBack()
  await shown.close()
})

test('modules are shown as desired and as reported', async () => {
  const shown = await page('')
  for (const name of ['host-sensor', 'anomaly']) {
    const row = shown.locator(`[data-module="${name}"]`)
    await row.getByText('running').nth(1).waitFor()
    assert.match(await row.textContent(), /selvedge\/(host-sensor|anomaly)/u)
  }
  await shown.close()
})

test('a reading on the page is the reading in the hub, and more arrive without a reload', async () => {
  const shown = await page('/telemetry')
  const born = await shown.evaluate(() => performance.timeOrigin)
  const readings = shown.locator('.row[data-output="readings"]')
  const row = await readings.first().elementHandle()
  const { seq, offset, partition } = await row.evaluate((element) => ({ ...element.dataset }))
  const text = await row.evaluate((element) => element.textContent)
  assert.ok(text.includes(`#${seq}`), text)
  const percent = Number(/cpu\.percent ([\d.]+)/u.exec(text)[1])
  const { messages } = await stage.get(`/api/v1/telemetry?partition=${partition}&from=${offset}&max=1`)
  const body = JSON.parse(messages[0].body)
  console.log(`    page: #${seq} cpu.percent ${percent}; hub, partition ${partition} offset ${messages[0].offset}: #${body.seq} cpu.percent ${body.cpu.percent}`)
  assert.equal(messages[0].offset, Number(offset))
  assert.equal(body.seq, Number(seq))
  assert.equal(percent, Number(body.cpu.percent.toPrecision(6)))
  await until('three further readings are on the page', async () => {
    const seqs = await readings.evaluateAll((rows) => rows.map((each) => Number(each.dataset.seq)))
    return new Set(seqs.filter((each) => each > Number(seq))).size >= 3
  })
  assert.equal(await shown.evaluate(() => performance.timeOrigin), born, 'the page was reloaded')
  await shown.close()
})

test('a pause holds the view and counts what arrives', async () => {
  const shown = await page('/telemetry')
  await shown.locator('.row').first().waitFor()
  await shown.getByRole('button', { name: 'Pause' }).click()
  const rows = shown.locator('[data-rows]')
  const held = await rows.getAttribute('data-rows')
  await shown.getByRole('button', { name: /Go on \([1-9]/u }).waitFor()
  assert.equal(await rows.getAttribute('data-rows'), held)
  await shown.getByRole('button', { name: /Go on/u }).click()
  await until('the rows that waited are shown', async () => Number(await rows.getAttribute('data-rows')) > Number(held))
  await shown.close()
})

test('the hub filters, and says what is wrong with a filter', async () => {
  const shown = await page('/telemetry')
  const field = shown.getByLabel('Filter, done by the hub')
  await field.fill('$body.seq > 0 AND $body.cpu.percent >= 0')
  await shown.getByRole('button', { name: 'Filter', exact: true }).click()
  await shown.waitForURL(/filter=/u)
  await shown.locator('.row[data-output="readings"]').first().waitFor()
  assert.equal(await shown.locator('.row:not([data-output="readings"])').count(), 0)
  await field.fill('$body.seq >')
  await shown.getByRole('button', { name: 'Filter', exact: true }).click()
  await shown.getByRole('alert').getByText(/position|expected|ends/iu).first().waitFor()
  await shown.close()
})

test('a twin is edited after a comparison, and the module obeys', async () => {
  const shown = await page('/twin?module=anomaly')
  const editor = shown.getByRole('textbox', { name: 'Desired properties as JSON' })
  await editor.click()
  await shown.keyboard.press('Control+A')
  await shown.keyboard.insertText('{ "threshold": "high" }')
  await shown.locator('[data-fault-line="1"]').getByText('the module uses a number now').waitFor()
  await shown.keyboard.press('Control+A')
  await shown.keyboard.insertText('{ "thres.hold": 3 }')
  await shown.locator('[data-fault-line="1"][data-fault-column="3"]').getByText('a key cannot contain').waitFor()
  assert.ok(await shown.getByRole('button', { name: 'Review and save' }).isDisabled())
  await shown.keyboard.press('Control+A')
  await shown.keyboard.insertText('{ "threshold": 3.25 }')
  await shown.getByRole('button', { name: 'Review and save' }).click()
  const review = shown.getByRole('dialog')
  await review.locator('[data-changes="1"]').getByText('threshold').waitFor()
  assert.match(await review.textContent(), /selvedge twin set this-machine -m anomaly --desired '\{"threshold":3.25\}'/u)
  await review.getByRole('button', { name: 'Save', exact: true }).click()
  await shown.locator('[data-answer="threshold"][data-answer-state="obeyed"]').getByText('threshold = 3.25').waitFor()
  const twin = await stage.get(`/twins/${DEVICE}/modules/anomaly`)
  assert.deepEqual([twin.properties.desired.threshold, twin.properties.reported.threshold.value, twin.properties.reported.threshold.ac], [3.25, 3.25, 200])
  await shown.close()
})

test('a twin that somebody else changed is not overwritten', async () => {
  const shown = await page('/twin?module=anomaly')
  const editor = shown.getByRole('textbox', { name: 'Desired properties as JSON' })
  await editor.click()
  await shown.keyboard.press('Control+A')
  await shown.keyboard.insertText('{ "threshold": 3, "windowSeconds": 5 }')
  stage.cli('twin', 'set', DEVICE, '-m', 'anomaly', '--desired', '{"history": 30}')
  const alert = shown.getByRole('alert').filter({ hasText: 'Somebody changed this twin' })
  await alert.getByText('history').waitFor()
  await shown.getByRole('button', { name: 'Review and save' }).click()
  await shown.getByRole('dialog').getByRole('button', { name: 'Save', exact: true }).click()
  await shown.getByRole('dialog').getByText('Not saved: the twin was changed meanwhile').waitFor()
  await shown.getByRole('dialog').getByRole('button', { name: 'Show their changes' }).click()
  await alert.getByRole('button', { name: 'Put my changes on top' }).click()
  await until('both changes are in the editor', async () => /"history": 30/u.test(await editor.textContent()) && /"windowSeconds": 5/u.test(await editor.textContent()))
  await shown.getByRole('button', { name: 'Review and save' }).click()
  await shown.getByRole('dialog').getByRole('button', { name: 'Save', exact: true }).click()
  await until('both changes are in the hub', async () => {
    const { desired } = (await stage.get(`/twins/${DEVICE}/modules/anomaly`)).properties
    return desired.history === 30 && desired.windowSeconds === 5 && desired.threshold === 3
  })
  await shown.close()
})

test('a burdened core is marked as an anomaly', async () => {
  const shown = await page('/telemetry')
  await shown.locator('.row[data-output="readings"]').first().waitFor()
  const since = Number(await shown.locator('.row[data-output="readings"]').first().getAttribute('data-seq'))
  // Rest and load in turns, so that it stands out on a busy machine as well.
  const stop = new SharedArrayBuffer(4)
  const spin = 'const { workerData } = require("node:worker_threads"); const stop = new Int32Array(workerData); while (Atomics.load(stop, 0) === 0);'
  let worker
  const burden = setInterval(() => {
    if (worker) {
      worker.terminate()
      worker = undefined
    } else worker = new Worker(spin, { eval: true, workerData: stop })
  }, 6_000)
  try {
    const mark = await until(
      'a mark of the processor is on the page',
      async () => {
        const found = await shown.locator('[data-anomaly-metric^="cpu."], [data-anomaly-metric^="load."]').evaluateAll((all) => all.map((each) => each.textContent))
        return found.find((text) => Number(/reading #(\d+)/u.exec(text)?.[1]) > since)
      },
      120_000,
      500,
    )
    console.log(`    ${mark.trim()}`)
    await shown.locator('.row[data-anomaly="true"]').first().waitFor()
  } finally {
    clearInterval(burden)
    Atomics.store(new Int32Array(stop), 0, 1)
    await worker?.terminate()
  }
  await shown.close()
})

test('a line that a module writes after its log was opened appears', async () => {
  const shown = await page('/logs?module=host-sensor')
  const lines = shown.locator('.log .row')
  await lines.first().waitFor()
  const opened = Date.now()
  const before = Number(await lines.last().getAttribute('data-line'))
  const other = await page('')
  await other.getByRole('button', { name: 'Restart host-sensor' }).click()
  const line = await until(
    'a line written after the page was opened',
    async () => {
      const texts = await lines.evaluateAll((all) => all.map((each) => [Number(each.dataset.line), each.textContent]))
      return texts.find(([number, text]) => number > before && Date.parse(/\d{4}-\d\d-\d\dT[\d:.]+Z/u.exec(text)?.[0] ?? '') > opened)?.[1]
    },
    60_000,
  )
  console.log(`    ${line}`)
  await other.close()
  await shown.close()
})

test('a method is called, answered and remembered', async () => {
  const shown = await page('/methods')
  await shown.getByRole('button', { name: 'Call', exact: true }).click()
  await shown.getByText('the device answered 200').waitFor()
  await shown.getByRole('table').getByText('ping').first().waitFor()
  await shown.close()
})

test('a broken manifest is shown with its place, and nothing is applied', async () => {
  const shown = await page('/set-modules')
  await shown.locator('[data-valid="true"]').waitFor()
  const agent = `/twins/${DEVICE}/modules/${encodeURIComponent('$edgeAgent')}`
  const before = (await stage.get(agent)).properties.desired.$version
  const editor = shown.getByRole('textbox', { name: 'Deployment manifest' })
  const current = await shown.evaluate(async (url) => (await fetch(url)).json(), `/twins/${DEVICE}/modules/${encodeURIComponent('$edgeHub')}`)
  const [name, route] = Object.entries(current.properties.desired.routes)[0]
  const content = JSON.parse(stage.cli('twin', 'get', DEVICE, '-m', '$edgeAgent', '-o', 'json')).properties.desired
  delete content.$metadata
  delete content.$version
  const routes = { [name]: { ...route, route: route.route.replace('$upstream', '$upstraem') } }
  const text = JSON.stringify({ modulesContent: { $edgeAgent: { 'properties.desired': content }, $edgeHub: { 'properties.desired': { schemaVersion: '1.1', routes } } } }, null, 2)
  await editor.click()
  await shown.keyboard.press('Control+A')
  await shown.keyboard.insertText(text)
  const line = text.slice(0, text.indexOf('$upstraem')).split('\n').length
  const fault = shown.locator(`[data-fault-line="${line}"]`)
  await fault.waitFor()
  console.log(`    ${(await fault.textContent()).trim()}`)
  const column = Number(await fault.getAttribute('data-fault-column'))
  const start = text.split('\n')[line - 1].indexOf('$upstraem') + 1
  assert.ok(column >= start - 6 && column <= start + 9, `column ${column}, the mistake is at ${start}`)
  assert.ok(await shown.getByRole('button', { name: 'Review and apply' }).isDisabled())
  await fault.getByRole('button').click()
  await shown.locator('.cm-lintRange-error').first().waitFor()
  await editor.click()
  await shown.keyboard.press('Control+A')
  await shown.keyboard.insertText(text.replace('"modulesContent":', '"modulesContent"'))
  await shown.locator('[data-fault-line="2"]').first().waitFor()
  assert.equal((await stage.get(agent)).properties.desired.$version, before)
  await shown.close()
})

test('routes are drawn, and a changed manifest is applied after a comparison', async () => {
  const shown = await page('/set-modules?view=routes')
  for (const route of ['readings', 'inspected', 'found']) await shown.locator(`[data-route="${route}"]`).waitFor()
  await shown.getByText('Edit', { exact: true }).click()
  const editor = shown.getByRole('textbox', { name: 'Deployment manifest' })
  await editor.waitFor()
  // The time to live is the only number 86400 in what `up` sets.
  await editor.click()
  await shown.keyboard.press('Control+F')
  const find = shown.locator('.cm-search input[name="search"]')
  await find.fill('86400')
  await shown.locator('.cm-search input[name="replace"]').fill('43200')
  await shown.locator('.cm-search button[name="replaceAll"]').click()
  await shown.getByRole('button', { name: 'Review and apply' }).click()
  const review = shown.getByRole('dialog')
  await review.getByText('timeToLiveSecs').first().waitFor()
  await review.getByRole('button', { name: `Apply to ${DEVICE}` }).click()
  await until('the hub has the new manifest', async () => {
    const twin = await stage.get(`/twins/${DEVICE}/modules/${encodeURIComponent('$edgeHub')}`)
    return twin.properties.desired.storeAndForwardConfiguration.timeToLiveSecs === 43_200
  })
  await shown.close()
})

test('the pipeline shows routes with rates, queues and drops', async () => {
  const shown = await page('/pipeline')
  for (const route of ['readings', 'inspected', 'found']) await shown.locator(`[data-route="${route}"]`).waitFor()
  await until('readings flow', async () => /[1-9]|0\.[1-9]/u.test((await shown.locator('[data-route="readings"]').textContent()).replace(/^readings/u, '')))
  await shown.getByRole('heading', { name: 'Queues' }).waitFor()
  await shown.getByRole('heading', { name: 'Dropped' }).waitFor()
  await shown.close()
})

test('one goes from a device back to the list and to the overview', async () => {
  const shown = await page('')
  await shown.getByRole('heading', { name: DEVICE }).waitFor()
  await shown.getByRole('link', { name: 'Devices', exact: true }).click()
  await shown.getByRole('heading', { name: 'Devices' }).waitFor()
  await shown.getByRole('link', { name: 'Overview', exact: true }).click()
  await shown.getByRole('heading', { name: 'Overview' }).waitFor()
  await shown.close()
})

test('the palette goes to a tab without the mouse', async () => {
  const shown = await page('')
  await shown.getByRole('heading', { name: DEVICE }).waitFor()
  await shown.keyboard.press('Control+K')
  await shown.getByPlaceholder('Page, or any part of a device id').fill('pipel')
  await shown.getByText('modules and routes, rates, queues, drops').waitFor()
  await shown.keyboard.press('ArrowDown')
  await shown.keyboard.press('Enter')
  await shown.waitForURL(/\/pipeline/u)
  await shown.close()
})

test('a hundred thousand rows scroll smoothly', async () => {
  const shown = await window.newPage()
  // The hub's own page of telemetry, made long: what is measured is the view.
  let grown = false
  await shown.route(/\/api\/v1\/telemetry\?.*max=1000/u, async (route) => {
    if (grown) return route.continue()
    grown = true
    const answer = await route.fetch()
    const body = await answer.json()
    const [sample] = body.messages
    if (!sample) return route.fulfill({ response: answer })
    const { partition, deviceId, moduleId } = sample
    const messages = Array.from({ length: ROWS }, (_, index) => ({ partition, deviceId, moduleId, offset: index, systemProperties: { outputName: 'readings' }, properties: {}, bodyEncoding: 'utf-8', body: JSON.stringify({ seq: index, cpu: { percent: index % 100 } }), enqueuedTime: new Date(Date.now() - (ROWS - index)).toISOString() }))
    return route.fulfill({ json: { ...body, messages } })
  })
  await shown.goto(stage.origin + path('/telemetry'))
  await shown.locator(`[data-rows="${ROWS}"]`).waitFor({ timeout: 60_000 })
  await shown.getByRole('button', { name: 'Pause' }).click()
  const frames = await shown.evaluate(async () => {
    const box = document.querySelector('.window.rows')
    const times = []
    let before = performance.now()
    const most = box.scrollHeight - box.clientHeight
    for (let step = 0; step <= 120; step += 1) {
      box.scrollTop = (most * step) / 120
      await new Promise(requestAnimationFrame)
      const now = performance.now()
      times.push(now - before)
      before = now
      if (box.querySelectorAll('.row').length > 80) throw new Error('too many rows are in the page')
    }
    return { times: times.slice(1).sort((a, b) => a - b), last: box.scrollTop / most, rows: box.querySelectorAll('.row').length }
  })
  const median = frames.times[60]
  const p95 = frames.times[114]
  console.log(`    ${ROWS} rows, ${frames.rows} in the page; frame median ${median.toFixed(0)} ms, p95 ${p95.toFixed(0)} ms`)
  assert.ok(frames.last > 0.99, 'the end was not reached')
  assert.ok(p95 < JERK_MS, `one frame in twenty takes ${p95} ms`)
  await shown.close()
})

const VIEWS = [
  ['overview', '/console/', '.tile b'],
  ['devices', '/console/devices', 'table a'],
  ['modules', '', '[data-module="anomaly"]'],
  ['pipeline', '/pipeline', '[data-route="found"]'],
  ['telemetry', '/telemetry', '[data-chart] canvas'],
  ['twin', '/twin?module=anomaly', '[data-answer="threshold"]'],
  ['logs', '/logs?module=host-sensor', '.log .row'],
  ['methods', '/methods', '.cm-content'],
  ['set-modules', '/set-modules', '[data-valid="true"]'],
  ['set-modules-routes', '/set-modules?view=routes', '[data-route="found"]'],
]
const LOOKS = [
  ['desk-light', { viewport: { width: 1280, height: 860 }, colorScheme: 'light' }],
  ['desk-dark', { viewport: { width: 1280, height: 860 }, colorScheme: 'dark' }],
  ['phone-light', { viewport: { width: 390, height: 844 }, colorScheme: 'light', isMobile: true, hasTouch: true, deviceScaleFactor: 2 }],
  ['phone-dark', { viewport: { width: 390, height: 844 }, colorScheme: 'dark', isMobile: true, hasTouch: true, deviceScaleFactor: 2 }],
]
/** Chromium starts its loads anew when an interface comes or goes, such as a bridge of containers. */
const NETWORK_CHANGED = 'ERR_NETWORK_CHANGED'
const AXE_RULES = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']

for (const [look, options] of LOOKS) {
  test(`every page passes axe and fits its width: ${look}`, async () => {
    const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
    const own = await stage.window(options)
    const door = await own.newPage()
    await door.goto(`${stage.origin}/console/`)
    await door.getByRole('heading', { name: 'Sign in' }).waitFor()
    const faults = await inspect(door, axe, 'sign-in')
    await picture(door, `sign-in-${look}`)
    await door.goto('about:blank')
    await door.goto(stage.freshLink())
    await door.getByRole('heading', { name: 'Overview' }).waitFor()
    for (const [name, tab, ready] of VIEWS) {
      const shown = await page(tab, own)
      await shown.locator(ready).first().waitFor()
      if (name === 'telemetry') await until('the chart has a line', () => shown.locator('[data-rows]').getAttribute('data-rows').then((rows) => Number(rows) > 20))
      // Fonts, transitions.
      await shown.evaluate(() => Promise.all(document.getAnimations().map((each) => each.finished.catch(() => undefined))))
      faults.push(...(await inspect(shown, axe, name)))
      await picture(shown, `${name}-${look}`)
      await shown.close()
    }
    const unexpected = own.faults.filter((fault) => !fault.includes('401') && !fault.includes(NETWORK_CHANGED))
    await own.close()
    assert.deepEqual([...faults, ...unexpected], [])
  })
}

async function inspect(shown, axe, name) {
  await shown.evaluate(axe)
  const found = await shown.evaluate((rules) => globalThis.axe.run(document, { runOnly: rules }), AXE_RULES)
  const faults = found.violations.flatMap((fault) => fault.nodes.map((node) => `${name}: ${fault.id}: ${node.target.join(' ')}: ${node.failureSummary?.replaceAll('\n', ' ')}`))
  const wide = await shown.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
  if (wide > 0) faults.push(`${name}: the page is ${wide} px wider than the window`)
  return faults
}

async function picture(shown, name) {
  const folder = process.env.SCREENSHOTS
  if (!folder) return
  mkdirSync(folder, { recursive: true })
  await shown.screenshot({ path: join(folder, `${name}.png`) })
}

test('signing out ends the session in every tab', async () => {
  const own = await stage.window()
  const first = await own.newPage()
  await first.goto(stage.freshLink())
  await first.getByRole('heading', { name: 'Overview' }).waitFor()
  const second = await page('/telemetry', own)
  await second.locator('[data-live="live"]').waitFor()
  await first.getByRole('button', { name: 'Sign out' }).click()
  await first.getByRole('heading', { name: 'Sign in' }).waitFor()
  await second.getByRole('heading', { name: 'Sign in' }).waitFor()
  const status = await second.evaluate(async () => (await fetch('/api/v1/overview')).status)
  assert.equal(status, 401)
  await own.close()
})

test('nothing went wrong in the browser', () => {
  assert.deepEqual(window.faults.filter((fault) => !/status of (401|412)/u.test(fault) && !fault.includes(NETWORK_CHANGED)), [])
})

let failed = 0
const began = Date.now()
stage = await Stage.open()
try {
  const chosen = tests.filter(({ name }, index) => index === 0 || !process.env.ONLY || name.includes(process.env.ONLY))
  for (const { name, work } of chosen) {
    const start = Date.now()
    try {
      await work()
      console.log(`ok      ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)`)
    } catch (error) {
      failed += 1
      console.log(`FAILED  ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)\n${String(error.stack ?? error).replace(/^/gmu, '    ')}`)
      if (window === undefined) break
      for (const open of window.pages()) {
        await open.screenshot({ path: `/tmp/console-e2e-${failed}.png` }).catch(() => undefined)
        await open.close()
      }
    }
  }
  console.log(`${chosen.length} tests of the console in a real browser, ${failed} failed, ${Math.round((Date.now() - began) / 1000)} s`)
} finally {
  await stage.close()
}
process.exit(failed > 0 ? 1 : 0)
