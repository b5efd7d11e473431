import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'

import { LINGER, LiveCore, PAUSE_FIRST, PAUSE_MAX, SILENCE_MAX, TOPICS_MAX, type Step, type ToTab } from '../src/live/core'
import { EventReader, type ServerEvent } from '../src/live/sse'

const encode = (event: ServerEvent): string => `${event.id === '' ? '' : `id: ${event.id}\n`}event: ${event.kind}\n${event.data.split('\n').map((line) => `data: ${line}\n`).join('')}\n`

describe('the reader of events', () => {
  const plain = fc.stringMatching(/^[a-zA-Z0-9 {}":,.é]*$/u)
  const events = fc.array(fc.record({ kind: fc.stringMatching(/^[a-z]+$/u), id: fc.stringMatching(/^[a-z0-9.]+$/u), data: fc.array(plain, { minLength: 1, maxLength: 3 }).map((lines) => lines.join('\n')) }), { maxLength: 5 })

  test('gives the same events however the text is cut', () => {
    fc.assert(
      fc.property(events, fc.array(fc.nat(200)), fc.constantFrom('\n', '\r\n', '\r'), (given, cuts, end) => {
        const text = given.map(encode).join(': a comment\n\n').replaceAll('\n', end)
        const reader = new EventReader()
        const got: ServerEvent[] = []
        let at = 0
        for (const cut of [...cuts.map((cut) => cut % (text.length + 1)).sort((a, b) => a - b), text.length]) {
          got.push(...reader.read(text.slice(at, cut)))
          at = cut
        }
        // A lone CR at the very end may be half of a CRLF; the next event settles it.
        got.push(...reader.read('\n'))
        expect(got).toEqual(given.map((event) => ({ ...event, data: event.data })))
      }),
    )
  })

  test('refuses an event without end', () => {
    const reader = new EventReader()
    expect(() => {
      for (;;) reader.read('x'.repeat(1_000_000))
    }).toThrow('too long')
  })
})

describe('the live stream', () => {
  let core: LiveCore
  beforeEach(() => {
    core = new LiveCore(() => 1)
  })
  const steps = (now: number): Step[] => core.poll(now).steps
  const acts = (now: number): Step[] => steps(now).filter((step) => step.do !== 'tell')
  const event = (kind: string, data: object, id = 's.1'): ServerEvent => ({ kind, id, data: JSON.stringify(data) })
  const told = (now: number, tab: string): ToTab[] => steps(now).flatMap((step) => (step.do === 'tell' && step.tab === tab ? [step.message] : []))
  const open = (topics: string[], now = 0): void => {
    core.handleJoin('one')
    core.handleTopics('one', topics, now)
    steps(now)
    core.handleEvent(event('hello', { stream: 's', resumed: false, topics, missed: 0 }), now)
    steps(now)
  }

  test('connects when a tab follows something, with all topics of all tabs once', () => {
    core.handleJoin('one')
    expect(acts(0)).toEqual([])
    core.handleJoin('two')
    core.handleTopics('one', ['overview', 'changes'], 0)
    core.handleTopics('two', ['overview', 'device:a'], 0)
    expect(acts(0)).toEqual([{ do: 'connect', topics: ['changes', 'device:a', 'overview'], lastId: '' }])
    expect(acts(1)).toEqual([])
  })

  test('one update reaches every tab that follows it and no other', () => {
    open(['overview'])
    core.handleJoin('two')
    core.handleTopics('two', ['device:a'], 0)
    steps(0)
    core.handleEvent(event('update', { topic: 'overview', dropped: 3, data: { x: 1 } }), 1)
    const all = steps(1).filter((step) => step.do === 'tell')
    expect(all).toEqual([{ do: 'tell', tab: 'one', message: { kind: 'update', topic: 'overview', dropped: 3, data: { x: 1 } } }])
  })

  test('a tab that joins later gets the newest state at once', () => {
    open(['overview'])
    core.handleEvent(event('update', { topic: 'overview', dropped: 0, data: 7 }), 1)
    core.handleJoin('two')
    core.handleTopics('two', ['overview'], 2)
    expect(told(2, 'two')).toContainEqual({ kind: 'update', topic: 'overview', dropped: 0, data: 7 })
  })

  test('a second viewer of a log gets the lines so far', () => {
    open(['logs:a/b'])
    const lines = (...texts: string[]): object => ({ topic: 'logs:a/b', dropped: 0, data: { lines: texts, problem: null } })
    core.handleEvent(event('update', lines('1', '2')), 1)
    core.handleEvent(event('update', lines('3')), 2)
    core.handleJoin('two')
    core.handleTopics('two', ['logs:a/b'], 3)
    expect(told(3, 'two')).toContainEqual({ kind: 'update', topic: 'logs:a/b', dropped: 0, data: { lines: ['1', '2', '3'], problem: null } })
  })

  test('a page that is left for another changes topics once, after lingering', () => {
    open(['device:a'])
    core.handleTopics('one', ['device:b'], 10)
    expect(acts(10)).toEqual([{ do: 'topics', stream: 's', topics: ['device:a', 'device:b'] }])
    expect(acts(11)).toEqual([])
    expect(acts(10 + LINGER)).toEqual([{ do: 'topics', stream: 's', topics: ['device:b'] }])
  })

  test('pauses grow to a limit, come back with the last id, and a success starts them anew', () => {
    open(['overview'])
    core.handleEvent(event('update', { topic: 'overview', dropped: 0, data: 1 }, 's.9'), 1)
    let now = 1
    const pauses: number[] = []
    for (let attempt = 0; attempt < 8; attempt += 1) {
      core.handleClosed(0, now)
      const state = told(now, 'one').find((message) => message.kind === 'state')
      if (state?.kind !== 'state' || state.state.kind !== 'waiting') throw new Error('it does not wait')
      pauses.push(state.state.until - now)
      expect(acts(state.state.until - 1)).toEqual([])
      now = state.state.until
      expect(acts(now)).toEqual([{ do: 'connect', topics: ['overview'], lastId: 's.9' }])
    }
    expect(pauses).toEqual([1, 2, 4, 8, 16, 30, 30, 30].map((factor) => factor * PAUSE_FIRST))
    expect(Math.max(...pauses)).toBe(PAUSE_MAX)
    core.handleEvent(event('hello', { stream: 't', resumed: true, topics: ['overview'], missed: 4 }), now)
    expect(told(now, 'one')).toContainEqual({ kind: 'missed', count: 4 })
    core.handleClosed(200, now)
    expect(told(now, 'one')).toContainEqual({ kind: 'state', state: { kind: 'waiting', until: now + PAUSE_FIRST, reason: 'the hub cannot be reached' } })
  })

  test('a session that is over is not knocked at again until somebody signs in', () => {
    open(['overview'])
    core.handleEvent(event('bye', { reason: 'expired' }), 1)
    core.handleClosed(200, 1)
    expect(acts(1)).toEqual([])
    expect(acts(10 * PAUSE_MAX)).toEqual([])
    core.handleJoin('one')
    expect(acts(10 * PAUSE_MAX).map((step) => step.do)).toEqual(['connect'])
  })

  test('a stream that falls silent is given up', () => {
    open(['overview'])
    core.handleSign(1_000)
    expect(acts(1_000 + SILENCE_MAX)).toEqual([])
    expect(acts(1_001 + SILENCE_MAX).map((step) => step.do)).toEqual(['disconnect'])
  })

  test('without tabs there is no stream', () => {
    open(['overview'])
    core.handleLeave('one', 5)
    expect(acts(5)).toEqual([])
    expect(acts(5 + LINGER).map((step) => step.do)).toContain('disconnect')
  })

  test('a refused filter is told to its tab, the rest goes on', () => {
    core.handleJoin('one')
    core.handleTopics('one', ['device:a', 'telemetry:a?x ='], 0)
    steps(0)
    core.handleTopicsRefused(400, 'a value is missing at position 4')
    expect(told(0, 'one')).toContainEqual({ kind: 'gone', topic: 'telemetry:a?x =', reason: 'a value is missing at position 4' })
    core.handleClosed(400, 0)
    steps(0)
    expect(acts(PAUSE_FIRST)).toEqual([{ do: 'connect', topics: ['device:a'], lastId: '' }])
  })

  test('topics that are refused for another reason are not asked for again', () => {
    open(['overview'])
    core.handleTopics('one', ['device:a', 'overview'], 1)
    expect(acts(1).map((step) => step.do)).toEqual(['topics'])
    core.handleTopicsRefused(400, 'no')
    expect(told(1, 'one').map((message) => message.kind)).toEqual(['gone', 'gone'])
    expect([1, 2, 3].flatMap((now) => acts(now)).length).toBeLessThanOrEqual(1)
  })

  test('the hub is never asked for more topics than it takes, those in use come first', () => {
    const many = (name: string): string[] => Array.from({ length: TOPICS_MAX - 1 }, (_, index) => `device:${name}${index}`)
    open(many('a'))
    core.handleTopics('one', many('b'), 1)
    const [step] = acts(1)
    if (step?.do !== 'topics') throw new Error('the topics do not change')
    expect(step.topics).toHaveLength(TOPICS_MAX)
    expect(step.topics).toEqual(expect.arrayContaining(many('b')))
  })
})
