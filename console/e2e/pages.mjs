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

test('modules are shown as desired and as reported, with what the device says of each', async () => {
  const shown = await page('')
  const { edge } = await kit.stage.get(`/api/v1/devices/${DEVICE}`)
  for (const name of ['host-sensor', 'anomaly']) {
    const row = shown.locator(`[data-module="${name}"]`)
    await row.getByText('running').nth(1).waitFor()
    const { desired, reported } = edge.modules.find((module) => module.moduleId === name)
    const cells = await row.locator('td').allTextContents()
    assert.deepEqual([cells[1], cells[4], cells[5]], [desired.status, String(reported.restartCount), '–'])
    assert.ok(cells[6].startsWith(desired.image), cells[6])
    // Containers have a digest of what really runs; processes of the development engine have none.
    assert.equal(reported.imageDigest !== null, process.env.ENGINE === 'embedded', `the digest of ${name} is ${reported.imageDigest}`)
    if (reported.imageDigest !== null) assert.ok(cells[6].includes(reported.imageDigest.slice(0, 'sha256:'.length + 12)), cells[6])
  }
  await shown.close()
})

test('a module that is stopped shows its exit code, and its queue waits with its age until it runs again', async () => {
  const set = async (status) => {
    const patch = { properties: { desired: { modules: { anomaly: { status } } } } }
    assert.equal((await kit.stage.send('PATCH', `/twins/${DEVICE}/modules/%24edgeAgent`, JSON.stringify(patch))).status, 200)
  }
  const shown = await page('')
  const cells = () => shown.locator('[data-module="anomaly"] td').allTextContents()
  await shown.locator('[data-module="anomaly"]').waitFor()
  await set('stopped')
  try {
    await until('it is stopped, with an exit code', async () => {
      const [, desired, reported, , , code] = await cells()
      return desired === 'stopped' && /^stopped/u.test(reported) && /^\d+$/u.test(code)
    })
    const { edge } = await kit.stage.get(`/api/v1/devices/${DEVICE}`)
    const { exitCode } = edge.modules.find((module) => module.moduleId === 'anomaly').reported
    assert.equal((await cells())[5], String(exitCode))
    await shown.getByRole('link', { name: 'Pipeline', exact: true }).click()
    const edgeLabel = shown.locator('[data-route="inspected"]')
    const waiting = await until('messages wait, and the oldest for five seconds', async () => {
      const found = /(\d+) waiting, oldest (\d+) s/u.exec(await edgeLabel.textContent().catch(() => ''))
      return found && Number(found[1]) >= 3 && Number(found[2]) >= 5 && found[0]
    })
    console.log(`    exit code ${exitCode}; on the route: ${waiting}`)
    const row = shown.getByRole('row').filter({ hasText: 'to anomaly/readings' })
    assert.ok(Number((await row.locator('td').nth(1).textContent()).replace(',', '')) >= 3)
  } finally {
    await set('running')
  }
  await until('the queue is empty again', async () => !/waiting/u.test(await shown.locator('[data-route="inspected"]').textContent()))
  await shown.close()
})

test('what no route wants is counted as dropped, with the reason, in the picture', async () => {
  const hub = `/twins/${DEVICE}/modules/%24edgeHub`
  const { routes } = (await kit.stage.get(hub)).properties.desired
  const set = async (found) => assert.equal((await kit.stage.send('PATCH', hub, JSON.stringify({ properties: { desired: { routes: { found } } } }))).status, 200)
  const shown = await page('/pipeline')
  await shown.locator('[data-route="found"]').waitFor()
  await set(null)
  try {
    const nowhere = shown.locator('[data-nowhere]')
    await nowhere.waitFor({ timeout: 60_000 })
    assert.match(await nowhere.textContent(), /[1-9]\d* dropped: no route wanted it/u)
    await shown.getByRole('row').filter({ hasText: 'no route wanted it' }).waitFor()
  } finally {
    await set(routes.found)
  }
  await shown.locator('[data-route="found"]').waitFor()
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
