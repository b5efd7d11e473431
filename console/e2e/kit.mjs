// What every group of browser tests shares.
import { DEVICE } from './stage.mjs'

/** Set by the runner: the hub with its device, and a window that the first test signs in. */
export const kit = { stage: undefined, window: undefined }

export const tests = []
export const test = (name, work) => tests.push({ name, work })

/** The address of a tab of the device. */
export const path = (tab = '') => `/console/devices/${DEVICE}${tab}`

/** Chromium gives its loads up when an interface comes or goes, such as a container's. */
export const NETWORK_CHANGED = 'ERR_NETWORK_CHANGED'
const RELOADS_MAX = 3

/** A page of its own in the window that is signed in, or in another. */
export async function page(tab, own) {
  const opened = await (own ?? kit.window).newPage()
  let cut = false
  opened.on('requestfailed', (request) => (cut ||= request.failure()?.errorText.includes(NETWORK_CHANGED) ?? false))
  for (let turn = 0; ; turn += 1) {
    cut = false
    await opened.goto(kit.stage.origin + (tab.startsWith('/console') ? tab : path(tab))).catch((error) => {
      if (!String(error).includes(NETWORK_CHANGED)) throw error
      cut = true
    })
    if (!cut || turn >= RELOADS_MAX) return opened
  }
}

/** Puts text in place of what an editor holds. */
export async function write(shown, editor, text) {
  await editor.click()
  await shown.keyboard.press('Control+A')
  await shown.keyboard.insertText(text)
}
