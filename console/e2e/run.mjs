// The console in a real browser against the real hub: `node e2e/run.mjs`.
//
// SELVEDGE_BIN       folder with release binaries
// CONSOLE_DIR        built files to serve instead of those in the binary
// CHROMIUM           a browser, if it is not on the path
// SCREENSHOTS        folder that pictures for the docs are written to
// ONLY               run only tests whose name fits this pattern
// ENGINE             where the modules run: process (the default) or embedded, which is containers
// SELVEDGE_IMAGES    folder with the modules' images, for containers
import { kit, tests } from './kit.mjs'
import { Stage } from './stage.mjs'

import './doors.mjs'
import './pages.mjs'
import './telemetry.mjs'
import './twin.mjs'
import './device.mjs'
import './manifest.mjs'
import './budgets.mjs'
import './looks.mjs'
import './leaving.mjs'

let failed = 0
const began = Date.now()
kit.stage = await Stage.open()
try {
  const chosen = tests.filter(({ name }, index) => index === 0 || !process.env.ONLY || new RegExp(process.env.ONLY, 'u').test(name))
  for (const { name, work } of chosen) {
    const start = Date.now()
    try {
      await work()
      console.log(`ok      ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)`)
    } catch (error) {
      failed += 1
      console.log(`FAILED  ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)\n${String(error.stack ?? error).replace(/^/gmu, '    ')}`)
      if (kit.window === undefined) break
      let number = 0
      for (const context of kit.stage.browser.contexts()) {
        for (const open of context.pages()) {
          await open.screenshot({ path: `/tmp/console-e2e-${failed}-${(number += 1)}.png` }).catch(() => undefined)
          await open.close()
        }
        if (context !== kit.window) await context.close()
      }
    }
  }
  console.log(`${chosen.length} tests of the console in a real browser, ${failed} failed, ${Math.round((Date.now() - began) / 1000)} s`)
} finally {
  await kit.stage.close()
}
process.exit(failed > 0 ? 1 : 0)
