import { expect, test } from 'vitest'

import { ago, count, moment, rate, short, span } from '../src/pure/time'

test.each([[0, '0 s'], [59_499, '59 s'], [60_000, '1 min'], [3_599_000, '59 min'], [3_600_000, '1 h'], [200_000_000, '2 d'], [-5, '0 s']])('%i ms is %s', (ms, text) => expect(span(ms)).toBe(text))

test('never, just now, and clocks that are ahead', () => {
  expect(ago(undefined, 10)).toBe('never')
  expect(ago(9_500, 10_000)).toBe('just now')
  expect(ago(20_000, 10_000)).toBe('just now')
  expect(ago(0, 120_000)).toBe('2 min ago')
})

test("Azure's never is never", () => {
  expect(moment('0001-01-01T00:00:00.000Z')).toBeUndefined()
  expect(moment(null)).toBeUndefined()
  expect(moment('nonsense')).toBeUndefined()
  expect(moment('1970-01-01T00:00:01Z')).toBe(1000)
})

test.each([[0, '0'], [1234.6, '1,235'], [12.345, '12.35'], [123.45, '123.5'], [0.5, '0.50'], [1e8, '1.00e+8'], [1e-5, '1.00e-5']])('%d is shown as %s', (value, text) => expect(short(value)).toBe(text))

test('amounts', () => {
  expect([count(999), count(1234), count(2_500_000), count(3e9)]).toEqual(['999', '1,234', '2.5 M', '3.0 G'])
  expect([rate(0), rate(3.21), rate(1234.5)]).toEqual(['0.0', '3.2', '1,235'])
})
