import fc from 'fast-check'
import { expect, test } from 'vitest'

import { buckets, type Point } from '../src/pure/buckets'

const points = fc.array(fc.record({ time: fc.integer({ min: 0, max: 100_000 }), value: fc.integer({ min: -1000, max: 1000 }) }), { maxLength: 200 })

test('the smallest and the largest value are never lost', () => {
  fc.assert(
    fc.property(points, fc.integer({ min: 1, max: 50 }), (given, count) => {
      const { low, high } = buckets(given, 0, 100_000, count)
      const values = given.map((point) => point.value)
      const numbers = (list: (number | null)[]): number[] => list.filter((value) => value !== null)
      expect(Math.min(...numbers(low))).toBe(Math.min(...values))
      expect(Math.max(...numbers(high))).toBe(Math.max(...values))
    }),
  )
})

test('there are never more buckets than asked for, and their times ascend', () => {
  fc.assert(
    fc.property(points, fc.integer({ min: 1, max: 50 }), (given, count) => {
      const { times, last } = buckets(given, 0, 100_000, count)
      expect(last.filter((value) => value !== null).length).toBeLessThanOrEqual(count)
      expect(times).toEqual([...times].sort((a, b) => a - b))
    }),
  )
})

test('a spike of one reading among thousands is seen', () => {
  const given: Point[] = Array.from({ length: 10_000 }, (_, index) => ({ time: index * 10, value: index === 5_432 ? 100 : 1 }))
  expect(buckets(given, 0, 100_000, 200).high.filter((value) => value === 100)).toHaveLength(1)
})

test('a long silence is a gap and not a line', () => {
  const steady = (from: number): Point[] => Array.from({ length: 10 }, (_, index) => ({ time: from + index * 1000, value: 1 }))
  const { last } = buckets([...steady(0), ...steady(60_000)], 0, 100_000, 400)
  expect(last.filter((value) => value === null)).toHaveLength(1)
  expect(last).toHaveLength(21)
})

test('points outside of the range do not count, and the last of a bucket is its newest', () => {
  const given = [
    { time: 5, value: 2 },
    { time: 1, value: 1 },
    { time: -1, value: 9 },
    { time: 101, value: 9 },
    { time: 50, value: Number.NaN },
  ]
  expect(buckets(given, 0, 100, 1)).toEqual({ times: [0.005], low: [1], high: [2], last: [2] })
})
