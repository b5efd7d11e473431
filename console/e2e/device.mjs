// Logs and direct methods of a device.
import assert from 'node:assert/strict'

import { kit, page, test } from './kit.mjs'
import { DEVICE, until } from './stage.mjs'

test('a line that a module writes after its log was opened appears', async () => {
  const shown = await page('/logs?module=host-sensor')
  const lines = shown.locator('.log .row')
  await lines.first().waitFor()
  const born = await shown.evaluate(() => performance.timeOrigin)
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
  // The device's own log has this line, and had it not when the page was opened.
  const ask = { schemaVersion: '1.0', items: [{ id: 'host-sensor', filter: { tail: 500 } }], encoding: 'none', contentType: 'text' }
  const said = kit.stage.cli('method', DEVICE, '-m', '$edgeAgent', 'GetModuleLogs', JSON.stringify(ask))
  const written = /\d{4}-\d\d-\d\dT[\d:.]+Z.*$/u.exec(line)[0]
  assert.ok(JSON.parse(JSON.stringify(said)).includes(JSON.stringify(written).slice(1, -1)) || said.includes(written), `not in the device's log: ${written}`)
  assert.equal(await shown.evaluate(() => performance.timeOrigin), born, 'the page was reloaded')
  await other.close()
  await shown.close()
})

test('a method is called and answered, and the history has the calls of everybody', async () => {
  const shown = await page('/methods')
  await shown.getByRole('button', { name: 'Call', exact: true }).waitFor()
  // Somebody else calls, by the command line, while the page is open.
  kit.stage.cli('method', DEVICE, '-m', '$edgeAgent', 'ping')
  const rows = shown.locator('[data-call]')
  const theirs = rows.filter({ hasText: '$edgeAgent / ping' }).filter({ hasText: 'policy iothubowner' })
  await theirs.first().waitFor()
  await shown.getByRole('button', { name: 'Call', exact: true }).click()
  await shown.getByText('the device answered 200').waitFor()
  const mine = rows.filter({ hasText: '$edgeAgent / ping' }).filter({ hasText: 'session ' })
  await mine.first().waitFor()
  const { calls } = await kit.stage.get(`/api/v1/devices/${DEVICE}/methods?max=200`)
  const shownIds = await rows.evaluateAll((all) => all.map((each) => Number(each.dataset.call)))
  for (const id of shownIds) assert.ok(calls.some((call) => call.id === id), `call ${id} is not the hub's`)
  await shown.close()
  // Another visit sees the same: the hub remembers, not the page.
  const again = await page('/methods')
  for (const id of [shownIds[0], shownIds.at(-1)]) await again.locator(`[data-call="${id}"]`).waitFor()
  // A method that nobody answers stands there with the reason.
  await again.getByRole('combobox', { name: 'Method' }).fill('NoSuchMethod')
  await again.getByRole('button', { name: 'Call', exact: true }).click()
  await again.locator('[data-call]').filter({ hasText: 'NoSuchMethod' }).first().waitFor()
  await again.close()
})

test('a long history goes on page by page', async () => {
  const before = (await kit.stage.get(`/api/v1/devices/${DEVICE}/methods?max=1`)).calls[0].id
  for (let call = 0; call < 55; call += 1) await kit.stage.send('POST', `/twins/${DEVICE}/modules/%24edgeAgent/methods`, '{ "methodName": "ping", "payload": null }')
  const shown = await page('/methods')
  await shown.locator('[data-call]').first().waitFor()
  assert.equal(await shown.locator('[data-call]').count(), 50)
  await shown.getByRole('button', { name: 'Show earlier calls' }).click()
  await shown.locator(`[data-call="${before}"]`).waitFor()
  await shown.close()
})
