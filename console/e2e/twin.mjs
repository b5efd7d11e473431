// Twins that are edited, and modules that obey.
import assert from 'node:assert/strict'

import { kit, page, test, write } from './kit.mjs'
import { DEVICE, until } from './stage.mjs'

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
  const twin = await kit.stage.get(`/twins/${DEVICE}/modules/anomaly`)
  assert.deepEqual([twin.properties.desired.threshold, twin.properties.reported.threshold.value, twin.properties.reported.threshold.ac], [3.25, 3.25, 200])
  await shown.close()
})

test('a twin that somebody else changed is not overwritten', async () => {
  const shown = await page('/twin?module=anomaly')
  const editor = shown.getByRole('textbox', { name: 'Desired properties as JSON' })
  await editor.click()
  await shown.keyboard.press('Control+A')
  await shown.keyboard.insertText('{ "threshold": 3, "windowSeconds": 5 }')
  kit.stage.cli('twin', 'set', DEVICE, '-m', 'anomaly', '--desired', '{"history": 30}')
  const alert = shown.getByRole('alert').filter({ hasText: 'Somebody changed this twin' })
  await alert.locator('[data-side="theirs"]').getByText('history').waitFor()
  await alert.locator('[data-side="mine"]').getByText('windowSeconds').waitFor()
  await shown.getByRole('button', { name: 'Review and save' }).click()
  await shown.getByRole('dialog').getByRole('button', { name: 'Save', exact: true }).click()
  await shown.getByRole('dialog').getByText('Not saved: the twin was changed meanwhile').waitFor()
  await shown.getByRole('dialog').getByRole('button', { name: 'Show their changes' }).click()
  await alert.getByRole('button', { name: 'Put my changes on top' }).click()
  await until('both changes are in the editor', async () => /"history": 30/u.test(await editor.textContent()) && /"windowSeconds": 5/u.test(await editor.textContent()))
  await shown.getByRole('button', { name: 'Review and save' }).click()
  await shown.getByRole('dialog').getByRole('button', { name: 'Save', exact: true }).click()
  await until('both changes are in the hub', async () => {
    const { desired } = (await kit.stage.get(`/twins/${DEVICE}/modules/anomaly`)).properties
    return desired.history === 30 && desired.windowSeconds === 5 && desired.threshold === 3
  })
  await shown.close()
})

test('a sensor is told another interval on the page, and sends at it', async () => {
  const seconds = 3
  const gaps = async (since) => {
    const { messages } = await kit.stage.get(`/api/v1/telemetry?device=${DEVICE}&module=host-sensor&max=1000&since=${new Date(since).toISOString()}`)
    const times = messages.map((message) => Date.parse(JSON.parse(message.body).time))
    return times.slice(1).map((time, index) => time - times[index])
  }
  const set = async (shown, text) => {
    await write(shown, shown.getByRole('textbox', { name: 'Desired properties as JSON' }), text)
    await shown.getByRole('button', { name: 'Review and save' }).click()
    await shown.getByRole('dialog').getByRole('button', { name: 'Save', exact: true }).click()
    await shown.getByRole('dialog').waitFor({ state: 'detached' })
  }
  const shown = await page('/twin?module=host-sensor')
  const before = Date.now()
  await until('readings every second', async () => (await gaps(before)).some((gap) => gap < 1_500))
  await set(shown, `{ "intervalSeconds": ${seconds} }`)
  await shown.locator('[data-answer="intervalSeconds"][data-answer-state="obeyed"]').getByText(`intervalSeconds = ${seconds}`).waitFor()
  const obeyed = Date.now()
  const slow = await until('two slower readings', async () => {
    const all = (await gaps(obeyed)).slice(1)
    return all.length >= 2 && all
  })
  console.log(`    after saving: readings ${slow.join(', ')} ms apart`)
  assert.ok(slow.every((gap) => gap > seconds * 1_000 - 300), `readings ${slow} ms apart`)
  // What is refused is said in the module's own words.
  await set(shown, '{ "intervalSeconds": 0 }')
  await shown.locator('[data-answer="intervalSeconds"][data-answer-state="refused"]').getByText('not a whole number from 1').waitFor()
  await set(shown, '{}')
  await until('readings every second again', async () => (await gaps(Date.now() - 8_000)).slice(-2).every((gap) => gap < 1_500))
  await shown.close()
})

/** Desired properties, and whether the hub takes them. */
const TEXTS = [
  '{ "a": { "b": [1, "x", null, { "c": null }] } }',
  `{ "a": ${'['.repeat(9)}${']'.repeat(9)} }`,
  `{ "a": ${'['.repeat(10)}${']'.repeat(10)} }`,
  `{ "a": "${'x'.repeat(4096)}" }`,
  `{ "a": "${'ü'.repeat(2049)}" }`,
  `{ "${'k'.repeat(1024)}": 1 }`,
  `{ "${'k'.repeat(1025)}": 1 }`,
  '{ "a": 4503599627370495 }',
  '{ "a": -4503599627370496 }',
  '{ "a": 1e21, "b": 0.1 }',
  '{ "a": 1e400 }',
  '{ "$a": 1 }',
  '{ "a": [{ "b c": 1 }] }',
  '{ "a\\u0000": 1 }',
  '{ "": 1 }',
  '{ "a": "\\ud800" }',
  '[1]',
  '{ "a": 01 }',
  `{ ${Array.from({ length: 8 }, (_, index) => `"k${index}": "${'x'.repeat(4094)}"`).join(', ')} }`,
  `{ ${Array.from({ length: 8 }, (_, index) => `"k${index}": "${'x'.repeat(4095)}"`).join(', ')} }`,
]

test('the twin editor refuses what the hub refuses, and nothing else', async () => {
  const device = 'rules'
  kit.stage.cli('device', 'create', device)
  const shown = await page(`/console/devices/${device}/twin`)
  const editor = shown.getByRole('textbox', { name: 'Desired properties as JSON' })
  await editor.waitFor()
  let refused = 0
  for (const text of TEXTS) {
    await write(shown, editor, text)
    const short = text.length > 60 ? `${text.slice(0, 60)}…` : text
    const fault = shown.locator('[data-fault-line]').first()
    const save = shown.getByRole('button', { name: 'Review and save' })
    await until(`a verdict on ${short}`, async () => (await fault.count()) > 0 || (await save.isEnabled()), 10_000, 30)
    const here = (await fault.count()) > 0 ? await fault.textContent() : undefined
    // In place of everything, as the editor means it; a fresh device each time would say the same.
    const { status, body } = await kit.stage.send('PUT', `/twins/${device}`, `{ "properties": { "desired": ${text} } }`)
    assert.equal(here === undefined, status === 200, `${short}: the editor says ${here ?? 'nothing'}, the hub ${status} ${body.slice(0, 200)}`)
    if (here !== undefined) refused += 1
  }
  console.log(`    ${TEXTS.length} texts, ${refused} refused by both`)
  assert.ok(refused >= 10 && refused <= TEXTS.length - 5)
  await shown.close()
  assert.equal((await kit.stage.send('DELETE', `/devices/${device}`)).status, 204)
})

test('a twin that is part of a manifest is checked by the validator of manifests', async () => {
  const shown = await page('/twin?module=%24edgeHub')
  const editor = shown.getByRole('textbox', { name: 'Desired properties as JSON' })
  await editor.waitFor()
  const { desired } = (await kit.stage.get(`/twins/${DEVICE}/modules/%24edgeHub`)).properties
  delete desired.$metadata
  delete desired.$version
  const text = JSON.stringify(desired, null, 2).replace('$upstream', '$upstraem')
  await write(shown, editor, text)
  const line = text.slice(0, text.indexOf('$upstraem')).split('\n').length
  const column = text.split('\n')[line - 1].indexOf('$upstraem') + 1
  const fault = shown.locator(`[data-fault-line="${line}"][data-fault-column="${column}"]`)
  await fault.waitFor()
  console.log(`    ${(await fault.textContent()).trim()}`)
  assert.ok(await shown.getByRole('button', { name: 'Review and save' }).isDisabled())
  await write(shown, editor, JSON.stringify({ ...desired, storeAndForwardConfiguration: { timeToLiveSecs: 'long' } }, null, 2))
  await shown.locator('[data-fault-line]').getByText('"long" is not a whole number').waitFor()
  assert.ok(await shown.getByRole('button', { name: 'Review and save' }).isDisabled())
  await shown.close()
})
