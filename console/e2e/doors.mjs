// Coming in.
import assert from 'node:assert/strict'

import { kit, test } from './kit.mjs'

test('a link opens the console once, and its token is nowhere in the address', async () => {
  kit.window = await kit.stage.window()
  const first = await kit.window.newPage()
  await first.goto(kit.stage.link())
  await first.getByRole('heading', { name: 'Overview' }).waitFor()
  assert.equal(first.url(), `${kit.stage.origin}/console/`)
  const other = await kit.stage.window()
  const second = await other.newPage()
  await second.goto(kit.stage.link())
  await second.getByText('This link was used already, or it is too old.').waitFor()
  await second.getByText('selvedge console').waitFor()
  await other.close()
  await first.close()
})
