import { expect, test } from 'vitest'

import { query } from '../src/pure/query'

test('a query has no plus for a blank, every name as often as it is given, and nothing for what is absent', () => {
  expect(query([['tag', 'site=new york'], ['tag', 'a+b'], ['top', 5], ['after', undefined], ['search', '']])).toBe('tag=site%3Dnew%20york&tag=a%2Bb&top=5&search=')
  expect(query([])).toBe('')
})
