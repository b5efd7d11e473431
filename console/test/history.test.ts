import { describe, expect, test } from 'vitest'

import { withNews } from '../src/pure/history'

const page = (ids: number[], next: number | null) => ({ calls: ids.map((id) => ({ id })), next })

describe('the newest page of a history', () => {
  test.each([
    ['goes in front of what is held', [page([5, 4], 4), page([3], null)], page([7, 6, 5], 5), [page([7, 6, 5, 4], 4), page([3], null)]],
    ['changes nothing if nothing is new', [page([5, 4], 4)], page([5, 4], 4), [page([5, 4], 4)]],
    ['is all there is at first', [page([], null)], page([1], null), [page([1], null)]],
    ['replaces what it does not reach', [page([5, 4], 4), page([3], null)], page([99, 98], 98), [page([99, 98], 98)]],
    ['keeps what is held if it is the whole history', [page([2], null)], page([4, 3], null), [page([4, 3, 2], null)]],
  ])('%s', (_, held, newest, expected) => {
    expect(withNews(held, newest)).toEqual(expected)
  })

  test('leaves the very same pages where nothing is new, so that nothing is drawn anew', () => {
    const held = [page([5, 4], 4)]
    expect(withNews(held, page([5], 5))).toBe(held)
  })
})
