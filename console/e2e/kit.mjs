// What every group of browser tests shares.
import { DEVICE } from './stage.mjs'

/** Set by the runner: the hub with its device, and a window that the first test signs in. */
export const kit = { stage: undefined, window: undefined }

export const tests = []
export const test = (name, work) => tests.push({ name, work })

/** The address of a tab of the device. */
export const path = (tab = '') => `/console/devices/${DEVICE}${tab}`

/** A page of its own in the window that is signed in, or in another. */
export async function page(tab, own) {
  const opened = await (own ?? kit.window).newPage()
  await opened.goto(kit.stage.origin + (tab.startsWith('/console') ? tab : path(tab)))
  return opened
}

/** Puts text in place of what an editor holds. */
export async function write(shown, editor, text) {
  await editor.click()
  await shown.keyboard.press('Control+A')
  await shown.keyboard.insertText(text)
}
