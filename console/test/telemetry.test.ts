import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import type { Message } from '../src/api/types'
import { Ring } from '../src/pure/ring'
import { ranked } from '../src/pure/series'
import { rowOf, Rows } from '../src/pure/telemetry'

const message = (offset: number, body: unknown, output = 'readings', partition = 0): Message => ({
  partition,
  offset,
  enqueuedTime: new Date(1_700_000_000_000 + offset * 1000).toISOString(),
  deviceId: 'd',
  moduleId: 'm',
  systemProperties: { outputName: output },
  properties: {},
  body: typeof body === 'string' ? body : JSON.stringify(body),
  bodyEncoding: 'utf-8',
})

test('a ring is the end of the list that was pushed', () => {
  fc.assert(
    fc.property(fc.array(fc.array(fc.integer(), { maxLength: 7 })), fc.integer({ min: 1, max: 9 }), (pushes, capacity) => {
      const ring = new Ring<number>(capacity)
      for (const items of pushes) ring.push(items)
      const all = pushes.flat()
      const end = all.slice(-capacity)
      expect(Array.from({ length: ring.length }, (_, index) => ring.at(index))).toEqual(end)
      expect([...ring.newest()]).toEqual([...end].reverse())
      expect([ring.total, ring.first]).toEqual([all.length, all.length - end.length])
    }),
  )
})

describe('a row', () => {
  test('of JSON tells its numbers and its sequence number', () => {
    const row = rowOf(message(1, { seq: 7, cpu: { percent: 12.5, cores: [1, null] } }))
    expect([row.seq, row.preview]).toEqual([7, 'cpu.percent 12.5  cpu.cores.0 1'])
    expect(row.numbers).toEqual([['seq', 7], ['cpu.percent', 12.5], ['cpu.cores.0', 1]])
  })

  test('of an anomaly tells metric, value and score, and is no point of a chart', () => {
    const row = rowOf(message(1, { seq: 7, metric: 'cpu.percent', value: 99, score: 8.25, threshold: 3.5 }, 'anomalies'))
    expect(row.anomaly).toEqual({ metric: 'cpu.percent', value: 99, score: 8.25, seq: 7, threshold: 3.5 })
    expect([row.preview, row.numbers]).toEqual(['cpu.percent = 99, score 8.25', []])
    expect(rowOf(message(1, { metric: 'x' }, 'anomalies')).anomaly).toBeUndefined()
  })

  test.each(['', 'plain text', '{"a":', '"text"', '{}', '[]'])('of %j is shown as it is', (body) => expect(rowOf(message(1, body)).preview).toBe(body))
})

describe('rows', () => {
  test('take each message once, although the page and the stream bring it', () => {
    const rows = new Rows()
    rows.take([1, 2, 3].map((offset) => message(offset, { x: offset })))
    rows.take([2, 3, 4].map((offset) => message(offset, { x: offset })))
    rows.take([message(3, { x: 9 }, 'readings', 1)])
    expect([...rows.ring.newest()].map((row) => [row.message.partition, row.message.offset])).toEqual([[1, 3], [0, 4], [0, 3], [0, 2], [0, 1]])
  })

  test('count what is not shown any more and what the hub left out', () => {
    const rows = new Rows(10)
    rows.take(Array.from({ length: 25 }, (_, index) => message(index, { x: 1 })), 4)
    expect([rows.ring.length, rows.dropped]).toEqual([10, 15 + 4])
  })

  test('give the points of one path since a time, newest first', () => {
    const rows = new Rows()
    rows.take([1, 2, 3].map((offset) => message(offset, { x: offset * 10 })))
    const points = [...rows.points('x', 1_700_000_002_000)]
    expect(points.map((point) => point.value)).toEqual([30, 20])
    expect([...rows.paths]).toEqual([['x', 'm']])
  })

  test('a hundred thousand rows are held, and more are let go', () => {
    const rows = new Rows()
    const all = Array.from({ length: 100_000 }, (_, index) => message(index, { seq: index, cpu: { percent: index % 100, cores: [1, 2] } }))
    for (let at = 0; at < all.length; at += 500) rows.take(all.slice(at, at + 500))
    rows.take([message(100_000, { seq: 100_000 })])
    expect([rows.ring.length, rows.ring.first, rows.dropped]).toEqual([100_000, 1, 1])
  })
})

test('telling numbers come before counters', () => {
  expect(ranked(['seq', 'load.one', 'cpu.cores.0', 'memory.totalBytes', 'memory.usedPercent', 'cpu.percent'])).toEqual(['cpu.percent', 'memory.usedPercent', 'load.one', 'cpu.cores.0', 'memory.totalBytes', 'seq'])
})
