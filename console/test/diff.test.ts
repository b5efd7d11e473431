import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { applyPatch, changes, clashes, mergePatch, pathText } from '../src/pure/diff'
import { equal, type Json, type JsonObject } from '../src/pure/json'

const key = fc.constantFrom('a', 'b', 'c', '__proto__', 'constructor')
/** Documents as twins hold them: no nulls. */
const tree = fc.letrec<{ value: Json; object: JsonObject }>((tie) => ({
  value: fc.oneof({ depthSize: 'small' }, fc.integer(), fc.string({ maxLength: 3 }), fc.boolean(), fc.array(fc.integer(), { maxLength: 3 }), tie('object')),
  object: fc.dictionary(key, tie('value'), { maxKeys: 3, noNullPrototype: true }),
}))

describe('a merge patch', () => {
  test('makes the old document the new one', () => {
    fc.assert(
      fc.property(tree.object, tree.object, (before, after) => {
        const patch = mergePatch(before, after)
        const made = patch === undefined ? before : applyPatch(before, patch)
        expect(equal(made, after)).toBe(true)
      }),
      { numRuns: 500 },
    )
  })

  test('is absent exactly when nothing changed', () => {
    fc.assert(
      fc.property(tree.object, tree.object, (before, after) => {
        expect(mergePatch(before, after) === undefined).toBe(equal(before, after))
      }),
    )
  })

  test.each<[string, JsonObject, JsonObject, JsonObject | undefined]>([
    ['deletes by null', { a: 1, b: 2 }, { a: 1 }, { b: null }],
    ['goes down into objects', { a: { x: 1, y: 2 } }, { a: { x: 1, y: 3 } }, { a: { y: 3 } }],
    ['sends lists whole', { a: [1, 2] }, { a: [1, 3] }, { a: [1, 3] }],
    ['replaces an object by a value', { a: { x: 1 } }, { a: 5 }, { a: 5 }],
    ['keeps an empty object', {}, { a: {} }, { a: {} }],
    ['says nothing about the order of keys', { a: 1, b: 2 }, { b: 2, a: 1 }, undefined],
  ])('%s', (_, before, after, expected) => expect(mergePatch(before, after)).toEqual(expected))
})

describe('changes', () => {
  test('there are some exactly when documents differ', () => {
    fc.assert(
      fc.property(tree.object, tree.object, (before, after) => {
        expect(changes(before, after).length === 0).toBe(equal(before, after))
      }),
    )
  })

  test('name each leaf with both values', () => {
    const found = changes({ a: { x: 1, gone: true }, list: [1] }, { a: { x: 2, made: 'm' }, list: [1, 2] })
    expect(found.map((change) => [pathText(change.path), change.kind, change.before, change.after])).toEqual([
      ['a.x', 'changed', 1, 2],
      ['a.made', 'added', undefined, 'm'],
      ['a.gone', 'removed', true, undefined],
      ['list', 'changed', [1], [1, 2]],
    ])
  })
})

describe('changes of two people', () => {
  const base = { a: 1, b: { c: 2, d: 3 }, e: 4 }
  test.each([
    ['do not clash on different keys', { ...base, a: 9 }, { ...base, e: 9 }, []],
    ['clash on the same key', { ...base, a: 8 }, { ...base, a: 9 }, [['a']]],
    ['do not clash where both did the same', { ...base, a: 9 }, { ...base, a: 9 }, []],
    ['clash where one removed what the other changed within', { a: 1, e: 4 }, { ...base, b: { c: 5, d: 3 } }, [['b']]],
    ['do not clash beside each other in one object', { ...base, b: { c: 5, d: 3 } }, { ...base, b: { c: 2, d: 6 } }, []],
  ])('%s', (_, theirs, mine, expected) => {
    expect(clashes(changes(base, theirs), changes(base, mine))).toEqual(expected)
  })
})
