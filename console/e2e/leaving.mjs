// Going out, last of all.
import assert from 'node:assert/strict'

import { NETWORK_CHANGED } from './looks.mjs'
import { kit, page, test } from './kit.mjs'

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
