// The manifest: broken, drawn, compared, applied.
import assert from 'node:assert/strict'

import { kit, page, test } from './kit.mjs'
import { DEVICE, until } from './stage.mjs'

test('a broken manifest is shown with its place, and nothing is applied', async () => {
  const shown = await page('/set-modules')
  await shown.locator('[data-valid="true"]').waitFor()
  const agent = `/twins/${DEVICE}/modules/${encodeURIComponent('$edgeAgent')}`
  const before = (await kit.stage.get(agent)).properties.desired.$version
  const editor = shown.getByRole('textbox', { name: 'Deployment manifest' })
  const current = await shown.evaluate(async (url) => (await fetch(url)).json(), `/twins/${DEVICE}/modules/${encodeURIComponent('$edgeHub')}`)
  const [name, route] = Object.entries(current.properties.desired.routes)[0]
  const content = JSON.parse(kit.stage.cli('twin', 'get', DEVICE, '-m', '$edgeAgent', '-o', 'json')).properties.desired
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
  assert.equal(Number(await fault.getAttribute('data-fault-column')), text.split('\n')[line - 1].indexOf('$upstraem') + 1)
  assert.ok(await shown.getByRole('button', { name: 'Review and apply' }).isDisabled())
  await fault.getByRole('button').click()
  const marked = shown.locator('.cm-lintRange-error').first()
  await marked.waitFor()
  assert.ok('$upstraem'.startsWith(await marked.textContent()) || (await marked.textContent()).startsWith('$upstraem'), `marked is ${await marked.textContent()}`)
  await editor.click()
  await shown.keyboard.press('Control+A')
  await shown.keyboard.insertText(text.replace('"modulesContent":', '"modulesContent"'))
  await shown.locator('[data-fault-line="2"]').first().waitFor()
  assert.equal((await kit.stage.get(agent)).properties.desired.$version, before)
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
    const twin = await kit.stage.get(`/twins/${DEVICE}/modules/${encodeURIComponent('$edgeHub')}`)
    return twin.properties.desired.storeAndForwardConfiguration.timeToLiveSecs === 43_200
  })
  await shown.close()
})

test('a manifest that somebody else set meanwhile is not overwritten unseen', async () => {
  const shown = await page('/set-modules')
  await shown.locator('[data-valid="true"]').waitFor()
  const hub = `/twins/${DEVICE}/modules/%24edgeHub`
  const editor = shown.getByRole('textbox', { name: 'Deployment manifest' })
  await editor.click()
  await shown.keyboard.press('Control+F')
  const { routes, storeAndForwardConfiguration } = (await kit.stage.get(hub)).properties.desired
  await shown.locator('.cm-search input[name="search"]').fill(String(storeAndForwardConfiguration.timeToLiveSecs))
  await shown.locator('.cm-search input[name="replace"]').fill('21600')
  await shown.locator('.cm-search button[name="replaceAll"]').click()
  const [name, route] = Object.entries(routes)[0]
  const changed = { properties: { desired: { routes: { [name]: { ...route, priority: 7 } } } } }
  assert.equal((await kit.stage.send('PATCH', hub, JSON.stringify(changed))).status, 200)
  const alert = shown.getByRole('alert').filter({ hasText: 'Somebody changed the manifest' })
  await alert.locator('[data-side="theirs"]').getByText('priority').waitFor()
  await alert.locator('[data-side="mine"]').getByText('timeToLiveSecs').waitFor()
  await alert.getByRole('button', { name: 'Put my changes on top' }).click()
  await shown.locator('[data-valid="true"]').waitFor()
  await shown.getByRole('button', { name: 'Review and apply' }).click()
  await shown.getByRole('dialog').getByRole('button', { name: `Apply to ${DEVICE}` }).click()
  await until('both changes are in the hub', async () => {
    const { desired } = (await kit.stage.get(hub)).properties
    return desired.storeAndForwardConfiguration.timeToLiveSecs === 21_600 && desired.routes[name].priority === 7
  })
  await shown.close()
})
