import { describe, expect, test } from 'vitest'

import { localTime, readStart, startTime } from '../src/pure/start'

const NOW = Date.UTC(2026, 10, 23, 14, 0, 0)

describe('the start of a telemetry tab', () => {
  test.each([
    [undefined, undefined, undefined],
    ['now', 'now', NOW],
    ['1h', '1h', NOW - 3_600_000],
    ['24h', '24h', NOW - 86_400_000],
    ['2026-11-23T13:00:00Z', '2026-11-23T13:00:00.000Z', NOW - 3_600_000],
    ['2026-11-23T15:00:00+02:00', '2026-11-23T13:00:00.000Z', NOW - 3_600_000],
    ['yesterday', undefined, undefined],
    ['toString', undefined, undefined],
  ])('%s', (text, read, time) => {
    expect(readStart(text)).toBe(read)
    expect(startTime(readStart(text), NOW)).toBe(time)
  })

  test('a local time goes to the field and back', () => {
    const text = localTime(NOW)
    expect(text).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d$/u)
    expect(Date.parse(text)).toBe(NOW)
  })
})
