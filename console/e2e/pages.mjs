// Overview, devices, modules, pipeline, and ways between them.
import assert from 'node:assert/strict'

import { kit, page, test } from './kit.mjs'
import { DEVICE, until } from './stage.mjs'

test('the overview counts this machine as connected, live', async () => {
  const shown = await page('/console/')
  await shown.locator('[data-live="live"]').waitFor()
  const tile = shown.locator('.tile', { hasText: /^connected/u })
  await until('one device is connected', async () => (await tile.locator('b').textContent()) === '1')
  await shown.getByRole('link', { name: DEVICE }).first().waitFor()
  await shown.close()
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

test('devices are found by tag and status, and the list goes on past a page', async () => {
  const names = Array.from({ length: 130 }, (_, index) => `zz-${String(index).padStart(3, '0')}`)
  const put = (name, more = {}) => kit.stage.send('PUT', `/devices/${name}`, JSON.stringify({ deviceId: name, ...more }))
  try {
    for (const name of names) assert.equal((await put(name, name === 'zz-008' ? { status: 'disabled' } : {})).status, 200)
    assert.equal((await kit.stage.send('PATCH', '/twins/zz-007', '{ "tags": { "place": { "site": "new york" } } }')).status, 200)
    const shown = await page('/console/devices?search=Z-')
    const rows = shown.locator('tbody tr')
    await until('the first page', async () => (await rows.count()) === 100)
    await shown.getByText('100 shown, more below').waitFor()
    await rows.last().scrollIntoViewIfNeeded()
    await shown.mouse.wheel(0, 10_000)
    await until('all of them', async () => (await rows.count()) === 130)
    await shown.getByText('130 shown').waitFor()
    await shown.getByRole('textbox', { name: 'Tags' }).or(shown.getByLabel('Tags')).first().fill('place.site=new york')
    await shown.keyboard.press('Enter')
    await shown.waitForURL(/tag=/u)
    await until('the tagged one', async () => (await rows.count()) === 1)
    await shown.getByRole('link', { name: 'zz-007' }).waitFor()
    // What is found by an address is what the filters say.
    await shown.goto(`${kit.stage.origin}/console/devices?search=zz-&status=disabled`)
    await shown.getByRole('link', { name: 'zz-008' }).waitFor()
    assert.equal(await rows.count(), 1)
    await shown.goto(`${kit.stage.origin}/console/devices?search=zz-&connection=neverSeen&edge=false`)
    await until('none was ever seen', async () => (await rows.count()) === 100)
    await shown.close()
  } finally {
    for (const name of names) await kit.stage.send('DELETE', `/devices/${name}`)
  }
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
