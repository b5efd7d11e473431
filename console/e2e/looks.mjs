// Both themes at both widths: axe, nothing wider than the window, pictures for the docs.
import assert from 'node:assert/strict'
import { mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

import { kit, NETWORK_CHANGED, page, test } from './kit.mjs'
import { until } from './stage.mjs'

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
const AXE_RULES = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']

for (const [look, options] of LOOKS) {
  test(`every page passes axe and fits its width: ${look}`, async () => {
    const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
    const own = await kit.stage.window(options)
    const door = await own.newPage()
    await door.goto(`${kit.stage.origin}/console/`)
    await door.getByRole('heading', { name: 'Sign in' }).waitFor()
    const faults = await inspect(door, axe, 'sign-in')
    await picture(door, `sign-in-${look}`)
    await door.goto('about:blank')
    await door.goto(kit.stage.freshLink())
    await door.getByRole('heading', { name: 'Overview' }).waitFor()
    for (const [name, tab, ready] of VIEWS) {
      const shown = await page(tab, own)
      await shown.locator(ready).first().waitFor()
      if (name === 'telemetry') await until('the chart has a line', () => shown.locator('[data-rows]').getAttribute('data-rows').then((rows) => Number(rows) > 20))
      if (name === 'pipeline') await until('rates are known', async () => /[1-9]/u.test((await shown.locator('[data-route="readings"]').textContent()).replace(/^readings/u, '')))
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
