// Going out, last of all.
import assert from 'node:assert/strict'

import { kit, NETWORK_CHANGED, page, test } from './kit.mjs'
import { until } from './stage.mjs'

test('without its shared worker a tab is live by itself', async () => {
  const own = await kit.stage.window({ storageState: await kit.window.storageState() })
  // As when its script cannot be fetched.
  await own.addInitScript(() => {
    globalThis.SharedWorker = class {
      port = { postMessage() {} }
      constructor() {
        setTimeout(() => this.onerror(new Event('error')), 50)
      }
    }
  })
  const shown = await page('/telemetry', own)
  await shown.locator('[data-live="live"]').waitFor()
  const rows = shown.locator('[data-rows]')
  const before = Number(await rows.getAttribute('data-rows'))
  await until('rows arrive', async () => Number(await rows.getAttribute('data-rows')) > before)
  await own.close()
})

test('who cannot be signed out is not told so', async () => {
  const own = await kit.stage.window()
  const shown = await own.newPage()
  await shown.goto(kit.stage.freshLink())
  await shown.getByRole('heading', { name: 'Overview' }).waitFor()
  await shown.route('**/api/v1/console/session', (route) => (route.request().method() === 'DELETE' ? route.abort() : route.continue()))
  await shown.getByRole('button', { name: 'Sign out' }).click()
  await shown.getByText('You are still signed in').waitFor()
  await shown.getByRole('heading', { name: 'Overview' }).waitFor()
  await shown.unroute('**/api/v1/console/session')
  await shown.getByRole('button', { name: 'Sign out' }).click()
  await shown.getByRole('heading', { name: 'Sign in' }).waitFor()
  await own.close()
})

test('signing out ends the session in every tab', async () => {
  const own = await kit.stage.window()
  const first = await own.newPage()
  await first.goto(kit.stage.freshLink())
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

/** The refusal of the filter that a test made wrong on purpose. */
const isAsked = (fault) => fault.includes('status of 400') && fault.includes(`filter=${encodeURIComponent('$body.seq >')}&`)

test('nothing went wrong in the browser', () => {
  assert.deepEqual(kit.window.faults.filter((fault) => !/status of (401|412)/u.test(fault) && !isAsked(fault) && !fault.includes(NETWORK_CHANGED)), [])
})
