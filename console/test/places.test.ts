import fc from 'fast-check'
import { expect, test } from 'vitest'

import { lineOf, Mistake, pathKey, readPlaces } from '../src/pure/places'

test('reads what JSON.parse reads', () => {
  fc.assert(
    fc.property(fc.json(), fc.constantFrom(0, 2), (text, indent) => {
      const value: unknown = JSON.parse(text)
      const source = JSON.stringify(value, null, indent)
      expect(JSON.stringify(readPlaces(source).value)).toBe(JSON.stringify(value))
    }),
  )
})

test('refuses what JSON.parse refuses', () => {
  fc.assert(
    fc.property(fc.json(), fc.nat(), fc.constantFrom(',', '}', '"', ']', ':', 'x', ''), (text, where, sign) => {
      const at = where % (text.length + 1)
      const broken = text.slice(0, at) + sign + text.slice(at + 1)
      let fine = true
      try {
        JSON.parse(broken)
      } catch {
        fine = false
      }
      const read = (): unknown => readPlaces(broken)
      if (fine) {
        // A key that is there twice is the one thing that is refused in addition.
        try {
          read()
        } catch (error) {
          expect(String(error)).toContain('twice')
        }
      } else expect(read).toThrow(Mistake)
    }),
    { numRuns: 1000 },
  )
})

test('a path leads to its key', () => {
  const text = '{\n  "a": { "b.c": [1, { "d": 2 }] }\n}'
  const { places } = readPlaces(text)
  const at = (...path: string[]): string => {
    const place = places.get(pathKey(path))
    return place ? text.slice(place.from, place.to) : '(none)'
  }
  expect(at('a')).toBe('"a"')
  expect(at('a', 'b.c')).toBe('"b.c"')
  expect(at('a', 'b.c', '0')).toBe('1')
  expect(at('a', 'b.c', '1', 'd')).toBe('"d"')
  expect(lineOf(text, places.get(pathKey(['a']))?.from ?? 0)).toEqual({ line: 2, column: 3 })
})

test.each([
  ['{"a": 1,}', 1, 9, 'a property is missing after the comma'],
  ['{"a" 1}', 1, 6, 'a colon is missing'],
  ['{\n "a": 1\n "b": 2}', 3, 2, 'a comma or } is missing'],
  ['{"a": yes}', 1, 7, 'yes is no value; text needs double quotes'],
  ["{'a': 1}", 1, 2, 'a key in double quotes is missing'],
  ['{"a": "x}', 1, 7, 'the closing quote'],
  ['{"a": 1', 1, 7, 'the text ends before }'],
  ['{"a": 1, "a": 2}', 1, 10, 'the key "a" is there twice'],
  ['{} x', 1, 4, 'nothing may follow'],
])('%s is wrong at line %i, column %i', (text, line, column, words) => {
  try {
    readPlaces(text)
    expect.unreachable('it was taken')
  } catch (error) {
    if (!(error instanceof Mistake)) throw error
    expect(error.message).toContain(words)
    expect(lineOf(text, error.at)).toEqual({ line, column })
  }
})
