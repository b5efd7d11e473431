import fc from 'fast-check'
import { expect, test } from 'vitest'

import { Pace } from '../src/pure/pace'

test('so many are let through at once, the next when the first is old', () => {
  const pace = new Pace(2, 1000)
  expect([pace.take(0), pace.take(10), pace.take(20)]).toEqual([0, 0, 980])
  expect([pace.take(999), pace.take(1000), pace.take(1001)]).toEqual([1, 0, 9])
})

test('no window of time ever has more', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(400), { maxLength: 200 }), fc.integer({ min: 1, max: 8 }), (steps, most) => {
      const pace = new Pace(most, 1000)
      const taken: number[] = []
      let now = 0
      for (const step of steps) {
        now += step
        const wait = pace.take(now)
        if (wait === 0) taken.push(now)
        else expect(taken.filter((time) => time > now - 1000).length).toBe(most)
      }
      for (const end of taken) expect(taken.filter((time) => time > end - 1000 && time <= end).length).toBeLessThanOrEqual(most)
    }),
  )
})
