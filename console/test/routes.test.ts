import { describe, expect, test } from 'vitest'

import { carries, graph, placeDrops, sink, source, type Route } from '../src/pure/routes'

const route = (name: string, from: string, endpoint: string, condition: string | null = null): Route => ({ name, source: from, condition, endpoint, priority: 0, timeToLiveSecs: null })

describe('a source', () => {
  test.each([
    ['/messages/modules/sensor/outputs/readings', 'sensor', 'readings'],
    ['/messages/modules/sensor/outputs/*', 'sensor', null],
    ['/messages/modules/sensor/*', 'sensor', null],
    ['/Messages/Modules/Sensor/Outputs/A', 'Sensor', 'A'],
    ['/messages/*', null, null],
    ['/messages/modules/*', null, null],
    ['/*', null, null],
    ['/twinChangeNotifications', null, null],
  ])('%s', (text, module, output) => expect(source(route('r', text, '$upstream'))).toEqual({ module, output }))
})

test('an endpoint is the hub, or an input in either spelling', () => {
  expect(sink(route('r', '/*', '$upstream'))).toBeNull()
  expect(sink(route('r', '/*', 'anomaly/readings'))).toEqual({ module: 'anomaly', input: 'readings' })
  expect(sink(route('r', '/*', 'BrokeredEndpoint("/modules/anomaly/inputs/readings")'))).toEqual({ module: 'anomaly', input: 'readings' })
})

test('the pipeline is drawn as it is set', () => {
  const { nodes, edges } = graph(
    ['sensor', 'anomaly'],
    [route('up', '/messages/modules/sensor/outputs/*', '$upstream'), route('in', '/messages/modules/sensor/outputs/readings', 'anomaly/readings'), route('found', '/messages/modules/anomaly/*', '$upstream')],
  )
  expect(nodes.map((node) => [node.id, node.known])).toEqual([['sensor', true], ['anomaly', true], ['$upstream', true]])
  expect(edges.map((edge) => [edge.from, edge.to, edge.output, edge.input])).toEqual([
    ['sensor', '$upstream', null, null],
    ['sensor', 'anomaly', 'readings', 'readings'],
    ['anomaly', '$upstream', null, null],
  ])
})

test('a route from everywhere starts at each module, but brings none its own messages', () => {
  const { edges } = graph(['a', 'b'], [route('all', '/messages/*', 'b/in')])
  expect(edges.map((edge) => [edge.from, edge.to])).toEqual([['a', 'b']])
  expect(graph([], [route('all', '/*', '$upstream')]).edges.map((edge) => edge.from)).toEqual(['*'])
})

test('a module that only a route names is shown as missing', () => {
  const { nodes } = graph(['a'], [route('r', '/messages/modules/typo/*', 'gone/in')])
  expect(nodes.filter((node) => !node.known).map((node) => node.id)).toEqual(['gone', 'typo'])
})

test('an edge carries what its route listens to', () => {
  const [edge] = graph(['a'], [route('r', '/messages/modules/a/outputs/x', '$upstream')]).edges
  if (!edge) throw new Error('an edge is missing')
  expect([carries(edge, 'a', 'x'), carries(edge, 'a', 'y'), carries(edge, 'b', 'x')]).toEqual([true, false, false])
})

test('drops are shown at the one edge that leads to their endpoint, or else at the node', () => {
  const { edges } = graph(['a', 'b'], [route('in', '/messages/modules/a/*', 'b/in'), route('one', '/messages/modules/a/*', '$upstream'), route('two', '/messages/modules/b/*', '$upstream')])
  const ttl = (endpoint: string | null, total: number) => ({ endpoint, reason: endpoint === null ? 'no_route' : 'ttl_expiry', total })
  const placed = placeDrops(edges, [ttl('b/in', 3), ttl('$upstream', 4), ttl(null, 5), ttl('gone/in', 6), ttl('b/in', 0)])
  expect([...placed.edges]).toEqual([['in a', [ttl('b/in', 3)]]])
  expect([...placed.nodes]).toEqual([['$upstream', [ttl('$upstream', 4)]], ['gone', [ttl('gone/in', 6)]]])
  expect(placed.nowhere).toEqual([ttl(null, 5)])
})
