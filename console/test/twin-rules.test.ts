import { readFileSync } from 'node:fs'

import { expect, test } from 'vitest'

import type { Json, JsonObject } from '../src/pure/json'
import { acknowledgements, twinFaults } from '../src/pure/twin-rules'

/** The table that model, hub and router are held against: `fault section values`, `<T*n>` is T, n times. */
const CASES = readFileSync(new URL('../../crates/model/cases/twin-limits.txt', import.meta.url), 'utf8')
  .split('\n')
  .filter((line) => line !== '' && !line.startsWith('#'))
  .map((line) => {
    const [, fault = '', section = '', text = ''] = /^(\S+) +(\S+) +(.*)$/u.exec(line) ?? []
    const values = JSON.parse(text.replace(/<([^<>]*)\*(\d+)>/gu, (_, unit: string, times: string) => unit.repeat(Number(times)))) as JsonObject
    return { fault, section, text, values }
  })

const WORDS: Record<string, string> = {
  levels: 'deeper than 10',
  null: 'a value in a list cannot be null',
  key: 'a key cannot',
  'key-long': 'a key has at most 1024 bytes',
  text: 'the hub takes 4096',
  integer: 'is not between -4503599627370496 and 4503599627370495',
  size: 'the hub takes',
}

test.each(CASES.filter(({ section }) => section !== 'reported'))('the hub and the editor agree: $fault $section $text', ({ fault, section, values }) => {
  for (const each of ['tags', 'desired'] as const) {
    if (section !== 'any' && section !== each) continue
    const messages = twinFaults(each, values).map(({ message }) => message)
    if (fault === 'ok') expect(messages).toEqual([])
    else expect(messages.join('\n')).toContain(WORDS[fault])
  }
})

test.each<[string, 'tags' | 'desired', Json, string | undefined]>([
  ['an object is fine', 'desired', { a: { b: [1, 'x', true] } }, undefined],
  ['a list is no section', 'desired', [], 'must be an object'],
  ['dots', 'tags', { 'a.b': 1 }, 'a key cannot contain "."'],
  ['dollars', 'desired', { a: { $b: 1 } }, 'a key cannot contain "$"'],
  ['blanks', 'desired', { 'a b': 1 }, 'a key cannot contain a blank'],
  ['nulls', 'desired', { a: null }, 'leave the property out'],
  ['control characters in keys', 'tags', { 'a\u0085': 1 }, 'a key cannot contain'],
  ['control characters in texts are fine', 'tags', { a: '\u0001' }, undefined],
  ['long keys', 'desired', { [`k${'ü'.repeat(512)}`]: 1 }, 'at most 1024 bytes'],
  ['half a character', 'desired', { a: 'x\ud800' }, 'half of a character'],
  ['half a character in a key', 'desired', { 'x\udc00': 1 }, 'half of a character'],
  ['a whole character of two halves is fine', 'desired', { a: '\ud83d\ude00' }, undefined],
  ['numbers that JSON cannot hold', 'desired', { a: Infinity }, 'send it as text'],
  ['long text', 'desired', { a: 'x'.repeat(4097) }, 'has 4097 bytes'],
  ['umlauts count by bytes', 'desired', { a: 'ü'.repeat(2049) }, 'has 4098 bytes'],
  ['great numbers', 'desired', { a: 2 ** 53 }, 'send it as text'],
  ['great tags', 'tags', { a: 'x'.repeat(4000), b: 'x'.repeat(4000), c: 'x'.repeat(400) }, 'the hub takes 8192'],
])('%s', (_, section, value, words) => {
  const faults = twinFaults(section, value)
  if (words === undefined) expect(faults).toEqual([])
  else expect(faults.map((fault) => fault.message).join('\n')).toContain(words)
})

test('the type that a module uses is its schema', () => {
  const reported = { threshold: { value: 3.5, ac: 203, av: 1 }, metrics: { value: null, ac: 203 }, other: 7 }
  expect(twinFaults('desired', { threshold: '5', metrics: ['cpu'], other: 'x' }, reported)).toEqual([
    { path: ['threshold'], severity: 'warning', message: 'is text; the module uses a number now' },
  ])
})

test('what a module says of each property is told', () => {
  const reported = {
    obeyed: { value: 5, ac: 200, av: 4 },
    refused: { value: 3, ac: 400, av: 4, ad: 'not above 0' },
    unset: { value: 10, ac: 203, av: 4 },
    late: { value: 1, ac: 200, av: 3 },
    same: { value: 1, ac: 200, av: 3 },
    temperature: 21,
  }
  const desired = { obeyed: 5, refused: -1, late: 2, same: 1 }
  const states = acknowledgements(desired, 4, reported).map(({ key, state }) => [key, state])
  expect(states).toEqual([
    ['obeyed', 'obeyed'],
    ['refused', 'refused'],
    ['unset', 'default'],
    ['late', 'waiting'],
    ['same', 'obeyed'],
  ])
})
