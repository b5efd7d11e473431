// What the console may cost: time to the first view, frames, requests.
import assert from 'node:assert/strict'
import { availableParallelism, loadavg } from 'node:os'

import { kit, page, path, test } from './kit.mjs'
import { until } from './stage.mjs'

/** The first view must be usable within this, in milliseconds. */
const FIRST_VIEW_MS_MAX = 1_000
/** So often it is looked at; more often while a busy machine makes it slow. */
const FIRST_VIEWS = 3
const FIRST_VIEWS_MAX = 6
/** Tasks for each core that excuse a slow view, at most. */
const CROWD_MAX = 3
const ROWS = 100_000
/** One frame in twenty may take longer than this while scrolling, in milliseconds: two of sixty a second, and the noise of a busy machine. */
const FRAME_P95_MS_MAX = 50
/** Calls of the API that opening a view may cost. */
const VIEW_CALLS_MAX = 12
/** Calls of the API in ten seconds in which nobody does anything. */
const IDLE_CALLS_MAX = 4
const IDLE_MS = 10_000

const ranked = (values) => [...values].sort((a, b) => a - b)
const p95 = (values) => ranked(values)[Math.ceil(values.length * 0.95) - 1]
const median = (values) => ranked(values)[Math.floor(values.length / 2)]

test('the first view is usable within a second, with nothing in the cache and with all', async () => {
  const state = await kit.window.storageState()
  const measure = async (own) => {
    const fresh = await own.newPage()
    await fresh.goto(`${kit.stage.origin}/console/`, { waitUntil: 'commit' })
    await fresh.locator('.tile b').first().waitFor()
    // As the browser saw it: from the start of the navigation to the frame that has the numbers.
    const [usable, paint] = await fresh.waitForFunction(() => {
      const [mark] = performance.getEntriesByName('selvedge-usable')
      return mark && [mark.startTime, performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0]
    }).then((found) => found.jsonValue())
    await fresh.close()
    // A busy browser may paint later than the script was told.
    return Math.round(Math.max(usable, paint))
  }
  const cold = async () => {
    const own = await kit.stage.window({ storageState: state })
    const time = await measure(own)
    await own.close()
    return time
  }
  for (const [name, once] of [['nothing cached', cold], ['all cached', () => measure(kit.window)]]) {
    // Others work on this machine too: the best of some says what the console needs.
    const times = []
    while (times.length < FIRST_VIEWS || (Math.min(...times) > FIRST_VIEW_MS_MAX && times.length < FIRST_VIEWS_MAX)) times.push(await once())
    // With more tasks than cores each gets its share only.
    const crowd = Math.min(CROWD_MAX, Math.max(1, loadavg()[0] / availableParallelism()))
    const most = Math.round(FIRST_VIEW_MS_MAX * crowd)
    console.log(`    ${name}: usable after ${times.join(', ')} ms, with ${crowd === 1 ? 'a core for each task' : `${crowd.toFixed(1)} tasks or more for each core, hence at most ${most} ms`}`)
    assert.ok(Math.min(...times) <= most, `${name}: the fastest of ${times.length} took ${Math.min(...times)} ms`)
  }
})

test('going from view to view, and doing nothing, asks the hub little', async () => {
  const own = await kit.stage.window({ storageState: await kit.window.storageState() })
  // Without a shared worker the stream runs in the page, where its requests can be counted too.
  await own.addInitScript(() => delete globalThis.SharedWorker)
  const shown = await own.newPage()
  let calls = []
  shown.on('request', (request) => {
    const { pathname } = new URL(request.url())
    if (!pathname.startsWith('/console')) calls.push(`${request.method()} ${pathname}`)
  })
  await shown.goto(`${kit.stage.origin}/console/`)
  await shown.locator('.tile b').first().waitFor()
  await shown.locator('[data-live="live"]').waitFor()
  const figures = []
  const count = (what, most) => {
    figures.push(`${what} ${calls.length}`)
    assert.ok(calls.length <= most, `${what} cost ${calls.length} calls, more than ${most}:\n${calls.join('\n')}`)
    calls = []
  }
  count('overview', VIEW_CALLS_MAX)
  const idle = async (what) => {
    calls = []
    await new Promise((go) => setTimeout(go, IDLE_MS))
    count(`${what} at rest`, IDLE_CALLS_MAX)
  }
  await idle('overview')
  await shown.getByRole('link', { name: 'Devices', exact: true }).click()
  await shown.locator('table a').first().waitFor()
  count('devices', VIEW_CALLS_MAX)
  await shown.getByRole('link', { name: 'this-machine' }).last().click()
  await shown.locator('[data-module="anomaly"]').waitFor()
  count('modules', VIEW_CALLS_MAX)
  for (const [name, ready] of [['Pipeline', '[data-route="found"]'], ['Telemetry', '.row'], ['Twin', '.cm-content'], ['Logs', '.log .row'], ['Methods', '[data-call]'], ['Set modules', '[data-valid="true"]']]) {
    calls = []
    await shown.getByRole('navigation', { name: 'Tabs of the device' }).getByRole('link', { name }).click()
    await shown.locator(ready).first().waitFor()
    await new Promise((go) => setTimeout(go, 1_000))
    count(name.toLowerCase(), VIEW_CALLS_MAX)
    if (name === 'Telemetry' || name === 'Methods') await idle(name.toLowerCase())
  }
  console.log(`    calls of the API: ${figures.join(', ')}`)
  await own.close()
})

test('a hundred thousand rows scroll smoothly', async () => {
  const shown = await kit.window.newPage()
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
  await shown.goto(kit.stage.origin + path('/telemetry'))
  await shown.locator(`[data-rows="${ROWS}"]`).waitFor({ timeout: 60_000 })
  const frames = (how) => shown.evaluate(async (step) => {
    const box = document.querySelector('.window.rows')
    const times = []
    const most = box.scrollHeight - box.clientHeight
    box.scrollTop = 0
    await new Promise(requestAnimationFrame)
    let before = await new Promise(requestAnimationFrame)
    for (let turn = 1; turn <= 120; turn += 1) {
      box.scrollTop = step === 'all' ? (most * turn) / 120 : box.scrollTop + step
      // The time that the browser gives to the frame: how far apart frames are, as an eye sees it.
      const now = await new Promise(requestAnimationFrame)
      times.push(now - before)
      before = now
      if (box.querySelectorAll('.row').length > 80) throw new Error('too many rows are in the page')
      if (step !== 0 && box.querySelectorAll('.row').length < 10) throw new Error('rows are missing')
    }
    return { times, last: box.scrollTop / most, rows: box.querySelectorAll('.row').length }
  }, how)
  // With rows arriving all the while: a pause would make it easy.
  const rest = await frames(0)
  const slow = await frames(120)
  const fast = await frames('all')
  for (const [name, { times, rows }] of Object.entries({ 'at rest': rest, 'four rows a frame': slow, 'through all in 120 frames': fast })) {
    console.log(`    ${ROWS} rows, ${rows} in the page, ${name}: frames of ${median(times).toFixed(1)} ms in the middle, p95 ${p95(times).toFixed(1)} ms, longest ${Math.max(...times).toFixed(1)} ms`)
  }
  assert.ok(fast.last > 0.99, 'the end was not reached')
  // A machine that is too busy for an idle page to be drawn smoothly says nothing about scrolling.
  const noise = Math.max(0, p95(rest.times) - 1000 / 60)
  for (const { times } of [slow, fast]) assert.ok(p95(times) <= FRAME_P95_MS_MAX + noise, `one frame in twenty takes ${p95(times)} ms, more than ${FRAME_P95_MS_MAX} and the machine's own ${noise}`)
  await shown.close()
})
