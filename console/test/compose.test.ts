import { describe, expect, test } from 'vitest'

import { composed, inTwin } from '../src/pure/compose'

const CONTENT = { $edgeAgent: { 'properties.desired': { modules: { m: {} } } }, $edgeHub: { 'properties.desired': { routes: {} } } }
const TEXT = '{\n  "routes": { "r": "FROM" }\n}'

describe('a twin inside its manifest', () => {
  const whole = composed(CONTENT, '$edgeHub', TEXT)

  test('is the manifest with this text in the place of what is set', () => {
    expect(JSON.parse(whole.text)).toEqual({ modulesContent: { ...CONTENT, $edgeHub: { 'properties.desired': { routes: { r: 'FROM' } } } } })
    expect(whole.text.slice(whole.from, whole.from + TEXT.length)).toBe(TEXT)
  })

  test('stands alone where nothing else is set', () => {
    expect(JSON.parse(composed({}, '$edgeAgent', '{}').text)).toEqual({ modulesContent: { $edgeAgent: { 'properties.desired': {} } } })
  })

  test('gets faults at their own places, and those of other parts as warnings at its beginning', () => {
    const at = whole.text.indexOf('FROM')
    const faults = [
      { message: 'wants a source', module: '$edgeHub', from: at, to: at + 4 },
      { message: 'image is missing', module: '$edgeAgent', from: 20, to: 30 },
      { message: 'is not JSON', module: null },
    ]
    expect(inTwin(faults, whole, TEXT.length)).toEqual([
      { from: TEXT.indexOf('FROM'), to: TEXT.indexOf('FROM') + 4, message: 'wants a source', severity: 'error' },
      { from: 0, to: 1, message: '$edgeAgent: image is missing', severity: 'warning' },
      { from: 0, to: 1, message: 'the manifest: is not JSON', severity: 'warning' },
    ])
  })
})
